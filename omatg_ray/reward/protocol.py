"""Interface of every reward."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Final, Protocol

import numpy as np
import torch
from torch import Tensor

from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.errors import RewardError
from omatg_ray.reward.gradient import Gradient

REWARD: Final = "reward"
"""Name of the reward's own gradient in `RewardResult.gradients`."""


@dataclass(frozen=True)
class RewardResult:
    """Rewards of a batch of B structures, in the batch's order.

    Attributes:
        reward: (B,), float64, on the CPU; higher is better. NaN marks a failed reward, which the group's statistics
            leave out. A reward may return other real numbers, which `checked` converts.
        values: Named quantities behind the rewards, for metrics and reports, each (B,), of the same types.
        gradients: Gradients where they were asked for and are known: that of the reward by the name REWARD, those of
            values by theirs. Structures without a reward, and invalid ones, have a gradient of 0.
        rest: The part of the reward that the gradient leaves out (B,); None: all of it without a gradient, else none.
    """

    reward: Tensor
    values: dict[str, Tensor]
    gradients: dict[str, Gradient] = field(default_factory=dict)
    rest: Tensor | None = None


class Reward(Protocol):
    """Scorer of structures: a batch in, rewards and named per-structure values out.

    A reward depends on the structure alone, never on its batch (up to float rounding).

    A reward that computes on a device may have a method `to(device)`, and one that holds processes a method `close()`;
    `Weighted` passes both on to its parts. A reward that is a differentiable function of positions and lattices may
    have a method `with_gradient(crystals)`, which returns the same as a call, with `gradients[REWARD]`; an attribute
    `has_gradient` that is false withdraws the offer.
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


def has_gradient(reward: Reward) -> bool:
    """Return whether a reward offers its gradient by positions and lattices."""
    return hasattr(reward, "with_gradient") and bool(getattr(reward, "has_gradient", True))


def checked(name: str, returned: Any, count: int) -> RewardResult:
    """Return what a reward returned as float64 on the CPU, exactly.

    Rewards and values are tensors, arrays or lists of real numbers: floats of up to 64 bits, integers of up to 2^53, or
    booleans. An array in place of a `RewardResult` counts as rewards without values.

    Raises:
        RewardError: Something is not one such number per structure, or has no proper name; names the reward.
    """
    result = returned if isinstance(returned, RewardResult) else RewardResult(returned, {})
    if not isinstance(result.values, dict):
        raise RewardError(f"reward {name}: its values are {type(result.values).__name__}, not a dictionary")
    named = {f"{key}": given for key, given in result.values.items()}
    if wrong := [key for key in named if not key or "/" in key]:
        raise RewardError(f"reward {name}: a value is called {wrong[0]!r}; name it without slashes")

    def numbers(given: Any, what: str) -> Tensor:
        values = _exact(given)
        if values is None:
            kind = getattr(given, "dtype", type(given).__name__)
            raise RewardError(
                f"reward {name}: its {what} is no array of real numbers that float64 holds exactly, but {kind}; return "
                "one number per structure"
            )
        if values.shape != (count,):
            raise RewardError(
                f"reward {name}: its {what} has shape {tuple(values.shape)}, not ({count},); return one number per "
                "structure"
            )
        return values

    reward = numbers(result.reward, "reward")
    values = {key: numbers(given, f"value {key!r}") for key, given in named.items()}
    return replace(result, reward=reward, values=values)


def _exact(given: Any) -> Tensor | None:
    """Return numbers as float64 on the CPU; None if they are not real, or float64 cannot hold them exactly."""
    if isinstance(given, Tensor):
        given = given.detach().cpu()
        given = given.double() if given.is_floating_point() else given  # numpy knows no bfloat16
    try:
        array = np.asarray(given)
    except (TypeError, ValueError):
        return None
    kind, width = array.dtype.kind, array.dtype.itemsize
    if kind == "b" or (kind == "f" and width <= 8) or (kind in "iu" and bool((np.abs(array) <= 2**53).all())):
        return torch.from_numpy(array.astype(np.float64))
    return None


class Once:
    """Cache of a reward's result for the last batch, so that rewards that build on it do not evaluate it again.

    Args:
        reward: The reward to cache. The batch is recognised by identity, and must not be changed in place meanwhile.
    """

    def __init__(self, reward: Reward) -> None:
        self.reward, self.name, self.elements = reward, reward.name, reward.elements
        self._last: tuple[CrystalBatch, RewardResult] | None = None

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_last": None}

    def __call__(self, crystals: CrystalBatch) -> RewardResult:
        if self._last is None or self._last[0] is not crystals:
            self._last = (crystals, self.reward(crystals))
        return self._last[1]

    @property
    def has_gradient(self) -> bool:
        return has_gradient(self.reward)

    def with_gradient(self, crystals: CrystalBatch) -> RewardResult:
        """Return the result with gradients, which later calls return too."""
        if self._last is None or self._last[0] is not crystals or not self._last[1].gradients:
            self._last = (crystals, self.reward.with_gradient(crystals))  # type: ignore[attr-defined]
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
    return torch.tensor([elements.issuperset(numbers) for numbers in crystals.atomic_numbers], dtype=torch.bool)


def reward_of_known(reward: Reward, crystals: CrystalBatch, with_gradient: bool = False) -> RewardResult:
    """Score all crystals except those with an element that the reward does not know; these get NaN.

    Only generated species can hold such elements; given ones are refused before a run starts.

    Args:
        reward: The reward.
        crystals: B crystals.
        with_gradient: Whether to ask for its gradient, which it must offer; that of unknown crystals is 0.
    """
    score: Callable[[CrystalBatch], RewardResult] = reward.with_gradient if with_gradient else reward  # type: ignore[attr-defined]
    if reward.elements is None or reward.elements.issuperset(crystals.species.unique().tolist()):
        return score(crystals)
    known = holds_only(reward.elements, crystals)
    rows, result = known.nonzero()[:, 0], RewardResult(torch.zeros(0, dtype=torch.float64), {})
    if known.any():
        result = checked(reward.name, score(crystals.select(rows)), int(known.sum()))

    def spread(values: Tensor) -> Tensor:
        return torch.full((len(crystals),), torch.nan, dtype=torch.float64).masked_scatter(known, values)

    return RewardResult(
        spread(result.reward),
        {name: spread(values) for name, values in result.values.items()},
        {name: gradient.spread(rows, crystals.layout) for name, gradient in result.gradients.items()},
        None if result.rest is None else spread(result.rest),
    )
