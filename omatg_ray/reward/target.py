"""Rewards of a density or a volume close to a target."""

from __future__ import annotations

import torch
from torch import Tensor

from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.reward.protocol import RewardResult
from omatg_ray.reward.validity import check_validity

DALTON_PER_CUBIC_ANGSTROM = 1.66053907
"""In g/cm³ (CODATA 2018)."""


def closeness(value: Tensor, target: float, scale: float) -> Tensor:
    """-d / (1 + d) with d = |value - target| / scale, any shape: 0 on target, -1/2 at a distance of scale, above -1.

    Bounded, so that an invalid structure, which counts -1, never scores above a valid one.
    """
    distance = (value - target).abs() / scale
    return -distance / (1.0 + distance)


class TargetVolume:
    """Closeness of the volume per atom (Å³) to a target; an invalid structure gets -1.

    Args:
        target: In Å³ per atom.
        scale: Distance at which the reward is -1/2, in Å³ per atom.
    """

    name, elements = "volume", None

    def __init__(self, target: float, scale: float) -> None:
        self.target, self.scale = target, scale

    def __call__(self, crystals: CrystalBatch) -> RewardResult:
        """Rewards of B structures, with the value volume_per_atom in Å³, NaN where invalid."""
        crystals = crystals.to("cpu")
        validity = check_validity(crystals)
        volume = (validity.volume / crystals.n_atoms).where(validity.valid, torch.nan)
        reward = closeness(volume, self.target, self.scale).where(validity.valid, -1.0)
        return RewardResult(reward, {"volume_per_atom": volume})


class TargetDensity:
    """Closeness of the density (g/cm³) to a target; an invalid structure gets -1.

    Args:
        target: In g/cm³.
        scale: Distance at which the reward is -1/2, in g/cm³.
    """

    name, elements = "density", None

    def __init__(self, target: float, scale: float) -> None:
        self.target, self.scale = target, scale

    def __call__(self, crystals: CrystalBatch) -> RewardResult:
        """Rewards of B structures, with the value density in g/cm³, NaN where invalid."""
        from ase.data import atomic_masses

        crystals = crystals.to("cpu")
        validity = check_validity(crystals)
        mass = crystals.layout.sum(torch.as_tensor(atomic_masses, dtype=torch.float64)[crystals.species])
        density = (DALTON_PER_CUBIC_ANGSTROM * mass / validity.volume).where(validity.valid, torch.nan)
        reward = closeness(density, self.target, self.scale).where(validity.valid, -1.0)
        return RewardResult(reward, {"density": density})
