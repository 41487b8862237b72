"""Callbacks of `og.train` see a run, add to its log, and stop it cleanly."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

import omatg_ray as og
from omatg_ray.run.metrics import read_metrics
from tests.commands.conftest import Workshop


class Watch(og.Callback):
    """Notes what it is told, and stops after an iteration or at a validation."""

    def __init__(self, stop_after: int = 0, stop_at_validation: int = -1) -> None:
        self.stop_after, self.stop_at_validation = stop_after, stop_at_validation
        self.told: list[tuple[str, int]] = []

    def iterated(self, iteration: int, metrics: Mapping[str, float]) -> None:
        assert "reward_mean" in metrics
        self.told.append(("train", iteration))
        if iteration == self.stop_after:
            raise og.StopRun("seen enough")

    def validated(self, iteration: int, metrics: Mapping[str, float]) -> Mapping[str, float]:
        assert metrics["second_apart"] == 0 and "relative_energy_mean_capped" in metrics
        self.told.append(("validation", iteration))
        if iteration == self.stop_at_validation:
            raise og.StopRun
        return {"watched": 2.0 * iteration}


def lines(run: Path, kind: str) -> list[dict[str, float]]:
    return [line for line in read_metrics(run / "metrics.jsonl") if line["kind"] == kind]


@pytest.fixture
def config(workshop: Workshop, base: Path, tmp_path: Path) -> og.Config:
    return workshop.load(f"run={tmp_path / 'run'}", f"base={base}", "iterations=4", "validation.every=2")


def test_it_sees_every_iteration_and_validation_and_adds_to_the_log(config: og.Config) -> None:
    watch = Watch()
    og.train(config, progress=False, callback=watch)
    counted = [("train", 1), ("train", 2), ("validation", 2), ("train", 3), ("train", 4), ("validation", 4)]
    assert watch.told == [("validation", 0), *counted]
    logged = lines(Path(config.run), "validation")
    assert [line["watched"] for line in logged] == [0.0, 4.0, 8.0]
    assert not any("second_apart" in line for line in logged)


def test_a_stopped_run_is_validated_saved_and_tested_and_can_go_on(config: og.Config) -> None:
    run = Path(config.run)
    result = og.train(config, progress=False, callback=Watch(stop_after=3))
    assert len(result.rows) == 3 and Path(result.report).is_file()
    assert len(lines(run, "train")) == 3
    assert [line["step"] for line in lines(run, "validation")] == [0, 2, 3]
    assert (run / "checkpoints" / "last").resolve().name.endswith("3")
    og.train(config, resume=True, progress=False)
    assert [line["step"] for line in lines(run, "train")] == [1, 2, 3, 4]


def test_it_may_stop_at_the_validation_before_training(config: og.Config) -> None:
    result = og.train(config, progress=False, callback=Watch(stop_at_validation=0))
    assert result.iteration == 0 and not lines(Path(config.run), "train")
    assert og.FlowModel.load(result.model).description.active
