"""`scripts/studies/study_run.py`."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

import pytest

import omatg_ray as og
from omatg_ray.assets import crystals
from omatg_ray.crystal.read import read_dataset
from omatg_ray.crystal.write import write_structures


def test_a_run_ends_with_its_processor_time_of_which_validations_take_none() -> None:
    from study_run import ProcessorTime

    budget = ProcessorTime(0.2)
    budget.iterated(1, {})
    spend(0.3)
    assert budget.validated(1, {})["processor_seconds"] < 0.2
    budget.iterated(2, {})
    spend(0.3)
    with pytest.raises(og.StopRun, match="processor time"):
        budget.iterated(3, {})


def spend(seconds: float) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


@pytest.mark.long
def test_an_interrupted_run_goes_on_with_the_processor_time_it_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import study_run
    from study_run import SECONDS, ProcessorTime, finish

    class Killed(ProcessorTime):
        def iterated(self, iteration: int, metrics: Mapping[str, float]) -> None:
            super().iterated(iteration, metrics)
            if iteration == 3:
                raise KeyboardInterrupt

    dataset = read_dataset(crystals("val", "bundled-prototypes")).select([0, 10, 20])
    write_structures(tmp_path / "few.extxyz", dataset.crystals.to_structures())
    keys = [f"data.file={tmp_path / 'few.extxyz'}", "data.val_compositions=1", "data.test_compositions=1"]
    keys += ["base=bundled-prototypes", f"run={tmp_path / 'run'}", "iterations=4", "validation.every=2", "test=false"]
    keys += ["workers=0", "rollout.groups=1", "rollout.group_size=2", "rollout.steps=3"]
    config = og.Config.load(None, [*keys, "reward.weights={volume: 1}", "reward.volume.target=20"])
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(study_run, "ProcessorTime", Killed)
        finish(config, progress=False)
    assert not (tmp_path / "run" / "finished").exists()
    before = study_run.validations(tmp_path / "run")
    after = finish(config, progress=False)
    assert [row["step"] for row in before] == [0, 2] and [row["step"] for row in after] == [0, 2, 4]
    assert after[:2] == before
    assert after[2][SECONDS] > after[1][SECONDS] > 0.0
    monkeypatch.setattr(og, "train", lambda *_, **__: pytest.fail("a finished run was repeated"))
    assert finish(config) == after
