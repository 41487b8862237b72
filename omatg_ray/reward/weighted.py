"""The reward of a run: a weighted sum of rewards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.errors import RewardError
from omatg_ray.reward.protocol import Reward, RewardResult, pass_on, require_shape
from omatg_ray.reward.settings import ENERGY
from omatg_ray.reward.validity import check_validity


@dataclass(frozen=True)
class Part:
    """One term of a sum.

    Attributes:
        name: What its values are called; distinct among the parts.
        weight: Its factor; 0 = monitored only.
        reward: Judges.
    """

    name: str
    weight: float
    reward: Reward


class Weighted:
    """Σ w_k r_k of several rewards, each evaluated on the whole batch.

    A structure fails (NaN) if a part with a nonzero weight fails on it; a part with weight 0 changes nothing, whatever
    it says.

    Args:
        parts: The terms, at least one.

    Raises:
        RewardError: A name occurs twice, or there is no part.
    """

    name = "weighted"

    def __init__(self, parts: Sequence[Part]) -> None:
        names = [part.name for part in parts]
        if not parts or len(set(names)) < len(names):
            raise RewardError(f"a weighted sum needs parts with distinct names, not {names}")
        self.parts = list(parts)

    @property
    def elements(self) -> frozenset[int] | None:
        """Atomic numbers that all parts can judge; None means all."""
        known = [part.reward.elements for part in self.parts]
        return frozenset.intersection(*found) if (found := [one for one in known if one is not None]) else None

    def __call__(self, crystals: CrystalBatch) -> RewardResult:
        """Rewards of B structures, with their values.

        - `<part>`: the reward of a part.
        - `<part>.<value>`: its values; those of the part energy keep their own names (`energy_per_atom`, ...).
        - `valid`: 1 or 0.

        Raises:
            RewardError: A part does not give one number per structure; names it.
        """
        crystals = crystals.to("cpu")
        reward = torch.zeros(len(crystals), dtype=torch.float64)
        values: dict[str, Tensor] = {}
        for part in self.parts:
            result = part.reward(crystals)
            require_shape(part.name, result, len(crystals))
            if part.weight:
                reward = reward + part.weight * result.reward.double()
            prefix = "" if part.name == ENERGY else f"{part.name}."
            values |= {part.name: result.reward} | {f"{prefix}{name}": value for name, value in result.values.items()}
        if "valid" not in values:
            values["valid"] = check_validity(crystals).valid.double()
        return RewardResult(reward, values)

    def to(self, device: torch.device | str) -> Weighted:
        """Its parts moved to a device, in place, as far as they compute on one."""
        for part in self.parts:
            pass_on(part.reward, "to", device)
        return self

    def close(self) -> None:
        """Ends the processes of its parts. They start again when they are needed."""
        for part in self.parts:
            pass_on(part.reward, "close")
