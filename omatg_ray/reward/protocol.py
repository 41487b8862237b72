"""What every reward takes and gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from omatg_ray.crystal.batch import CrystalBatch


@dataclass(frozen=True)
class RewardResult:
    """Rewards of a batch of B structures, in the batch's order.

    Attributes:
        reward: (B,), float64, on the CPU; higher is better. NaN is a failed reward, which the group's statistics
            leave out.
        values: Named quantities behind the rewards, for metrics and reports, each (B,), float64, on the CPU.
    """

    reward: Tensor
    values: dict[str, Tensor]


class Reward(Protocol):
    """Judges structures: a batch in, rewards and named per-structure values out.

    A reward depends on the structure alone, never on the batch it comes in (up to float rounding).
    """

    @property
    def name(self) -> str:
        """What metrics and reports call this reward."""
        ...

    @property
    def elements(self) -> frozenset[int] | None:
        """Atomic numbers this reward can judge; None means all."""
        ...

    def __call__(self, crystals: CrystalBatch) -> RewardResult:
        """Rewards of all structures of the batch, which may be on any device."""
        ...
