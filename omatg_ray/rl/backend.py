"""Training backends: the interface that the trainer uses, and an implementation in this process."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.model.flow_model import FlowModel
from omatg_ray.reward.energy import MatGLEnergy
from omatg_ray.reward.protocol import Reward, reward_of_known
from omatg_ray.rl.learner import Learner
from omatg_ray.rl.rollout import Trajectory
from omatg_ray.rl.scoring import ScoredItem, score_item
from omatg_ray.rl.signal import Signal
from omatg_ray.rl.work import WorkItem, run_item

OLDER = "version."
"""Prefix of older weights in a backend's state; their version follows it."""


class TrainingBackend(Protocol):
    """Interface of what carries out iterations.

    Version v of the weights is the one after v iterations. An iteration is submitted, collected and learned from, in
    this order; later iterations may be submitted in the meantime.
    """

    def score(self, batches: Sequence[CrystalBatch]) -> Iterator[Tensor]:
        """Yield the rewards (B,) of batches of known crystals, in order, NaN where they failed."""

    def submit(self, items: Sequence[WorkItem], version: int) -> None:
        """Start to roll out and score an iteration with one version of the weights.

        Args:
            items: All items of one iteration.
            version: The current version, or one that is older by at most the backend's staleness.
        """

    def collect(self, iteration: int) -> Sequence[ScoredItem]:
        """Return the scores of a submitted iteration, item by item, once all are there."""

    def learn(self, iteration: int, signal: Signal) -> dict[str, float]:
        """Update the weights to version `iteration` + 1; without a signal they stay.

        Args:
            iteration: A collected iteration.
            signal: What is learned from it.

        Returns:
            The metrics of `Learner.update`; empty if there was nothing to learn from.

        Raises:
            TrainingError: As `Learner.update`.
        """

    def timings(self) -> dict[str, float]:
        """Return the seconds per stage (`time_*`) since the last call, and any other record of how time was spent."""

    def state_dict(self) -> dict[str, Tensor]:
        """Return the learner's state apart from the weights, and the older weights still needed, on the CPU."""

    def load_state_dict(self, state: dict[str, Tensor], version: int) -> None:
        """Restore what `state_dict` returned; the model's weights are of this version."""


def join_state(learner: Mapping[str, Tensor], older: Mapping[int, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Combine a learner's state with older versions of the weights into the state of a backend."""
    joined = dict(learner)
    for version, weights in older.items():
        joined |= {f"{OLDER}{version}.{name}": value.contiguous() for name, value in weights.items()}
    return joined


def split_state(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[int, dict[str, Tensor]]]:
    """Split the state of a backend; the inverse of `join_state`."""
    learner = {name: value for name, value in state.items() if not name.startswith(OLDER)}
    older: dict[int, dict[str, Tensor]] = {}
    for name in state.keys() - learner.keys():
        version, _, rest = name.removeprefix(OLDER).partition(".")
        older.setdefault(int(version), {})[rest] = state[name]
    return learner, older


def copy_weights(module: nn.Module) -> dict[str, Tensor]:
    """Return a copy of a module's weights on the CPU, which later updates do not change."""
    return {name: value.detach().cpu().clone() for name, value in module.state_dict().items()}


class LocalTrainingBackend:
    """Training backend in this process, which does the work stage by stage when an iteration is collected.

    Args:
        learner: Owns the sampling policy.
        model: The sampler, whose learned weights the learner updates.
        reward: Scores the crystals.
        staleness: Number of versions before the current one that may still be needed.
        energy: Relaxes crystals for the replay, if its settings ask for that.
    """

    def __init__(
        self,
        learner: Learner,
        model: FlowModel,
        reward: Reward,
        staleness: int = 0,
        energy: MatGLEnergy | None = None,
    ) -> None:
        self.learner, self.model, self.reward, self._staleness = learner, model, reward, staleness
        self._energy = energy
        self._seconds = dict.fromkeys(("time_rollout", "time_reward", "time_learn"), 0.0)
        self._submitted: dict[int, tuple[Sequence[WorkItem], int]] = {}
        self._trajectories: dict[int, list[Trajectory]] = {}
        self._version, self._older = 0, dict[int, dict[str, Tensor]]()

    def rollout(self, item: WorkItem) -> Trajectory:
        """Roll out one item with the current weights."""
        policy, base = self.learner.policy, self.model.description.base_distribution
        with_base = self.learner.objective.needs_base(policy)
        return run_item(item, policy, base, with_base, self.model.device)

    def score(self, batches: Sequence[CrystalBatch]) -> Iterator[Tensor]:
        for batch in batches:
            yield reward_of_known(self.reward, batch).reward

    def submit(self, items: Sequence[WorkItem], version: int) -> None:
        self._submitted[items[0].iteration] = (items, version)

    def collect(self, iteration: int) -> Sequence[ScoredItem]:
        start = self._now()
        items, version = self._submitted.pop(iteration)
        current = None
        if version != self._version:
            current = copy_weights(self.model.learned)
            self.model.learned.load_state_dict(self._older[version])
        trajectories = self._trajectories[iteration] = [self.rollout(item) for item in items]
        if current is not None:
            self.model.learned.load_state_dict(current)
        start = self._add_time("time_rollout", start)
        objective = self.learner.objective
        scored = [
            score_item(trajectory.final(), self.reward, item.group_size, objective, self._energy)
            for item, trajectory in zip(items, trajectories, strict=True)
        ]
        self._add_time("time_reward", start)
        return scored

    def learn(self, iteration: int, signal: Signal) -> dict[str, float]:
        start = self._now()
        trajectories = self._trajectories.pop(iteration)
        if self._staleness:
            self._older[self._version] = copy_weights(self.model.learned)
        metrics = {}
        if signal:
            counted = Trajectory.cat(trajectories).select(signal.counted) if len(signal.counted) else None
            examples = signal.examples_on(self.model.device)
            metrics = self.learner.update(counted, signal.advantage, gradient=signal.gradient, examples=examples)
        self._version = iteration + 1
        self._older = {v: weights for v, weights in self._older.items() if v >= self._version - self._staleness}
        self._add_time("time_learn", start)
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

    def _now(self) -> float:
        """Return the time, once the device has finished its asynchronous work."""
        if self.model.device.type == "cuda":
            torch.cuda.synchronize(self.model.device)
        return time.perf_counter()

    def _add_time(self, stage: str, start: float) -> float:
        now = self._now()
        self._seconds[stage] += now - start
        return now
