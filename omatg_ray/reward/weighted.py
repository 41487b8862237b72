"""The reward of a run: a weighted sum of rewards."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.crystal.validity import check_validity
from omatg_ray.errors import RewardError
from omatg_ray.reward.energy import MatGLEnergy
from omatg_ray.reward.gradient import Gradient
from omatg_ray.reward.protocol import (
    REWARD,
    Once,
    Reward,
    RewardResult,
    checked,
    common_elements,
    has_gradient,
    pass_on,
    reward_of_known,
)
from omatg_ray.reward.settings import ENERGY


class Weighted:
    """Σ w_k r_k of several rewards, each evaluated on the whole batch.

    A structure fails (NaN) if a part with a nonzero weight fails on it. A part with weight 0 never changes the sum, and
    gives NaN for structures with an element that it does not know.

    Args:
        parts: Weight and reward of every term by its name, at least one; weight 0 only monitors.

    Raises:
        RewardError: There is no part.
    """

    name = "weighted"

    def __init__(self, parts: Mapping[str, tuple[float, Reward]]) -> None:
        if not parts:
            raise RewardError("a weighted sum needs at least one part")
        self.parts = dict(parts)
        self.elements = common_elements(part for weight, part in self.parts.values() if weight)

    def __call__(self, crystals: CrystalBatch) -> RewardResult:
        """Return the rewards of B structures, with their values.

        - `<part>`: the reward of a part.
        - `<part>.<value>`: its values; those of the part energy keep their own names (`energy_per_atom`, ...).
        - `valid`: 1 or 0.

        Raises:
            RewardError: A part does not give one real number per structure, or uses the name of another part's value;
                names the part.
        """
        return self._score(crystals, gradient=False)

    @property
    def has_gradient(self) -> bool:
        """Return whether any part with a weight has a gradient."""
        return any(weight and has_gradient(part) for weight, part in self.parts.values())

    def with_gradient(self, crystals: CrystalBatch) -> RewardResult:
        """Return the same with the gradient of the parts that have one; `rest` is the sum of the others."""
        return self._score(crystals, gradient=True)

    def _score(self, crystals: CrystalBatch, gradient: bool) -> RewardResult:
        crystals = crystals.to("cpu")
        reward = torch.zeros(len(crystals), dtype=torch.float64)
        values: dict[str, Tensor] = {}
        by_state, rest = Gradient.zeros(crystals.layout) if gradient else None, torch.zeros_like(reward)
        by_gradient = {part for part, (w, scorer) in self.parts.items() if gradient and w and has_gradient(scorer)}
        results: dict[str, RewardResult] = {}
        # First those with a gradient: what they share with others is then not evaluated again without it.
        for part in sorted(self.parts, key=lambda name: name not in by_gradient):
            weight, scorer = self.parts[part]
            if part in by_gradient or not weight:
                scored = reward_of_known(scorer, crystals, part in by_gradient)
            else:
                scored = scorer(crystals)
            results[part] = checked(part, scored, len(crystals))
        for part, (weight, _) in self.parts.items():
            result = results[part]
            if weight:
                reward = reward + weight * result.reward
            if part in by_gradient and by_state is not None:
                by_state = by_state + result.gradients[REWARD].times(torch.full_like(reward, weight), crystals.layout)
            elif weight:
                rest = rest + weight * result.reward
            prefix = "" if part == ENERGY else f"{part}."
            for name, column in ((part, result.reward), *((f"{prefix}{key}", v) for key, v in result.values.items())):
                if name in values:
                    raise RewardError(f"reward {part}: two values are called {name}; rename one")
                values[name] = column
        valid = values.get("valid")
        if valid is None or valid.isnan().any():
            values["valid"] = check_validity(crystals).valid.double()
        if by_state is None:
            return RewardResult(reward, values)
        return RewardResult(reward, values, {REWARD: by_state.times(reward.isfinite().double(), crystals.layout)}, rest)

    def energy_like(self, energy: MatGLEnergy) -> Reward:
        """Return the part energy if it has the same energies, which it keeps for the last batch; else `energy`."""
        part = self.parts.get(ENERGY, (0.0, energy))[1]
        own = part.reward if isinstance(part, Once) else part
        same = isinstance(own, MatGLEnergy) and own.energies_like(energy)
        return part if same else energy

    def to(self, device: torch.device | str) -> Weighted:
        """Move the parts that compute on a device to it, in place."""
        for _, part in self.parts.values():
            pass_on(part, "to", device)
        return self

    def close(self) -> None:
        """End the processes of its parts. They start again when needed."""
        for _, part in self.parts.values():
            pass_on(part, "close")
