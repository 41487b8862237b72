"""What a learner works on in an update: its part of the trajectories, blocks and microbatches of it, sums."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.rl.trajectory import Trajectory


@dataclass(frozen=True)
class Block:
    """States of several steps as one batch, with a time and the length of a step for each."""

    crystals: CrystalBatch
    t: Tensor
    dt: Tensor


@dataclass
class Part:
    """What one learner learns from.

    Attributes:
        trajectory: Its structures.
        states: Their states before the steps learned from.
        advantage: Their advantages (B,).
        total: Structures of all learners.
        structures: Those of the microbatch that is made or computed at present.
        steps: Which of the steps learned from.
    """

    trajectory: Trajectory
    states: tuple[Tensor, Tensor]
    advantage: Tensor
    total: int
    structures: slice
    steps: slice

    @classmethod
    def of(cls, trajectory: Trajectory, advantage: Tensor, total: int) -> Part:
        pos, cell = (trajectory.of_learned(values) for values in trajectory.states())
        return cls(trajectory, (pos, cell), advantage, total, slice(0, 0), slice(0, 0))


@dataclass
class Tally:
    """Statistics of an update so far."""

    sums: dict[str, float]
    log_ratio_max: float = 0.0

    def add(self, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value


@dataclass(frozen=True)
class Report:
    """What a learner tells its process_group before every step.

    Attributes:
        sums: Its statistics, summed over the epochs so far.
        log_ratio_max: The largest |log-ratio| of its part.
        graded: Parameters that have a gradient.
        microbatch_pairs: Its present bound.
        error: Why it cannot take the step.
    """

    sums: dict[str, float]
    log_ratio_max: float
    graded: list[int]
    microbatch_pairs: int
    error: str | None = None


@dataclass(frozen=True)
class Microbatch:
    """Structures of `trajectory` at a span of the steps learned from, as one batch for the network."""

    trajectory: Trajectory
    steps: slice
    crystals: CrystalBatch
    advantage: Tensor
    weight: float
