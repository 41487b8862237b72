from __future__ import annotations

import sys
from pathlib import Path

import pytest

from omatg_ray.commands.pretrain import pretrain
from omatg_ray.commands.train import train
from omatg_ray.run.metrics import read_metrics
from tests.commands.conftest import Command, Workshop
from tests.run.test_tracking import FakeRun, runs

__all__ = ["runs"]


def sent(run: FakeRun, kind: str) -> dict[float, set[str]]:
    """Names of the metrics of a kind, by step."""
    lines = ((line["step"], {name for name in line if name.startswith(f"{kind}/")}) for line in run.logged)
    return {step: names for step, names in lines if names}


def test_what_a_run_logs_is_sent(base: Path, workshop: Workshop, tmp_path: Path, runs: list[FakeRun]) -> None:
    words = ["tracking=[wandb]", "iterations=2"]
    train(workshop.load(f"run={tmp_path / 'better'}", f"base={base}", *words), progress=False)
    pretrain(workshop.load(f"run={tmp_path / 'base'}", *words), progress=False)
    reinforced, pretrained = runs
    assert reinforced.asked["name"] == "better" and reinforced.asked["config"]["rollout.group_size"] == 4
    lines = read_metrics(tmp_path / "better" / "metrics.jsonl")
    for kind in ("train", "validation"):
        assert sent(reinforced, kind) == {
            line["step"]: {f"{kind}/{name}" for name, value in line.items() if value is not None} - {f"{kind}/step"}
            - {f"{kind}/kind"}
            for line in lines
            if line["kind"] == kind
        }  # fmt: skip
    assert set(sent(pretrained, "pretrain")) == {2, 4, 6}
    assert [run.code for run in runs] == [0, 0]


@pytest.mark.parametrize("verb", ["train", "pretrain"])
def test_a_missing_package_is_refused_before_anything_is_written(
    verb: str, base: Path, workshop: Workshop, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)  # type: ignore[arg-type]
    words = [verb, workshop.config, f"base={base}", f"run={tmp_path / 'run'}", "tracking=[mlflow]"]
    command(*words).refuses("tracking: mlflow is not installed", "omatg-ray[mlflow]")
    assert not (tmp_path / "run").exists()


def test_other_names_are_refused(command: Command) -> None:
    command("train", "tracking=[neptune]").refuses("tracking", "'wandb' or 'mlflow'")
