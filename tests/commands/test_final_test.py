"""The test of base and best checkpoint at the end of a run."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path

import pytest
from ase.io import read

from omatg_ray.commands.train import TrainResult, train
from omatg_ray.evaluate.evaluation import Started
from omatg_ray.evaluate.evaluator import Evaluator
from omatg_ray.model.flow_model import FlowModel
from omatg_ray.model.sampling import Sampling
from omatg_ray.run.interrupt import Interrupted
from omatg_ray.train.loop import TrainLoop
from tests.commands.conftest import Command, Workshop


def test_the_final_test_goes_on_where_it_was_stopped(
    workshop: Workshop, base: Path, trained: TrainResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cases that are done are not evaluated again, and all files are those of a test without interruption."""
    run = tmp_path / "run"
    config = workshop.load(f"run={run}", f"base={base}")
    start, tested = Evaluator.start, list[str]()

    def stopping(self: Evaluator, model: FlowModel, sampling: Sampling, label: str = "") -> Started:
        if label:
            tested.append(label)
            if len(tested) == 2:
                os.kill(os.getpid(), signal.SIGINT)
        return start(self, model, sampling, label)

    monkeypatch.setattr(Evaluator, "start", stopping)
    with pytest.raises(Interrupted, match="before the test was finished .what is done of it stays.; resume with"):
        train(config, progress=False)
    assert len(tested) == 2
    assert len(list((run / "evaluation" / "cases").glob("*.json"))) == 2
    result = train(config, resume=True, progress=False)
    assert len(tested) == 3 and "policy noise" in tested[-1]
    assert result.rows == trained.rows
    evaluations = [f"evaluation/{name}.json" for name in ("before", "after", "after_noise")]
    for name in (*evaluations, *(f"structures/{name}.extxyz" for name in ("before", "after", "reference"))):
        assert (run / name).read_bytes() == (workshop.root / "trained" / name).read_bytes(), name
    assert not (run / "evaluation" / "cases").exists()


def test_the_final_test_has_a_size(workshop: Workshop, base: Path, tmp_path: Path, command: Command) -> None:
    run = tmp_path / "run"
    words = ("train", workshop.config, f"base={base}", f"run={run}", "iterations=1", "--quiet")
    dry = command(*words, "test.limit=2", "--dry-run")
    assert re.search(r"\n +in all about \d+\.\d min\n", dry.out)
    assert "for the test (3 x 2 crystals)" in dry.out and "for 2 validations of 2 crystals" in dry.out
    assert "no test" in command(*words, "test=false", "--dry-run").out
    none = command(*words, "test=false")
    assert none.code == 0 and "no test (test.limit is 0)" in none.out and "What to try next" in none.out
    assert not (run / "evaluation").exists() and "before evaluation" not in (run / "report.html").read_text()
    some = command("train", "--resume", run, "test.limit=2", "--quiet")
    assert some.code == 0, some.err
    assert "test split, 2 crystals, 4 grid points" in some.out
    ids = json.loads((run / "evaluation" / "before.json").read_text())["per_structure"]["id"]
    known = [atoms.info["material_id"] for atoms in read(run / "data" / "test.extxyz", ":")]
    assert ids == [str(known[0]), str(known[1])]
    assert len(read(run / "structures" / "reference.extxyz", ":")) == 2


def test_the_last_checkpoint_is_tested_where_the_best_one_is_the_base(
    workshop: Workshop, base: Path, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    words = ("train", workshop.config, f"base={base}", f"run={run}", "iterations=2", "test.limit=2", "--quiet")
    with monkeypatch.context() as patch:
        patch.setattr(TrainLoop, "_validate", lambda self, _: float(self.iteration))
        done = command(*words, "reward.weights={energy: 1, non_triclinic: 0.5}", "learner.lr=0.05")
    assert done.code == 0, done.err
    labels = ["base", "best is the base (iteration 0)", "last, 2 iterations; not better in validation"]
    lines = done.out.splitlines()
    assert all(any(line.startswith(label) for line in lines) for label in labels)
    (rewarded,) = (line for line in lines if line.startswith("reward  "))
    assert rewarded.endswith(f"  {labels[2]}")
    before, after, last = (json.loads((run / f"evaluation/{n}.json").read_text()) for n in ("before", "after", "last"))
    assert before["per_structure"] == after["per_structure"] != last["per_structure"]
    assert last["label"] == labels[2] and last["rewards"].keys() == before["rewards"].keys()
    assert (run / "report.html").read_text().count(labels[2]) >= 2
    assert len(read(run / "structures" / "last.extxyz", ":")) == 2
    suggested = done.out.partition("What to try next")[2]
    assert "train --resume" in suggested and "generate" not in suggested
    # Once a later one is better, that one is tested, and this row is gone.
    with monkeypatch.context() as patch:
        patch.setattr(TrainLoop, "_validate", lambda self, _: -float(self.iteration))
        done = command("train", "--resume", run, "iterations=4", "--quiet")
    assert done.code == 0, done.err
    assert "reinforced, 4 iterations" in done.out and "not better in validation" not in done.out
    assert not (run / "evaluation" / "last.json").exists() and not (run / "structures" / "last.extxyz").exists()
    assert "not better in validation" not in (run / "report.html").read_text()
