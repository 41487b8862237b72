"""A run does not depend on who works: weights and metrics of one process and of actors are the same, bit by bit."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
import ray
import torch
from ray.cluster_utils import Cluster

from omatg_ray.commands.train import train
from omatg_ray.run.metrics import read_metrics
from omatg_ray.run.timeline import Timeline
from tests.distributed.conftest import CORES, SMALL, Nodes, Run, Workshop, run


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
    keys = ["rollout.learn_from={steps: 1}", "rollout.precision=bfloat16"]
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
    # Three items, each rolled out once and judged once, and one update by the learner.
    assert Counter(span.method for span in timeline.spans) == {"rollout": 3, "judge": 3, "update": 1}
    assert all(span.start < span.end <= timeline.seconds for span in timeline.spans)
    for role, index in timeline.actors:
        worked = sum(span.end - span.start for span in timeline.spans if (span.role, span.actor) == (role, index))
        assert worked / timeline.seconds == pytest.approx(1 - last[f"idle_{role}_{index}"], abs=0.1)
    assert f"Iteration {timeline.iteration}, {timeline.seconds:.2f} s." in many.result.report.read_text()


def test_actors_import_only_what_they_need(workshop: Workshop, base: Path, cluster: Nodes) -> None:
    """On a node whose workers start as those of users' nodes do; of this size is only that one."""
    share = [f"ray.{role}.cpus={CORES + 1}" for role in ("rollout", "reward", "learner")]
    node = cluster.add_node(num_cpus=3 * (CORES + 1), object_store_memory=100 * 2**20, fresh=True)
    try:
        fresh = run(workshop, base, "fresh", "iterations=1", "ray.rollout.workers=1", *share)
    finally:
        cluster.remove_node(node)
    actors = json.loads((fresh.folder / "actors.json").read_text())
    assert {actor["role"] for actor in actors} == {"learner", "rollout", "reward"}
    assert {actor["node_id"] for actor in actors} == {node.node_id}
    for actor in actors:
        assert "torch" in actor["imports"]
        if actor["role"] != "reward":
            assert not {"matgl", "pymatgen", "torch_geometric", "matplotlib", "ase"} & set(actor["imports"])


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
