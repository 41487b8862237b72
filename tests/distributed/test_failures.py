"""Actors and nodes that go in mid-run: the run ends with the same weights and metrics, bit for bit."""

from __future__ import annotations

import json
import math
import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
import torch
from ray.cluster_utils import Cluster
from ray.exceptions import ObjectLostError

from omatg_ray.commands.train import train
from omatg_ray.distributed.actor_set import ActorSet, start_actors
from omatg_ray.distributed.evaluation_backend import RayEvaluationBackend
from omatg_ray.distributed.event_loop import EventLoop
from omatg_ray.distributed.failures import ObjectHandle, Timed
from omatg_ray.distributed.learner_group import LearnerGroup
from omatg_ray.distributed.settings import RaySettings
from omatg_ray.distributed.training_backend import RayTrainingBackend
from omatg_ray.distributed.weights import PublishedWeights
from omatg_ray.distributed.worker_group import WorkerGroup
from omatg_ray.distributed.workers import RewardWorker
from omatg_ray.errors import ClusterError, TrainingError
from omatg_ray.evaluate.backend import Block
from omatg_ray.model.flow_model import FlowModel
from omatg_ray.model.sampling import Sampling
from omatg_ray.reward.build import Scorers
from omatg_ray.reward.protocol import RewardResult
from omatg_ray.rl.scoring import ScoredItem
from omatg_ray.rl.settings import ObjectiveSettings
from omatg_ray.rl.signal import Signal
from omatg_ray.rl.work import WorkItem
from omatg_ray.run.metrics import read_metrics
from omatg_ray.run.versions import software
from tests.distributed.conftest import CORES, SMALL, Run, Workshop

SINGLE = (*SMALL, "rollout.groups_per_item=1")


def after_iterations(run: Path, count: int, act: Callable[[], None]) -> threading.Thread:
    """A thread that acts once a run has logged so many iterations."""

    def wait() -> None:
        metrics = run / "metrics.jsonl"
        while not (metrics.exists() and sum(line["kind"] == "train" for line in read_metrics(metrics)) >= count):
            time.sleep(0.02)
        act()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


class Owner:
    """Puts something into the object store, where it stays no longer than this actor."""

    def put(self, value: Any) -> tuple[int, list[Any]]:
        return os.getpid(), [ray.put(value)]


def lost_handle(value: Any) -> ObjectHandle:
    """Return a handle of something that was in the object store."""
    for _ in range(5):
        owner = ray.remote(Owner).options(num_cpus=0).remote()
        pid, (ref,) = ray.get(owner.put.remote(value))
        ray.kill(owner)
        deadline = time.monotonic() + 20
        while psutil.pid_exists(pid) and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(1.0)  # until its node has let go of what it owned; who asks before that may keep a copy
        try:
            ray.get(ref)
        except ObjectLostError:
            return ObjectHandle(ref)
    raise AssertionError("it is still there")


def replaced(run: Run, role: str) -> float:
    lines = read_metrics(run.folder / "metrics.jsonl")
    return sum(line.get(f"replaced_{role}", 0) for line in lines)


def assert_same_weights(first: Run, second: Run) -> None:
    ours, theirs = first.weights(), second.weights()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    assert first.lines() == second.lines()


@pytest.fixture(scope="module")
def undisturbed(workshop: Workshop, base: Path) -> Run:
    """Seven iterations in one process."""
    config = workshop.load(f"run={workshop.root / 'undisturbed'}", f"base={base}", *SINGLE, "iterations=7")
    return Run(config, train(config, progress=False))


# A reward actor is killed in test_reward_gradient.py.
@pytest.mark.parametrize("role", ["rollout", pytest.param("reward", marks=pytest.mark.long), "learner"])
def test_a_killed_actor_changes_nothing_but_the_time(
    role: str, undisturbed: Run, workshop: Workshop, base: Path, cluster: Cluster, tmp_path: Path
) -> None:
    words = [f"run={tmp_path / 'run'}", f"base={base}", *SINGLE, "iterations=7", "ray.rollout.workers=2"]
    killed: set[int] = set()

    def kill() -> None:
        actors = json.loads((tmp_path / "run" / "actors.json").read_text())
        killed.add(pid := next(actor["pid"] for actor in actors if actor["role"] == role))
        os.kill(pid, signal.SIGKILL)

    killer = after_iterations(tmp_path / "run", 2, kill)
    run = Run(config := workshop.load(*words), train(config, progress=False))
    killer.join(timeout=10)
    assert_same_weights(run, undisturbed)
    there = json.loads((run.folder / "actors.json").read_text())
    assert killed and there and not killed & {actor["pid"] for actor in there}
    assert replaced(run, role) == 1
    deadline = time.monotonic() + 10
    while not math.isclose(ray.available_resources()["CPU"], 2 * CORES):
        assert time.monotonic() < deadline, "its room was not given back"
        time.sleep(0.1)


def test_weights_that_are_lost_are_published_again(
    undisturbed: Run,
    workshop: Workshop,
    base: Path,
    cluster: Cluster,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """As with the node of the learner that has put them into the object store."""
    publish = PublishedWeights.publish

    def publish_and_lose(self: PublishedWeights, version: int, handle: Any = None) -> None:
        publish(self, version, handle)
        if version == 3:
            assert handle is not None
            self._handles[version] = lost_handle(self._model.learned.state_dict())

    monkeypatch.setattr(PublishedWeights, "publish", publish_and_lose)
    words = [f"run={tmp_path / 'run'}", f"base={base}", *SINGLE, "iterations=7", "ray.rollout.workers=2"]
    run = Run(config := workshop.load(*words), train(config, progress=False))
    assert_same_weights(run, undisturbed)
    lines = read_metrics(run.folder / "metrics.jsonl")
    assert sum(line.get("retried_rollout", 0) for line in lines) > 0
    assert "cannot get its input, which was lost" in caplog.text


def test_an_optimizer_that_is_lost_before_it_is_copied_ends_the_run_with_the_reason(cluster: Cluster) -> None:
    """With the node of the first learner, right after an update."""
    learners = LearnerGroup(EventLoop(), lambda _: ray.remote(Clockwork).options(num_cpus=0.1).remote(), 1)
    learners._optimizer = lost_handle({"step": torch.zeros(())}).ref
    with pytest.raises(ClusterError, match="state of the optimizer after the last update: .*before it was copied"):
        learners._start_again()
        learners.restore({}, learners.optimizer)
    learners.close()


def test_a_node_that_goes_and_another_that_comes_change_nothing_but_the_time(
    undisturbed: Run, workshop: Workshop, base: Path, cluster: Cluster, tmp_path: Path
) -> None:
    """With the node go rollout and reward actors, and the trajectories that they made."""
    node = cluster.add_node(num_cpus=3, object_store_memory=100 * 2**20)
    share = ("ray.rollout.workers=3", "ray.reward.workers=2", "ray.strategy=spread", "ray.learner.cpus=0.5")
    words = [f"run={tmp_path / 'run'}", f"base={base}", *SINGLE, "iterations=7", *share]

    config = workshop.load(*words)
    # Nodes are started in the main thread: they set signal handlers.
    with ThreadPoolExecutor(1) as other:
        future = other.submit(train, config, progress=False)
        reached = after_iterations(tmp_path / "run", 2, lambda: None)
        while reached.is_alive() and not future.done():
            time.sleep(0.1)
        cluster.remove_node(node)
        node = cluster.add_node(num_cpus=3, object_store_memory=100 * 2**20)
        try:
            run = Run(config, future.result(timeout=200))
        finally:
            cluster.remove_node(node)
    assert_same_weights(run, undisturbed)
    assert replaced(run, "rollout") + replaced(run, "reward") >= 1


def test_one_of_two_learners_is_killed(
    undisturbed: Run, workshop: Workshop, base: Path, cluster: Cluster, tmp_path: Path
) -> None:
    """Both are replaced, meet again, and repeat the update: as if nothing had been, or there were one learner."""
    words = [f"base={base}", *SINGLE, "iterations=5", "ray.rollout.workers=1", "ray.learner.workers=2"]

    def kill() -> None:
        actors = json.loads((tmp_path / "killed" / "actors.json").read_text())
        os.kill([actor["pid"] for actor in actors if actor["role"] == "learner"][1], signal.SIGKILL)

    killer = after_iterations(tmp_path / "killed", 2, kill)
    runs = []
    for name in ("killed", "calm"):
        config = workshop.load(f"run={tmp_path / name}", *words)
        runs.append(Run(config, train(config, progress=False)))
    killer.join(timeout=10)
    assert_same_weights(*runs)
    assert [replaced(run, "learner") for run in runs] == [1, 0]
    together, alone = (
        next(line for line in run.lines() if line.pop("kind") == "train") for run in (runs[0], undisturbed)
    )
    assert alone["grad_norm"] > 1e-3
    assert together == pytest.approx(alone, rel=1e-3, abs=1e-5)


def test_a_reward_that_kills_every_actor_ends_the_run_with_its_compositions(
    workshop: Workshop, base: Path, cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def deadly(self: RewardWorker, *_: Any) -> Timed:
        os._exit(1)

    monkeypatch.setattr(RewardWorker, "score", deadly)
    # Every actor that is started costs seconds; `test_worker_group.py` lets as many die as there are in earnest.
    monkeypatch.setattr("omatg_ray.distributed.worker_group.MAX_ATTEMPTS", 2)
    words = [f"run={tmp_path / 'run'}", f"base={base}", *SMALL, "iterations=3", "ray.rollout.workers=1"]
    with pytest.raises(
        TrainingError, match=r"(?s)^\d+ of 20 rewards failed in iteration 1 \(5% allowed\): .*checkpoint is"
    ):
        train(workshop.load(*words), progress=False)


def test_a_model_that_does_not_arrive_is_an_error_and_not_the_one_before(
    workshop: Workshop, base: Path, cluster: Cluster
) -> None:
    """Otherwise validation and the test would measure something else than they say."""
    model = FlowModel.load(base)
    block = Block(species=[[11, 17]], indices=[0], sampling=Sampling(3))
    settings = RaySettings.model_validate({"rollout": {"workers": 1}})
    roles = {"rollout": (model,), "reward": (Scorers(None, None), 10.0)}
    with start_actors(settings, roles, progress=False) as started:
        backend = RayEvaluationBackend(started, None)
        (first,) = backend.measure(model, [block])
        assert torch.equal(first.crystals.pos, block.generate(model)[0].pos)
        with pytest.raises(ClusterError, match=r"(?s)^rollout actor 0 failed:.*no attribute 'to'"):
            list(backend.measure("no model at all", [block]))  # type: ignore[arg-type]


ITEM = WorkItem(0, ((11, 17),), (0, 1), 2)


class Clockwork:
    """Answers everything with a trajectory of nothing, and says that it took a tenth of a second."""

    def info(self) -> Timed:
        return Timed({"software": software()}, 0.0)

    def rollout(self, *_: Any) -> tuple[int, int, Timed]:
        time.sleep(0.1)
        return 0, 0, Timed(None, 0.1)

    def score(self, *_: Any) -> Timed:
        time.sleep(0.3)
        result = RewardResult(torch.tensor([1.0, 2.0]), {"valid": torch.tensor([1.0, 0.0])})
        return Timed(ScoredItem(torch.ones(2, dtype=torch.bool), result, [(11, 17)] * 2), 0.3)

    def update(self, *_: Any) -> tuple[dict[str, Any], dict[str, Any], Timed]:
        time.sleep(0.2)
        return {}, {}, Timed({"loss": 1.0}, 0.2)


class Uneven(Clockwork):
    """One of several learners, which works longer the higher its rank."""

    def rendezvous(self) -> Timed:
        return Timed("here", 0.0)

    def join(self, _: str, rank: int, count: int) -> Timed:
        self.rank = rank
        return Timed(count, 0.0)

    def update(self, *_: Any) -> tuple[dict[str, Any], dict[str, Any], Timed]:
        return {}, {}, Timed({"rank": self.rank}, 0.25 * (1 + self.rank))


def test_every_learner_has_its_own_seconds_and_the_first_speaks_for_all(cluster: Cluster) -> None:
    learners = LearnerGroup(EventLoop(), lambda _: ray.remote(Uneven).options(num_cpus=0.1).remote(), 2)
    learners.start()
    learners.take_busy()
    assert learners.update([ITEM], [ray.put(None)], Signal(torch.arange(2))) == {"rank": 0}
    assert learners.take_busy() == {0: 0.25, 1: 0.5}
    assert sorted(span.actor for span in learners.take_spans() if span.method == "update") == [0, 1]
    learners.close()


def test_stages_and_idle_shares_add_up(base: Path, cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """One actor of each kind; two items, of 0.1 s to roll out and 0.3 s to judge each, and 0.2 s of learning."""

    def hire(_: int) -> Any:
        return ray.remote(Clockwork).options(num_cpus=0.1).remote()

    loop = EventLoop()
    pools = {role: WorkerGroup(role, loop, hire, 1) for role in ("rollout", "reward")}
    learners = LearnerGroup(loop, hire, 1)
    learners.start()
    training = RayTrainingBackend(
        ActorSet(loop, pools, learners, {"startup_cluster": 1.0}), FlowModel.load(base), ObjectiveSettings()
    )
    monkeypatch.setattr(training.model.learned, "load_state_dict", lambda weights: None)
    puts: list[Any] = []
    put = ray.put
    monkeypatch.setattr("omatg_ray.distributed.weights.ray.put", lambda value: puts.append(value) or put(value))
    for iteration in range(3):
        items = [WorkItem(iteration, ((11, 17),), (0, 1), 2)] * 2
        begin = time.perf_counter()
        training.submit(items, iteration)
        submitted = time.perf_counter() - begin
        training.collect(iteration)
        training.learn(iteration, Signal(torch.zeros(1, dtype=torch.long), torch.zeros(1)))
        timings = training.timings()
        if iteration == 0:
            continue  # the processes have started
        total = sum(timings[f"time_{stage}"] for stage in ("rollout", "reward", "learn", "weights"))
        # The actors may begin while items are still submitted, which is no stage.
        assert timings["time_rollout"] >= 0.2 - submitted
        # The first item is scored while the second rolls out.
        assert timings["time_reward"] >= 0.45
        assert timings["time_learn"] >= 0.2
        for role, busy in (("rollout", 0.2), ("reward", 0.6), ("learner", 0.2)):
            assert timings[f"idle_{role}_0"] == pytest.approx(1 - busy / total, abs=0.1)
    assert puts == []  # every new version is the object that the learner has put there
    for part in (*pools.values(), learners):
        part.close()
