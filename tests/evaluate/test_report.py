from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.io import write

from omatg_ray.errors import DataError
from omatg_ray.evaluate.report import write_report
from omatg_ray.run.folder import RunFolder


class Tables(HTMLParser):
    """Cells of every table of a page, row by row."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self._inside = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
            self._inside = True

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self._inside = False

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.tables[-1][-1][-1] += data


def evaluation(rng: np.random.Generator, label: str, **metrics: float | None) -> dict[str, Any]:
    relative = [*rng.normal(0.1, 0.1, 7).tolist(), None]
    return {
        "label": label,
        "steps": 50,
        "noise": "none",
        "seed": 4,
        "metrics": metrics,
        "per_structure": {
            "formula": ["NaCl"] * 8,
            "relative_energy": relative,
            "energy_per_atom": [None if e is None else e - 3.0 for e in relative],
            "valid": [e is not None for e in relative],
            "rmse": [0.0625, None] * 4,
        },
    }


def make_run(path: Path) -> Path:
    rng = np.random.default_rng(3)
    with RunFolder.create(path, resume=False) as run:
        run.config_path.write_text("seed: 4  # <seed>\n")
        run.versions_path.write_text('{"torch": "2.99"}')
        lines: list[dict[str, Any]] = [
            {"kind": "train", "step": step, "reward_mean": step * 0.1, "time_rollout": 2.0, "time_learn": 1.0 + step}
            for step in (1, 2, 3)
        ]
        lines += [
            {"kind": "validation", "step": s, "relative_energy_mean_capped": 1.0 - s, "rmse": None} for s in (0, 2)
        ]
        run.metrics_path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        run.save_checkpoint("iteration_000002", lambda path: None, keep=1)
        run.point_best("iteration_000002")
        run.evaluation.mkdir()
        run.structures.mkdir()
        before = evaluation(rng, "before", n=8, match_rate=0.375, rmse=0.15625, invalid_share=0.125)
        after = evaluation(rng, "after", n=8, match_rate=0.5, relative_energy_mean=-0.0331, relative_energy_median=None)
        for name, found in (("before", before), ("after", after), ("a_noisy", evaluation(rng, "<noisy>"))):
            (run.evaluation / f"{name}.json").write_text(json.dumps(found))
        for name in ("before", "after", "reference"):
            symbols = ["NaCl", "LiF", "KBr", "NaCl", "CsCl", "AgI", "RbF", "MgO"]
            write(run.structures / f"{name}.extxyz", [salt(symbol, rng) for symbol in symbols])
    return run.path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_run(tmp_path / "run")


@pytest.fixture(scope="module")
def complete(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run folder that lacks nothing, not to be changed, and its report."""
    folder = make_run(tmp_path_factory.mktemp("runs") / "a run <1>")
    path = write_report(folder)
    assert path == folder / "report.html"
    return folder, path.read_text()


def salt(symbols: str, rng: np.random.Generator) -> Atoms:
    return Atoms(symbols, scaled_positions=rng.random((2, 3)), cell=np.eye(3) * 4.0, pbc=True)


def test_table_holds_the_numbers_of_the_evaluations(complete: tuple[Path, str]) -> None:
    _, before, after, noisy = Tables(complete[1]).tables[0]
    assert before == ["before", "50 (49)", "none", "4", "8", "0.375", "0.156", "–", "–", "–", "–", "12.5%"]
    assert after == ["after", "50 (49)", "none", "4", "8", "0.500", "–", "–", "−0.033", "–", "–", "–"]
    assert noisy[0] == "<noisy>"


def test_times_of_the_stages(complete: tuple[Path, str]) -> None:
    assert Tables(complete[1]).tables[1][1:] == [["rollout", "2.00", "6", "3"], ["learn", "3.00", "9", "3"]]


def test_page_loads_nothing_and_escapes_names(complete: tuple[Path, str]) -> None:
    text = complete[1]
    assert "http" not in text and "@import" not in text and "<script" not in text and "<link" not in text
    assert not re.findall(r"""\bsrc=|url\((?!#)|href="(?!#)""", text)
    assert "<title>a run &lt;1&gt;</title>" in text and "&lt;seed&gt;" in text and "&lt;noisy&gt;" in text
    assert "prefers-color-scheme: dark" in text
    assert "2.99" in text


def test_crystals_are_those_of_even_rows_with_their_energies(complete: tuple[Path, str]) -> None:
    folder, text = complete
    assert re.findall(r"row (\d+)", text) == ["0", "1", "2", "5", "6", "7"]  # 7 formulas, 6 of them, the 4th left out
    after = json.loads((folder / "evaluation" / "after.json").read_text())["per_structure"]
    energy, relative = after["energy_per_atom"][0], after["relative_energy"][0]
    assert f"{energy:.3f} ({relative:+.3f})".replace("-", "−") in text
    assert "−3.000" in text  # the reference: energy less relative energy
    assert "RMSE 0.062" in text and "no match" in text and "invalid" in text


FILES = ("metrics.jsonl", "config.yaml", "versions.json", "before evaluation", "after evaluation")


def test_missing_and_damaged_files_are_named(complete: tuple[Path, str], folder: Path) -> None:
    names = [*FILES, *(f"structures/{name}.extxyz" for name in ("before", "after", "reference"))]
    complete_notes = complete[1].rpartition("Not in this run folder:")[2]
    assert not [name for name in names if name in complete_notes]
    files = [path for path in folder.rglob("*") if path.is_file() and "checkpoints" not in path.parts]
    assert len(files) == 10  # with the lock and a third evaluation
    for act in (lambda path: path.write_bytes(b"\xff\xfe damaged {\n\n"), Path.unlink):
        for path in files:
            act(path)
        text = write_report(folder).read_text()
        notes = text.rpartition("Not in this run folder:")[2]
        assert "<svg" not in text
        assert not [name for name in names if name not in notes]


def test_best_checkpoint_is_marked_and_numbers_are_read(complete: tuple[Path, str], folder: Path) -> None:
    assert "best (iteration 2)" in complete[1]
    (folder / "checkpoints" / "best").unlink()
    (folder / "structures" / "after.extxyz").unlink()
    changed = json.loads((folder / "evaluation" / "after.json").read_text())
    changed["metrics"]["match_rate"] = 0.625
    (folder / "evaluation" / "after.json").write_text(json.dumps(changed))
    text = write_report(folder).read_text()
    assert "best (iteration 2)" not in text
    assert Tables(text).tables[0][2][5] == "0.625"


def test_parts_of_an_evaluation_may_be_missing(folder: Path) -> None:
    (folder / "metrics.jsonl").unlink()
    (folder / "structures" / "before.extxyz").unlink()
    (folder / "evaluation" / "before.json").write_text('{"metrics": null, "per_structure": {"relative_energy": [NaN]}}')
    (folder / "evaluation" / "after.json").write_text("[1]")
    text = write_report(folder).read_text()
    assert Tables(text).tables[0][1] == ["before", *[""] * 3, *["–"] * 8]
    assert "after.json, which cannot be read" in text


def test_pretraining_run(tmp_path: Path) -> None:
    lines = [{"kind": "pretrain", "step": s, "loss": 1 / s, "val_loss": 2 / s, "lr": 1e-3} for s in (1, 2, 3)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    text = write_report(tmp_path).read_text()
    assert "3 epochs of pretraining" in text
    assert "<h3>Pretraining loss</h3>" in text and "<h3>Learning rate</h3>" in text
    assert "Reward" not in text and "before evaluation" not in text
    assert "numbers for “Pretraining loss of cells”" in text


def test_empty_folder_and_no_folder(tmp_path: Path) -> None:
    assert "<svg" not in write_report(tmp_path).read_text()
    with pytest.raises(DataError, match="there is no run folder"):
        write_report(tmp_path / "nothing")
