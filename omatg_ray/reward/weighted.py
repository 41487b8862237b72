"""The reward of a run: a weighted sum of rewards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.crystal.validity import check_validity
from omatg_ray.errors import RewardError
from omatg_ray.reward.protocol import Reward, RewardResult, common_elements, pass_on, require_shape, reward_of_known
from omatg_ray.reward.settings import ENERGY


@dataclass(frozen=True)
class Part:
    """One term of a sum.

    Attributes:
        name: Name of its values; distinct among the parts.
        weight: Its factor; 0 = monitored only.
        reward: Its reward.
    """

    name: str
    weight: float
    reward: Reward


class Weighted:
    """Σ w_k r_k of several rewards, each evaluated on the whole batch.

    A structure fails (NaN) if a part with a nonzero weight fails on it. A part with weight 0 never changes the sum, and
    gives NaN for structures with an element that it does not know.

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
        """Return the atomic numbers that all parts with a weight can score; None means all."""
        return common_elements(part.reward for part in self.parts if part.weight)

    def __call__(self, crystals: CrystalBatch) -> RewardResult:
        """Return the rewards of B structures, with their values.

        - `<part>`: the reward of a part.
        - `<part>.<value>`: its values; those of the part energy keep their own names (`energy_per_atom`, ...).
        - `valid`: 1 or 0.

        Raises:
            RewardError: A part does not give one number per structure, or uses the name of another part's value; names
                the part.
        """
        crystals = crystals.to("cpu")
        reward = torch.zeros(len(crystals), dtype=torch.float64)
        values: dict[str, Tensor] = {}
        for part in self.parts:
            result = part.reward(crystals) if part.weight else reward_of_known(part.reward, crystals)
            require_shape(part.name, result, len(crystals))
            if part.weight:
                reward = reward + part.weight * result.reward.double()
            prefix = "" if part.name == ENERGY else f"{part.name}."
            columns = [
                (part.name, result.reward),
                *((f"{prefix}{name}", value) for name, value in result.values.items()),
            ]
            for name, column in columns:
                if name in values:
                    raise RewardError(f"reward {part.name}: two values are called {name}; rename one")
                values[name] = column
        valid = values.get("valid")
        if valid is None or valid.isnan().any():
            values["valid"] = check_validity(crystals).valid.double()
        return RewardResult(reward, values)

    def to(self, device: torch.device | str) -> Weighted:
        """Move the parts that compute on a device to it, in place."""
        for part in self.parts:
            pass_on(part.reward, "to", device)
        return self

    def close(self) -> None:
        """End the processes of its parts. They start again when needed."""
        for part in self.parts:
            pass_on(part.reward, "close")
