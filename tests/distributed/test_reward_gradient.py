"""Reward gradients and a replay are learned from alike, whoever works, dies, or goes on where a run was stopped."""

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

BY_GRADIENT = (
    *SMALL,
    "objective.reward_gradient={transitions: 2, distance: 0.1}",
    "objective.flow_matching={crystals: 5}",
    "objective.replay={crystals: 3, relax: 2, temperature: 0.1}",
    "rollout.group_size=1",
    "policy.acts_from=0.3",
    "rollout.max_staleness=1",
    "iterations=5",
)
BY_REPLAY = (
    *SMALL,
    "objective.replay={crystals: 3, relax: 2}",
    "objective.policy_weight={pos: 0, cell: 0}",
    "rollout.group_size=3",
    "iterations=3",
)


@pytest.fixture(scope="module")
def here(workshop: Workshop, base: Path) -> Run:
    """Five iterations in one process, one ahead."""
    config = workshop.load(f"run={workshop.root / 'by_gradient'}", f"base={base}", *BY_GRADIENT)
    return Run(config, train(config, progress=False))


def test_it_learns(here: Run) -> None:
    """What the other tests compare is not simply the start, and nothing was compared within groups."""
    first, last = here.weights("iteration_000000"), here.weights()
    assert any(not torch.equal(first[name], last[name]) for name in first if name.startswith("policy."))
    lines = [line for line in here.lines() if line["kind"] == "train"]
    assert all(line["gradient_size"] > 0 and "groups_skipped" not in line for line in lines)
    assert all(line["matching_pos"] > 0 and line["replay_pos"] > 0 for line in lines)
    assert 0 < lines[0]["replay_crystals"] < lines[-1]["replay_crystals"]
    # The base itself in the first epoch of the first iteration, and then further and further away.
    assert 0 < lines[0]["velocity_distance"] < lines[-1]["velocity_distance"]


def test_actors_give_what_one_process_gives_even_if_some_die(
    here: Run, workshop: Workshop, base: Path, cluster: Cluster, tmp_path: Path
) -> None:
    actors = ("ray.rollout.workers=2", "ray.reward.workers=2", "ray.learner.cpus=0.5")

    def kill() -> None:
        known = json.loads((tmp_path / "run" / "actors.json").read_text())
        for role in ("reward", "rollout"):
            os.kill(next(actor["pid"] for actor in known if actor["role"] == role), signal.SIGKILL)

    killer = after_iterations(tmp_path / "run", 2, kill)
    config = workshop.load(f"run={tmp_path / 'run'}", f"base={base}", *BY_GRADIENT, *actors)
    there = Run(config, train(config, progress=False))
    killer.join(timeout=10)
    assert_same_weights(there, here)
    assert replaced(there, "reward") == 1 and replaced(there, "rollout") == 1


def test_a_replay_alone_is_learned_from_on_actors_as_in_one_process(
    workshop: Workshop, base: Path, cluster: Cluster, tmp_path: Path
) -> None:
    runs = []
    for name, actors in (("here", ()), ("there", ("ray.rollout.workers=2", "ray.reward.workers=1"))):
        config = workshop.load(f"run={tmp_path / name}", f"base={base}", *BY_REPLAY, *actors)
        runs.append(Run(config, train(config, progress=False)))
    assert_same_weights(*runs)
    first, last = runs[0].weights("iteration_000000"), runs[0].weights()
    assert any(not torch.equal(first[name], last[name]) for name in first if name.startswith("policy."))
    assert all("loss" not in line for line in runs[0].lines() if line["kind"] == "train")


def test_a_run_goes_on_exactly_elsewhere(
    here: Run, workshop: Workshop, base: Path, cluster: Cluster, tmp_path: Path
) -> None:
    words = [f"run={tmp_path / 'run'}", f"base={base}", *BY_GRADIENT]
    train(workshop.load(*words, "iterations=3"), progress=False)
    config = workshop.load(*words, "ray.rollout.workers=1")
    there = Run(config, train(config, resume=True, progress=False))
    ours, theirs = there.weights(), here.weights()
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_learners_share_an_update(here: Run, workshop: Workshop, base: Path, cluster: Cluster, tmp_path: Path) -> None:
    """Two learners add up their parts in another order than one; Adam makes rounding visible."""
    actors = ("ray.rollout.workers=1", "ray.learner.workers=2", "ray.learner.cpus=0.5")
    config = workshop.load(f"run={tmp_path / 'run'}", f"base={base}", *BY_GRADIENT, *actors)
    there = Run(config, train(config, progress=False))
    ours, theirs = there.weights(), here.weights()
    first = here.weights("iteration_000000")
    moved = max(float((theirs[name] - first[name]).abs().max()) for name in theirs if name.startswith("policy."))
    # Adam hides the size of a gradient; its norm does not.
    found, expected = (next(line for line in run.lines() if line.pop("kind") == "train") for run in (there, here))
    assert found == pytest.approx(expected, rel=1e-3, abs=1e-5)
    for name in (name for name in theirs if name.startswith("policy.")):
        torch.testing.assert_close(ours[name], theirs[name], rtol=0, atol=0.05 * moved)
