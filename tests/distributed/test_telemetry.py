"""What a run exports arrives where Prometheus asks for it."""

from __future__ import annotations

import re
import time
import urllib.request
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import ray
import torch
from ray.cluster_utils import Cluster

from omatg_ray.distributed.actor_set import ActorSet
from omatg_ray.distributed.event_loop import EventLoop
from omatg_ray.distributed.learner_group import LearnerGroup
from omatg_ray.distributed.telemetry import MEASURES
from omatg_ray.distributed.training_backend import RayTrainingBackend
from omatg_ray.distributed.worker_group import WorkerGroup
from omatg_ray.rl.settings import ObjectiveSettings
from omatg_ray.rl.signal import Signal
from omatg_ray.rl.work import WorkItem
from tests.distributed.test_failures import Clockwork

RUN = "a_run_to_be_looked_at"
SAMPLE = re.compile(r"^ray_(omatg_ray_\w+)\{(.*)\} (\S+)$")


def scraped() -> dict[tuple[str, str], float]:
    """What the agent of this process's node exports of the run, by name and by role or stage."""
    here = ray.get_runtime_context().get_node_id()
    node = next(node for node in ray.nodes() if node["NodeID"] == here)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics", timeout=30) as answer:
        lines = answer.read().decode().splitlines()
    found: dict[tuple[str, str], float] = {}
    for match in filter(None, map(SAMPLE.match, lines)):
        tags = dict(re.findall(r'(\w+)="([^"]*)"', match[2]))
        if tags["run"] == RUN:
            found[match[1], tags.get("role") or tags.get("stage") or ""] = float(match[3])
    return found


def eventually(loop: EventLoop, wanted: Callable[[dict[tuple[str, str], float]], bool]) -> dict[tuple[str, str], float]:
    """What is exported once it is as wanted, while the event loop goes on; Ray hands it on every ten seconds."""
    found: dict[tuple[str, str], float] = {}
    end = time.monotonic() + 90

    def arrived() -> bool:
        found.clear()
        found.update(scraped())
        assert time.monotonic() < end, found
        time.sleep(0.5)
        return wanted(found)

    loop.until(arrived)
    return found


def test_metrics_of_an_iteration_arrive_at_the_port_that_prometheus_asks(cluster: Cluster) -> None:
    hired: list[Any] = []

    def hire(_: int) -> Any:
        hired.append(ray.remote(Clockwork).options(num_cpus=0.1).remote())
        return hired[-1]

    loop = EventLoop()
    pools = {"rollout": WorkerGroup("rollout", loop, hire, 2), "reward": WorkerGroup("reward", loop, hire, 1)}
    learners = LearnerGroup(loop, hire, 1)
    learners.start()
    for role, count in (("rollout", 2), ("reward", 1)):
        pools[role].wait_for(count)
    model: Any = SimpleNamespace(learned=torch.nn.Module(), policy=lambda: SimpleNamespace(heads=()))
    training = RayTrainingBackend(ActorSet(loop, pools, learners, {}), model, ObjectiveSettings(), staleness=1, run=RUN)
    for iteration in range(2):
        training.submit([WorkItem(iteration, ((11, 17),), (0, 1), 2)] * 2, version=0)
    ray.kill(hired[2])
    lines = []
    for iteration in range(2):
        training.collect(iteration)
        training.learn(iteration, Signal(torch.zeros(1, dtype=torch.long), torch.zeros(1)))
        lines.append(training.timings())
    last = lines[-1]
    # Queues are those of the moment, and all else stays as long as the event loop goes on.
    training.submit([WorkItem(2, ((11, 17),), (0, 1), 2)] * 400, version=1)
    waiting, iteration_done = ("omatg_ray_requests_waiting", "reward"), ("omatg_ray_iteration", "")
    found = eventually(loop, lambda found: found.get(iteration_done) == 2 and found.get(waiting, 0.0) > 0)
    assert {name.removesuffix("_total") for name, _ in found} == set(MEASURES)
    # The update says that it took 0.2 s.
    seconds = 0.2 / (1 - last["idle_learner_0"])
    assert found["omatg_ray_trajectories_per_second", ""] == pytest.approx(4 / seconds, rel=0.05)
    expected = {
        ("omatg_ray_iteration", ""): 2,
        ("omatg_ray_staleness_versions", ""): 1,
        ("omatg_ray_invalid_share", ""): 0.5,
        ("omatg_ray_reward_mean", ""): 1.5,
        ("omatg_ray_idle_share", "rollout"): (last["idle_rollout_0"] + last["idle_rollout_1"]) / 2,
        ("omatg_ray_idle_share", "learner"): last["idle_learner_0"],
        ("omatg_ray_actors_ready", "rollout"): 2,
        ("omatg_ray_actors_ready", "reward"): 1,
        ("omatg_ray_actors_ready", "learner"): 1,
        ("omatg_ray_requests_running", "reward"): 2,
        ("omatg_ray_replaced_actors_total", "reward"): 1,
        ("omatg_ray_retried_requests_total", "reward"): sum(line["retried_reward"] for line in lines),
    }
    expected |= {
        ("omatg_ray_stage_seconds", stage): last[f"time_{stage}"] for stage in ("rollout", "reward", "learn", "weights")
    }
    assert {key: found.get(key) for key in expected} == pytest.approx(expected)
    assert ("omatg_ray_replaced_actors_total", "rollout") not in found
    for part in (*pools.values(), learners):
        part.close()
