"""The controller: feeds rollout, reward and learner actors, one iteration at a time."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import ray
from torch import Tensor

from omatg_ray.distributed.pool import Published, Request, answers, fetch
from omatg_ray.distributed.staff import Staff
from omatg_ray.model import FlowModel
from omatg_ray.rl.crew import Samples
from omatg_ray.rl.judge import Judged
from omatg_ray.rl.work import WorkItem

STAGES = ("time_rollout", "time_reward", "time_learn", "time_weights")


class RayCrew:
    """A crew of actors. Trajectories stay in the object store; this process moves references to them.

    Args:
        staff: With rollout, reward and learner actors.
        model: This process's copy of the sampler; its weights follow the learner's.
        steps: Grid points of the rollouts.
        with_base: Whether they record the base's drift.
    """

    def __init__(self, staff: Staff, model: FlowModel, steps: int, with_base: bool) -> None:
        self.rollout, self.reward, self.learner = (staff.pools[role] for role in ("rollout", "reward", "learner"))
        self.model, self._steps, self._with_base = model, steps, with_base
        self._startup = dict(staff.startup)
        self._seconds = dict.fromkeys(STAGES, 0.0)
        self._began = time.perf_counter()
        self._weights = ray.put(model.network.state_dict())

    def sample(self, items: Sequence[WorkItem], version: int) -> Samples:
        """Rollouts; every item goes on to a reward actor as soon as it is there."""
        self._begin()
        weights = Published(version, self._weights)
        for index, item in enumerate(items):
            self.rollout.submit(Request(index, "rollout", (item, weights, self._steps, self._with_base), kept=2))
        trajectories: dict[int, Any] = {}
        judged: dict[int, Judged] = {}
        for pool, answer in answers(self.rollout, self.reward):
            if pool is self.rollout:
                trajectories[answer.index], crystals = answer.kept
                self.reward.submit(Request(answer.index, "judge", (crystals,)))
                self._sampled(len(trajectories), len(items))
            else:
                judged[answer.index] = answer.value
        self._count("time_reward")
        order = range(len(items))
        return Samples([trajectories[index] for index in order], [judged[index] for index in order])

    def learn(self, trajectories: Sequence[Any], counted: Tensor, advantage: Tensor) -> dict[str, float]:
        """The learner's update, and its weights to everybody by one `ray.put`."""
        self._lap = time.perf_counter()
        self.learner.submit(Request(0, "update", (counted, advantage, *trajectories), kept=1))
        ((_, answer),) = answers(self.learner)
        self._count("time_learn")
        weights = fetch(answer.kept[0], "the learner")
        self.model.network.load_state_dict(weights)
        self._weights = ray.put(weights)
        self._count("time_weights")
        metrics: dict[str, float] = answer.value
        return metrics

    def timings(self) -> dict[str, float]:
        """Seconds per stage as this process waits for it, the share of each actor's time without work, start-up."""
        elapsed = time.perf_counter() - self._began
        idle = {
            f"idle_{pool.role}_{index}": max(0.0, 1.0 - busy / elapsed)
            for pool in (self.rollout, self.reward, self.learner)
            for index, busy in enumerate(pool.take_busy())
        }
        timings = self._seconds | idle | self._startup
        self._seconds, self._startup = dict.fromkeys(STAGES, 0.0), {}
        return timings

    def state_dict(self) -> dict[str, Tensor]:
        state: dict[str, Tensor] = self._ask_learner("state_dict")
        return state

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self._ask_learner("load_state_dict", state)

    def _ask_learner(self, method: str, *arguments: Any) -> Any:
        self.learner.submit(Request(0, method, arguments))
        ((_, answer),) = answers(self.learner)
        return answer.value

    def _begin(self) -> None:
        """A new iteration; what the actors did since the last one, such as validation, is no part of it."""
        for pool in (self.rollout, self.reward, self.learner):
            pool.take_busy()
        self._began = self._lap = time.perf_counter()

    def _sampled(self, done: int, asked: int) -> None:
        if "startup_actors" in self._startup and "startup_first_trajectory" not in self._startup:
            waited = time.perf_counter() - self._began
            self._startup["startup_first_trajectory"] = waited + sum(self._startup.values())
        if done == asked:
            self._count("time_rollout")

    def _count(self, stage: str) -> None:
        """The time since the last call belongs to a stage."""
        now = time.perf_counter()
        self._seconds[stage] += now - self._lap
        self._lap = now
