"""`scripts/overlay.py`: what it says of runs whose differences are known."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tests.conftest import ROOT

SCRIPT = ROOT / "scripts" / "overlay.py"
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def overlay() -> Callable[[list[str]], int]:
    main: Callable[[list[str]], int] = runpy.run_path(str(SCRIPT))["main"]
    return main


def log(steps: int = 4, seconds: float = 1.0) -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    lines: list[dict[str, Any]] = [{"kind": "validation", "step": 0, "match_rate": 0.1, "rmse": None}]
    for step in range(1, steps + 1):
        energy, kl = rng.normal(size=2).tolist()
        times = {"time_rollout": seconds * step, "startup_cluster": seconds}
        lines.append({"kind": "train", "step": step, "energy_mean": energy, "kl_pos": kl, **times})
    return lines


def make(path: Path, lines: list[dict[str, Any]], weights: dict[str, torch.Tensor] | None = None) -> str:
    path.mkdir(parents=True)
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if weights is not None:
        checkpoint = path / "checkpoints" / "iteration_000004"
        checkpoint.mkdir(parents=True)
        save_file(weights, checkpoint / "weights.safetensors")
        (path / "checkpoints" / "last").symlink_to(checkpoint.name)
    return str(path)


def rows(output: str) -> dict[str, list[str]]:
    """Cells of the printed table by kind and name of the metric."""
    cells = [line.split() for line in output.splitlines() if line.startswith(("  train ", "  validation "))]
    return {" ".join(row[:2]): row[2:] for row in cells}


def test_equal_runs_whatever_their_timings(overlay: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = [{**line, "idle_rollout_0": 0.5} if line["kind"] == "train" else line for line in log(seconds=2.0)]
    runs = [make(tmp_path / "one_process", log()), make(tmp_path / "ray", other)]
    assert overlay([*runs, "--require-identical"]) == 0
    output = capsys.readouterr().out
    assert "one_process and ray" in output and "all numbers are identical" in output
    assert rows(output) == {
        "validation match_rate": ["1", "0"],
        "validation rmse": ["1", "–"],
        "train energy_mean": ["4", "0"],
        "train kl_pos": ["4", "0"],
    }


def test_the_last_digit_counts(overlay: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = log()
    lines[3]["kl_pos"] = np.nextafter(lines[3]["kl_pos"], 9.0)
    runs = [make(tmp_path / "a", log()), make(tmp_path / "same", log()), make(tmp_path / "b", lines)]
    assert overlay(runs) == 0
    assert overlay([*runs, "--require-identical"]) == 1
    first, second = capsys.readouterr().out.split("a and b:")[:2]
    assert "all numbers are identical" in first
    assert "not identical: 1 metrics (*) differ or lack steps, first train kl_pos in step 3" in second
    expected = f"{abs(lines[3]['kl_pos'] - log()[3]['kl_pos']):.3g}"
    assert rows(second.split("a and same")[0])["train kl_pos"] == ["4", expected, "*"]
    assert rows(second)["train energy_mean"] == ["4", "0"]


@pytest.mark.parametrize("change", ["shorter", "null", "number", "absent", "more"])
def test_what_is_missing_is_a_difference(overlay: Any, tmp_path: Path, change: str) -> None:
    lines = log()
    if change == "shorter":
        lines.pop()
    elif change == "null":
        lines[2]["energy_mean"] = None
    elif change == "number":
        lines[0]["rmse"] = 0.5
    elif change == "absent":
        del lines[0]["rmse"]
    else:
        lines[4]["grad_norm"] = 1.0
    runs = [make(tmp_path / "a", log()), make(tmp_path / "b", lines)]
    assert overlay([*runs, "--require-identical"]) == 1
    assert overlay([*reversed(runs), "--require-identical"]) == 1


def test_largest_difference(overlay: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = log(6)
    lines[1]["energy_mean"] += 0.25
    lines[3]["energy_mean"] -= 1.5
    lines[5]["energy_mean"] += 9.0  # a step that the other run does not have
    overlay([make(tmp_path / "a", log()), make(tmp_path / "b", lines)])
    assert rows(capsys.readouterr().out)["train energy_mean"] == ["4", "1.5", "*"]


ZERO = {"b": torch.zeros(3), "a": torch.ones(2, 2, dtype=torch.float64)}


@pytest.mark.parametrize(
    ("other", "apart"),
    [
        (dict(reversed(ZERO.items())), None),
        ({**ZERO, "b": torch.tensor([0.0, -0.0, 0.0])}, "1 of 2 tensors differ, the first is weights.safetensors: b"),
        ({**ZERO, "b": torch.zeros(3, 1)}, "1 of 2 tensors"),
        ({**ZERO, "b": torch.zeros(3, dtype=torch.int32)}, "1 of 2 tensors"),
        ({**ZERO, "c": torch.zeros(0)}, "1 of 3 tensors"),
        ({"b": ZERO["b"]}, "1 of 2 tensors"),
    ],
)
def test_weights_bit_by_bit(
    overlay: Any, tmp_path: Path, other: dict[str, torch.Tensor], apart: str | None,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    runs = [make(tmp_path / "a", log(), ZERO), make(tmp_path / "b", log(), other)]
    assert overlay([*runs, "--weights", "--require-identical"]) == (0 if apart is None else 1)
    assert (apart or "all 2 tensors are identical") in capsys.readouterr().out
    assert overlay([*runs, "--require-identical"]) == 0


def test_picture(overlay: Any, tmp_path: Path) -> None:
    shorter, out = log(3), tmp_path / "figures" / "overlay.svg"
    runs = [make(tmp_path / "a" / "run", log()), make(tmp_path / "b" / "run", shorter), make(tmp_path / "c", log())]
    arguments = [*runs, "--out", str(out), "--metrics", "kl_pos,match_rate"]
    assert overlay(arguments) == 0
    first = out.read_bytes()
    root = ElementTree.fromstring(first)
    panels = [group for group in root.iter(f"{SVG}g") if str(group.get("id")).startswith("axes_")]
    assert len(panels) == 2
    for panel in panels:
        data = [
            path.get("d", "")
            for group in panel
            if str(group.get("id")).startswith("line2d")
            for path in group.findall(f"{SVG}path")
        ]
        assert len(data) == 3 and data[0] == data[2]
        assert (data[0] == data[1]) == (panel is panels[1])  # both validated before they started, and only then
    assert root.find(f".//{SVG}path[@style='fill: #ffffff']") is not None
    overlay(arguments)
    assert out.read_bytes() == first


def test_what_cannot_be_compared(overlay: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [make(tmp_path / "a", log()), make(tmp_path / "b", log(), ZERO)]
    damaged = make(tmp_path / "damaged", log(), ZERO)
    (tmp_path / "damaged/checkpoints/last/weights.safetensors").write_bytes(b"\x08")
    for arguments, message in (
        ([runs[0], str(tmp_path / "nothing")], "cannot read the metrics"),
        ([*runs, "--metrics", "kl_pos,kl_pso"], "no run logged kl_pso; there is match_rate, rmse, energy_mean, kl_pos"),
        ([make(tmp_path / "empty", []), make(tmp_path / "void", [])], "there is nothing"),
        ([*runs, "--weights"], "holds no weights"),
        ([runs[1], damaged, "--weights"], "cannot read the weights"),
    ):
        with pytest.raises(SystemExit) as stopped:
            overlay(arguments)
        assert stopped.value.code == 2
        assert message in capsys.readouterr().err


@pytest.mark.processes
def test_runs_as_documented(tmp_path: Path) -> None:
    lines = log()
    lines[1]["energy_mean"] += 1.0
    command = [sys.executable, str(SCRIPT), make(tmp_path / "a", log()), make(tmp_path / "b", lines)]
    environment = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, "--require-identical"], capture_output=True, text=True, env=environment)
    assert done.returncode == 1 and "not identical" in done.stdout and not done.stderr
