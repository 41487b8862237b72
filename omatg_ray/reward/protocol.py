"""Interface of every reward."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.errors import RewardError


@dataclass(frozen=True)
class RewardResult:
    """Rewards of a batch of B structures, in the batch's order.

    Attributes:
        reward: (B,), float64, on the CPU; higher is better. NaN marks a failed reward, which the group's statistics
            leave out.
        values: Named quantities behind the rewards, for metrics and reports, each (B,), float64, on the CPU.
    """

    reward: Tensor
    values: dict[str, Tensor]


class Reward(Protocol):
    """Scorer of structures: a batch in, rewards and named per-structure values out.

    A reward depends on the structure alone, never on its batch (up to float rounding).

    A reward that computes on a device may have a method `to(device)`, and one that holds processes a method `close()`;
    `Weighted` passes both on to its parts.
    """

    @property
    def name(self) -> str:
        """Return the name of this reward in metrics and reports."""
        ...

    @property
    def elements(self) -> frozenset[int] | None:
        """Return the atomic numbers that this reward can score; None means all."""
        ...

    def __call__(self, crystals: CrystalBatch) -> RewardResult:
        """Return the rewards of all structures of the batch, which may be on any device."""
        ...


def require_shape(name: str, result: RewardResult, count: int) -> None:
    """Refuse rewards or values that are not one number per structure.

    Raises:
        RewardError: A shape is wrong; names the reward and the shape.
    """
    for what, numbers in (("rewards", result.reward), *((f"values {key!r}", v) for key, v in result.values.items())):
        if numbers.shape != (count,):
            raise RewardError(
                f"reward {name}: its {what} have shape {tuple(numbers.shape)}; {count} structures need ({count},)"
            )


class Once:
    """Cache of a reward's result for the last batch, so that rewards that build on it do not evaluate it again.

    Args:
        reward: The reward to cache. The batch is recognised by identity, and must not be changed in place meanwhile.
    """

    def __init__(self, reward: Reward) -> None:
        self.reward = reward
        self._last: tuple[CrystalBatch, RewardResult] | None = None

    def __getstate__(self) -> dict[str, object]:
        return {"reward": self.reward, "_last": None}

    @property
    def name(self) -> str:
        return self.reward.name

    @property
    def elements(self) -> frozenset[int] | None:
        return self.reward.elements

    def __call__(self, crystals: CrystalBatch) -> RewardResult:
        if self._last is None or self._last[0] is not crystals:
            self._last = (crystals, self.reward(crystals))
        return self._last[1]

    def to(self, device: object) -> Once:
        """Move its reward to a device, if it computes on one."""
        pass_on(self.reward, "to", device)
        return self

    def close(self) -> None:
        """End the processes of its reward, if it has any."""
        pass_on(self.reward, "close")


def common_elements(rewards: Iterable[Reward]) -> frozenset[int] | None:
    """Return the atomic numbers that all given rewards can score; None means all."""
    known = [elements for reward in rewards if (elements := reward.elements) is not None]
    return frozenset.intersection(*known) if known else None


def pass_on(reward: Reward, method: str, *arguments: object) -> None:
    """Call `to` or `close` of a reward, if it has that method."""
    if hasattr(reward, method):
        getattr(reward, method)(*arguments)


def holds_only(elements: frozenset[int], crystals: CrystalBatch) -> Tensor:
    """Return which crystals hold no other elements than these (B,), bool, on the CPU."""
    species = crystals.species.cpu().split(crystals.layout.sizes)
    return torch.tensor([elements.issuperset(z.tolist()) for z in species], dtype=torch.bool)


def reward_of_known(reward: Reward, crystals: CrystalBatch) -> RewardResult:
    """Score all crystals except those with an element that the reward does not know; these get NaN.

    Only generated species can hold such elements; given ones are refused before a run starts.
    """
    if reward.elements is None or reward.elements.issuperset(crystals.species.unique().tolist()):
        return reward(crystals)
    known = holds_only(reward.elements, crystals)
    result = RewardResult(torch.zeros(0, dtype=torch.float64), {})
    if known.any():
        result = reward(crystals.select(known.nonzero()[:, 0]))

    def spread(values: Tensor) -> Tensor:
        return torch.full((len(crystals),), torch.nan, dtype=values.dtype).masked_scatter(known, values)

    return RewardResult(spread(result.reward), {name: spread(values) for name, values in result.values.items()})
