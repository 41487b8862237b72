"""A run does not depend on who works: weights and metrics of one process and of actors are the same, bit by bit."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from ray.cluster_utils import Cluster

from omatg_ray.commands.train import train
from omatg_ray.run.metrics import read_metrics
from omatg_ray.run.openmp import SPIN, SPINS
from omatg_ray.run.timeline import Timeline
from tests.distributed.conftest import CORES, SMALL, Nodes, Run, Workshop, run
from tests.run.test_openmp import needs_gnu_openmp, spins


@pytest.fixture(scope="session")
def two(workshop: Workshop, base: Path, cluster: Cluster) -> Run:
    """One rollout and one reward actor."""
    return run(workshop, base, "one_and_one", "ray.rollout.workers=1", "ray.learner.cpus=0.5")


@pytest.fixture(scope="session")
def many(workshop: Workshop, base: Path, cluster: Cluster) -> Run:
    """Three rollout and two reward actors, over both nodes."""
    actors = ["ray.rollout.workers=3", "ray.reward.workers=2", "ray.strategy=spread", "ray.in_flight=1"]
    return run(workshop, base, "three_and_two", *actors)


def assert_same(first: Run, second: Run) -> None:
    ours, theirs = first.weights(), second.weights()
    assert ours.keys() == theirs.keys()
    different = [name for name in ours if not torch.equal(ours[name], theirs[name])]
    assert not different
    assert first.lines() == second.lines()
    assert [row["metrics"] for row in first.result.rows] == [row["metrics"] for row in second.result.rows]
    assert [row["per_structure"] for row in first.result.rows] == [row["per_structure"] for row in second.result.rows]


def test_training_moved_the_weights(alone: Run) -> None:
    """What the other tests compare is not simply the start."""
    first, last = alone.weights("iteration_000000"), alone.weights()
    assert any(not torch.equal(first[name], last[name]) for name in first if name.startswith("policy."))


def test_one_rollout_and_one_reward_actor_give_what_one_process_gives(alone: Run, two: Run) -> None:
    assert_same(alone, two)


def test_three_rollout_and_two_reward_actors_give_what_one_process_gives(alone: Run, many: Run) -> None:
    assert_same(alone, many)


def test_shortcuts_give_the_same_with_actors(workshop: Workshop, base: Path, cluster: Cluster) -> None:
    keys = ["rollout.learn_from={transitions: 1}", "rollout.precision=bfloat16"]
    here = run(workshop, base, "shortcuts", *keys)
    there = run(workshop, base, "shortcuts_on_ray", *keys, "ray.rollout.workers=2", "ray.learner.cpus=0.5")
    assert_same(here, there)


def test_rollouts_run_on_both_nodes_and_the_learner_on_one(many: Run, cluster: Cluster) -> None:
    actors = json.loads((many.folder / "actors.json").read_text())
    nodes = {role: {actor["node_id"] for actor in actors if actor["role"] == role} for role in ("rollout", "learner")}
    assert nodes["rollout"] == {node["NodeID"] for node in ray.nodes() if node["Alive"]}
    assert len(nodes["rollout"]) == 2
    assert len(nodes["learner"]) == 1
    assert [actor["role"] for actor in actors] == ["learner"] + 3 * ["rollout"] + 2 * ["reward"]
    assert len({actor["pid"] for actor in actors}) == 6


def test_metrics_say_how_the_time_went(many: Run) -> None:
    lines = [line for line in read_metrics(many.folder / "metrics.jsonl") if line["kind"] == "train"]
    actors = [f"rollout_{i}" for i in range(3)] + [f"reward_{i}" for i in range(2)] + ["learner_0"]
    for line in lines:
        assert {name.removeprefix("idle_") for name in line if name.startswith("idle_")} == set(actors)
        assert all(0.0 <= line[f"idle_{actor}"] <= 1.0 for actor in actors)
        # Three items for three rollout actors; with one request each at a time, every one of them had one.
        assert all(line[f"idle_rollout_{index}"] < 1.0 for index in range(3))
        assert min(line["idle_reward_0"], line["idle_reward_1"]) < 1.0
        assert line["idle_learner_0"] < 1.0
        assert all(line[f"time_{stage}"] > 0 for stage in ("rollout", "reward", "learn", "weights"))
    assert lines[0]["startup_first_trajectory"] > lines[0]["startup_actors"] > 0
    assert not any("startup_actors" in line for line in lines[1:])


def test_the_last_iteration_is_in_the_timeline(many: Run) -> None:
    timeline = Timeline.read(many.folder / "timeline.json")
    last = [line for line in read_metrics(many.folder / "metrics.jsonl") if line["kind"] == "train"][-1]
    assert timeline.iteration == last["step"] == many.config.iterations
    assert [role for role, _ in timeline.actors] == 3 * ["rollout"] + 2 * ["reward"] + ["learner"]
    # Three items, each rolled out once and scored once, and one update by the learner.
    assert Counter(span.method for span in timeline.spans) == {"rollout": 3, "score": 3, "update": 1}
    assert all(span.start < span.end <= timeline.seconds for span in timeline.spans)
    for role, index in timeline.actors:
        worked = sum(span.end - span.start for span in timeline.spans if (span.role, span.actor) == (role, index))
        assert worked / timeline.seconds == pytest.approx(1 - last[f"idle_{role}_{index}"], abs=0.1)
    assert f"Iteration {timeline.iteration}, {timeline.seconds:.2f} s." in many.result.report.read_text()


@pytest.fixture(scope="module")
def fresh(workshop: Workshop, base: Path, cluster: Nodes) -> list[dict[str, Any]]:
    """Actors on a node that somebody else started, whose workers start as those of users' nodes do.

    Of this size is only that node, and it has nothing of the tests' environment on how threads wait.
    """
    share = [f"ray.{role}.cpus={CORES + 1}" for role in ("rollout", "reward", "learner")]
    with pytest.MonkeyPatch.context() as patch:
        for name in SPIN:
            patch.delenv(name, raising=False)
        patch.setenv("OMP_DISPLAY_ENV", "verbose")
        node = cluster.add_node(num_cpus=3 * (CORES + 1), object_store_memory=100 * 2**20, fresh=True)
    try:
        there = run(workshop, base, "fresh", "iterations=1", "ray.rollout.workers=1", *share)
    finally:
        cluster.remove_node(node)
    actors: list[dict[str, Any]] = json.loads((there.folder / "actors.json").read_text())
    assert {actor["role"] for actor in actors} == {"learner", "rollout", "reward"}
    assert {actor["node_id"] for actor in actors} == {node.node_id}
    return actors


def test_actors_import_only_what_they_need(fresh: list[dict[str, Any]]) -> None:
    for actor in fresh:
        assert "torch" in actor["imports"]
        if actor["role"] != "reward":
            assert not {"matgl", "pymatgen", "torch_geometric", "matplotlib", "ase"} & set(actor["imports"])


@needs_gnu_openmp
def test_threads_of_actors_spin_a_little_and_sleep_then(fresh: list[dict[str, Any]], cluster: Nodes) -> None:
    """They get tensors before they compute anything, and the runtime says what it goes by as it is loaded."""
    logs = Path(cluster.head_node.get_logs_dir_path())
    for actor in fresh:
        (log,) = logs.glob(f"worker-*-{actor['pid']}.err")
        assert spins(log.read_text()) == [SPINS]


def test_a_run_goes_on_with_other_workers(alone: Run, workshop: Workshop, base: Path, cluster: Cluster) -> None:
    """Started in one process for two iterations, resumed with actors, resumed in one process for the last."""
    name = workshop.root / "moving"
    train(workshop.load(f"run={name}", f"base={base}", *SMALL, "iterations=2"), progress=False)
    again = [f"run={name}", f"base={base}", *SMALL]
    train(workshop.load(*again, "iterations=3", "ray.rollout.workers=2"), resume=True, progress=False)
    config = workshop.load(*again, "iterations=4")
    moved = Run(config, train(config, resume=True, progress=False))
    assert all(torch.equal(value, moved.weights()[name]) for name, value in alone.weights().items())
    of_training = [line for line in alone.lines() if line["kind"] == "train"]
    assert [line for line in moved.lines() if line["kind"] == "train"] == of_training
