"""Iterations sampled ahead: which weights sample what does not depend on who works, nor on where a run was stopped."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
import torch
from ray.cluster_utils import Cluster

from omatg_ray.commands.train import train
from tests.distributed.conftest import SMALL, Run, Workshop
from tests.distributed.test_failures import after_iterations, assert_same_weights, replaced

AHEAD = "rollout.max_staleness=2"


@pytest.fixture(scope="module")
def ahead(workshop: Workshop, base: Path) -> Run:
    """Six iterations in one process, two ahead."""
    config = workshop.load(f"run={workshop.root / 'ahead'}", f"base={base}", *SMALL, "iterations=6", AHEAD)
    return Run(config, train(config, progress=False))


def test_actors_give_what_one_process_gives(
    ahead: Run, workshop: Workshop, base: Path, cluster: Cluster, tmp_path: Path
) -> None:
    """Also where one of them is killed, with iterations on their way that older weights sample."""
    actors = ("ray.rollout.workers=2", "ray.reward.workers=2")

    def kill() -> None:
        known = json.loads((tmp_path / "run" / "actors.json").read_text())
        os.kill(next(actor["pid"] for actor in known if actor["role"] == "rollout"), signal.SIGKILL)

    killer = after_iterations(tmp_path / "run", 2, kill)
    config = workshop.load(f"run={tmp_path / 'run'}", f"base={base}", *SMALL, "iterations=6", AHEAD, *actors)
    run = Run(config, train(config, progress=False))
    killer.join(timeout=10)
    assert_same_weights(run, ahead)
    assert replaced(run, "rollout") == 1


def test_a_run_goes_on_with_the_older_weights_that_it_needs(
    ahead: Run, workshop: Workshop, base: Path, cluster: Cluster, tmp_path: Path
) -> None:
    """Stopped after three iterations in one process, resumed with actors for one more, and alone for the rest."""
    words = [f"run={tmp_path / 'run'}", f"base={base}", *SMALL, AHEAD]
    train(workshop.load(*words, "iterations=3"), progress=False)
    train(workshop.load(*words, "iterations=4", "ray.rollout.workers=1"), resume=True, progress=False)
    config = workshop.load(*words, "iterations=6")
    moved = Run(config, train(config, resume=True, progress=False))
    ours, theirs = moved.weights(), ahead.weights()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


def test_only_what_is_sampled_with_older_weights_is_off_policy(ahead: Run) -> None:
    """The first three iterations are sampled with the start's weights; ratios are 1 where nothing was learned since."""
    lines = [line for line in ahead.lines() if line["kind"] == "train"]
    assert lines[0]["log_ratio_max"] < 1e-3
    assert all(line["log_ratio_max"] > 1e-2 for line in lines[2:])
    assert any(name.startswith("version.4.") for name in ahead.weights())
    assert any(name.startswith("version.5.") for name in ahead.weights())
    assert not any(name.startswith(("version.3.", "version.6.")) for name in ahead.weights())
