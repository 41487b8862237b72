"""Who does the work of an iteration: the interface that the trainer knows, and this process alone."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from omatg_ray.crystal.base import BaseDistribution
from omatg_ray.reward.protocol import Reward
from omatg_ray.rl.learner import Learner
from omatg_ray.rl.scoring import ScoredItem, score_item
from omatg_ray.rl.trajectory import Trajectory
from omatg_ray.rl.work import WorkItem, run_item

OLDER = "version."
"""Names of older weights in a backend's state begin with this and their version."""


class TrainingBackend(Protocol):
    """Does the work of iterations, somewhere.

    Version v of the weights is that after v iterations. An iteration is submitted, collected and learned from, in this
    order; those that follow may be submitted before.
    """

    def submit(self, items: Sequence[WorkItem], version: int) -> None:
        """Takes an iteration to roll out with a version of the weights, and to score.

        Args:
            items: All items of one iteration.
            version: The present one, or one that is older by no more than the backend's staleness.
        """
        ...

    def collect(self, iteration: int) -> Sequence[ScoredItem]:
        """The verdicts on an iteration that was submitted, item by item, as soon as all are there."""
        ...

    def learn(self, iteration: int, counted: Tensor, advantage: Tensor) -> dict[str, float]:
        """Updates the weights, which are version `iteration` + 1 then.

        Args:
            iteration: One that was collected.
            counted: Indices (b,) of the structures to learn from, over all its items; with none, weights stay.
            advantage: Their advantages (b,).

        Returns:
            The metrics of `Learner.update`; none where there was nothing to learn from.

        Raises:
            TrainingError: As `Learner.update`.
        """
        ...

    def timings(self) -> dict[str, float]:
        """Seconds per stage (`time_*`) since the last call, and whatever else is known of how the time went."""
        ...

    def state_dict(self) -> dict[str, Tensor]:
        """The learner's state beside the weights, and the older weights still needed, on the CPU."""
        ...

    def load_state_dict(self, state: dict[str, Tensor], version: int) -> None:
        """Inverse of `state_dict`; the weights of the model are of this version."""
        ...


def join_state(learner: Mapping[str, Tensor], older: Mapping[int, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The state of a backend from that of its learner and older versions of the weights."""
    joined = dict(learner)
    for version, weights in older.items():
        joined |= {f"{OLDER}{version}.{name}": value.contiguous() for name, value in weights.items()}
    return joined


def split_state(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[int, dict[str, Tensor]]]:
    """Inverse of `join_state`."""
    learner = {name: value for name, value in state.items() if not name.startswith(OLDER)}
    older: dict[int, dict[str, Tensor]] = {}
    for name in state.keys() - learner.keys():
        version, _, rest = name.removeprefix(OLDER).partition(".")
        older.setdefault(int(version), {})[rest] = state[name]
    return learner, older


class LocalTrainingBackend:
    """Works in this process, stage by stage, when it is asked to collect.

    Args:
        learner: Owns the policy that samples.
        learned: All weights that the learner updates.
        base: Distribution of x_0.
        reward: Scores the crystals.
        device: Where rollouts run.
        staleness: Versions older than the present one that may still be needed.
    """

    def __init__(
        self,
        learner: Learner,
        learned: nn.Module,
        base: BaseDistribution,
        reward: Reward,
        device: torch.device,
        staleness: int = 0,
    ) -> None:
        self.learner, self.learned, self.base, self.reward = learner, learned, base, reward
        self.device, self._staleness = device, staleness
        self._seconds = dict.fromkeys(("time_rollout", "time_reward", "time_learn"), 0.0)
        self._submitted: dict[int, tuple[Sequence[WorkItem], int]] = {}
        self._trajectories: dict[int, list[Trajectory]] = {}
        self._version, self._older = 0, dict[int, dict[str, Tensor]]()

    def rollout(self, item: WorkItem, version: int) -> Trajectory:
        """One item with the present weights."""
        policy, objective = self.learner.policy, self.learner.objective
        with_base = objective.needs_base(policy)
        return run_item(item, policy, self.base, with_base, self.device, version)

    def submit(self, items: Sequence[WorkItem], version: int) -> None:
        self._submitted[items[0].iteration] = (items, version)

    def collect(self, iteration: int) -> Sequence[ScoredItem]:
        start = self._now()
        items, version = self._submitted.pop(iteration)
        present = None
        if version != self._version:
            present = self._copy()
            self.learned.load_state_dict(self._older[version])
        trajectories = self._trajectories[iteration] = [self.rollout(item, version) for item in items]
        if present is not None:
            self.learned.load_state_dict(present)
        start = self._count("time_rollout", start)
        scored = [
            score_item(trajectory.final(), self.reward, item.group_size)
            for item, trajectory in zip(items, trajectories, strict=True)
        ]
        self._count("time_reward", start)
        return scored

    def learn(self, iteration: int, counted: Tensor, advantage: Tensor) -> dict[str, float]:
        start = self._now()
        trajectories = self._trajectories.pop(iteration)
        if self._staleness:
            self._older[self._version] = self._copy()
        metrics = {}
        if len(counted):
            metrics = self.learner.update(Trajectory.cat(trajectories).select(counted), advantage)
        self._version = iteration + 1
        self._older = {v: weights for v, weights in self._older.items() if v >= self._version - self._staleness}
        self._count("time_learn", start)
        return metrics

    def timings(self) -> dict[str, float]:
        seconds, self._seconds = self._seconds, dict.fromkeys(self._seconds, 0.0)
        return seconds

    def state_dict(self) -> dict[str, Tensor]:
        return join_state(self.learner.state_dict(), self._older)

    def load_state_dict(self, state: dict[str, Tensor], version: int) -> None:
        learner, self._older = split_state(state)
        self._version = version
        self.learner.load_state_dict(learner)

    def _copy(self) -> dict[str, Tensor]:
        return {name: value.detach().cpu().clone() for name, value in self.learned.state_dict().items()}

    def _now(self) -> float:
        """Waits for the device, which works behind the program's back."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def _count(self, stage: str, start: float) -> float:
        now = self._now()
        self._seconds[stage] += now - start
        return now
