"""Actors that only wait, so that an iteration consists of the controller, Ray, and the traffic between them."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import ray
import torch

from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.distributed.actor_set import ActorSet
from omatg_ray.distributed.event_loop import EventLoop
from omatg_ray.distributed.failures import ObjectHandle, Timed
from omatg_ray.distributed.learner_group import LearnerGroup
from omatg_ray.distributed.training_backend import RayTrainingBackend
from omatg_ray.distributed.worker_group import WorkerGroup
from omatg_ray.reward.protocol import RewardResult
from omatg_ray.rl.scoring import ScoredItem
from omatg_ray.rl.settings import AdvantageSettings, ObjectiveSettings, RolloutSettings
from omatg_ray.rl.trainer import Trainer
from omatg_ray.rl.work import WorkItem
from omatg_ray.run.versions import software

COMPOSITION = (56, 22, 8, 8, 8)


@dataclass(frozen=True)
class Waits:
    """Durations of each role, and sizes of its results.

    Attributes:
        rollout: Seconds per item.
        reward: Seconds per item.
        learn: Seconds per iteration.
        trajectory: Bytes of an item's trajectories.
        weights: Parameters of the policy, in float32.
    """

    rollout: float
    reward: float
    learn: float
    trajectory: int = 2_000_000
    weights: int = 1_000_000


class Model:
    """The part of a sampler that the backend needs."""

    def __init__(self, n_weights: int) -> None:
        self.learned = torch.nn.ParameterDict({"policy": torch.nn.Parameter(torch.zeros(n_weights))})

    def policy(self) -> Any:
        """Return a policy without networks."""
        return SimpleNamespace(heads=())


class WaitingWorker:
    """An actor that can play every role."""

    def __init__(self, waits: Waits) -> None:
        self.waits, self.key = waits, ""

    def info(self) -> Timed:
        about = {"pid": os.getpid(), "node_id": ray.get_runtime_context().get_node_id(), "software": software()}
        return Timed(about, 0.0)

    def rollout(self, item: WorkItem, weights: ObjectHandle, *_: Any) -> tuple[torch.Tensor, CrystalBatch, Timed]:
        start = time.perf_counter()
        if weights.key != self.key:
            ray.get(weights.ref)
            self.key = weights.key
        time.sleep(self.waits.rollout)
        n, atoms = len(item.seeds), len(COMPOSITION)
        species, counts = torch.tensor(COMPOSITION).repeat(n), torch.full((n,), atoms)
        crystals = CrystalBatch(species, torch.zeros(n * atoms, 3), torch.eye(3).repeat(n, 1, 1), counts)
        return torch.zeros(self.waits.trajectory // 4), crystals, Timed(None, time.perf_counter() - start)

    def score(self, crystals: CrystalBatch, *_: Any) -> Timed:
        start = time.perf_counter()
        time.sleep(self.waits.reward)
        n = len(crystals)
        result = RewardResult(torch.arange(n).double(), {})
        return Timed(
            ScoredItem(torch.ones(n, dtype=torch.bool), result, [COMPOSITION] * n), time.perf_counter() - start
        )

    def update(self, *_: Any) -> tuple[dict[str, Any], dict[str, Any], Timed]:
        start = time.perf_counter()
        time.sleep(self.waits.learn)
        weights = {"policy": torch.zeros(self.waits.weights)}
        return weights, {}, Timed({"loss": 0.0}, time.perf_counter() - start)

    def load(self, *_: Any) -> Timed:
        return Timed(None, 0.0)


@contextmanager
def waiting_trainer(
    waits: Waits, rollouts: int, rewards: int, settings: RolloutSettings, iterations: int
) -> Iterator[Trainer]:
    """Provide a trainer whose actors only wait, on the Ray that this process is connected to."""
    loop = EventLoop()

    def hire(_: int) -> Any:
        return ray.remote(WaitingWorker).options(num_cpus=0).remote(waits)

    pools = {
        "rollout": WorkerGroup("rollout", loop, hire, rollouts),
        "reward": WorkerGroup("reward", loop, hire, rewards),
    }
    learners = LearnerGroup(loop, hire, 1)
    try:
        learners.start()
        for pool, count in zip(pools.values(), (rollouts, rewards), strict=True):
            pool.wait_for(count)
        model: Any = Model(waits.weights)
        crew = RayTrainingBackend(
            ActorSet(loop, pools, learners, {}), model, ObjectiveSettings(), settings.max_staleness
        )
        yield Trainer(settings, [COMPOSITION], AdvantageSettings(), crew, seed=0, total=iterations)
    finally:
        learners.close()
        for pool in pools.values():
            pool.close()


def idle(lines: Sequence[dict[str, float]], role: str) -> float:
    """Return the mean idle share of a role's actors."""
    shares = [value for line in lines for name, value in line.items() if name.startswith(f"idle_{role}_")]
    return sum(shares) / len(shares)
