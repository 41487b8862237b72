"""Who does the work of an iteration: the interface that the trainer knows, and the crew that is this process alone."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from omatg_ray.crystal.base import BaseDistribution
from omatg_ray.reward.protocol import Reward
from omatg_ray.rl.judge import Judged, judge
from omatg_ray.rl.learner import Learner
from omatg_ray.rl.trajectory import Trajectory
from omatg_ray.rl.work import WorkItem, run_item


@dataclass(frozen=True)
class Samples:
    """Rolled out and judged items, in their order.

    Attributes:
        trajectories: What the crew that made them learns from: trajectories, or references to them.
        judged: Their rewards.
    """

    trajectories: Sequence[Any]
    judged: Sequence[Judged]


class Crew(Protocol):
    """Does the work of an iteration, somewhere."""

    def sample(self, items: Sequence[WorkItem], version: int) -> Samples:
        """Rolls out and judges items with the present weights, which are those after `version` iterations."""
        ...

    def learn(self, trajectories: Sequence[Any], counted: Tensor, advantage: Tensor) -> dict[str, float]:
        """Updates the weights.

        Args:
            trajectories: Of `Samples`.
            counted: Indices (b,) of the structures to learn from, over all items.
            advantage: Their advantages (b,).

        Returns:
            The metrics of `Learner.update`.

        Raises:
            TrainingError: As `Learner.update`.
        """
        ...

    def timings(self) -> dict[str, float]:
        """Seconds per stage (`time_*`) since the last call, and whatever else is known of how the time went."""
        ...

    def state_dict(self) -> dict[str, Tensor]:
        """The learner's state beside the weights, on the CPU."""
        ...

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Inverse of `state_dict`."""
        ...


class LocalCrew:
    """Works in this process, stage by stage.

    Args:
        learner: Owns the policy that samples.
        base: Distribution of x_0.
        reward: Judges the crystals.
        steps: Grid points.
        device: Where rollouts run.
    """

    def __init__(
        self, learner: Learner, base: BaseDistribution, reward: Reward, steps: int, device: torch.device
    ) -> None:
        self.learner, self.base, self.reward, self.steps, self.device = learner, base, reward, steps, device
        self._seconds = dict.fromkeys(("time_rollout", "time_reward", "time_learn"), 0.0)

    def rollout(self, item: WorkItem, version: int, steps: int | None = None) -> Trajectory:
        """One item; with another number of grid points for estimates."""
        policy, objective = self.learner.policy, self.learner.objective
        with_base = objective.needs_base(policy)
        return run_item(item, policy, self.base, steps or self.steps, with_base, self.device, version)

    def sample(self, items: Sequence[WorkItem], version: int) -> Samples:
        start = self._now()
        trajectories = [self.rollout(item, version) for item in items]
        start = self._count("time_rollout", start)
        judged = [
            judge(trajectory.final(), self.reward, item.group_size)
            for item, trajectory in zip(items, trajectories, strict=True)
        ]
        self._count("time_reward", start)
        return Samples(trajectories, judged)

    def learn(self, trajectories: Sequence[Trajectory], counted: Tensor, advantage: Tensor) -> dict[str, float]:
        start = self._now()
        metrics = self.learner.update(Trajectory.cat(trajectories).select(counted), advantage)
        self._count("time_learn", start)
        return metrics

    def timings(self) -> dict[str, float]:
        seconds, self._seconds = self._seconds, dict.fromkeys(self._seconds, 0.0)
        return seconds

    def state_dict(self) -> dict[str, Tensor]:
        return self.learner.state_dict()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.learner.load_state_dict(state)

    def _now(self) -> float:
        """Waits for the device, which works behind the program's back."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def _count(self, stage: str, start: float) -> float:
        now = self._now()
        self._seconds[stage] += now - start
        return now
