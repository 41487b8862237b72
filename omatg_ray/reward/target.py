"""Rewards for a density or a volume close to a target."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.crystal.validity import check_validity
from omatg_ray.reward.protocol import RewardResult

DALTON_PER_CUBIC_ANGSTROM = 1.66053907
"""1 Da/Å³ in g/cm³ (CODATA 2018)."""


def closeness(value: Tensor, target: float, scale: float) -> Tensor:
    """Return -d / (1 + d) with d = |value - target| / scale, any shape.

    It is 0 on target, -1/2 at a distance of scale, and always above -1, so that an invalid structure, which gets -1,
    never scores above a valid one.
    """
    distance = (value - target).abs() / scale
    return -distance / (1.0 + distance)


class _Target(ABC):
    """Closeness of a quantity to a target; an invalid structure gets -1."""

    name: str
    value: str
    elements: frozenset[int] | None = None

    def __init__(self, target: float, scale: float) -> None:
        self.target, self.scale = target, scale

    @abstractmethod
    def quantity(self, crystals: CrystalBatch, volume: Tensor) -> Tensor:
        """Return the quantity (B,), float64, of structures with cells of a volume (B,) in Å³."""

    def __call__(self, crystals: CrystalBatch) -> RewardResult:
        """Return the rewards of B structures, with the quantity as a value, NaN where invalid."""
        crystals = crystals.to("cpu")
        validity = check_validity(crystals)
        quantity = self.quantity(crystals, validity.volume).where(validity.valid, torch.nan)
        reward = closeness(quantity, self.target, self.scale).where(validity.valid, -1.0)
        return RewardResult(reward, {self.value: quantity})


class TargetVolume(_Target):
    """Closeness of the volume per atom (Å³), the value volume_per_atom, to a target; an invalid structure gets -1.

    Args:
        target: In Å³ per atom.
        scale: Distance at which the reward is -1/2, in Å³ per atom.
    """

    name, value = "volume", "volume_per_atom"

    def quantity(self, crystals: CrystalBatch, volume: Tensor) -> Tensor:
        return volume / crystals.n_atoms


class TargetDensity(_Target):
    """Closeness of the density (g/cm³), the value density, to a target; an invalid structure gets -1.

    Args:
        target: In g/cm³.
        scale: Distance at which the reward is -1/2, in g/cm³.
    """

    name, value = "density", "density"

    def quantity(self, crystals: CrystalBatch, volume: Tensor) -> Tensor:
        from ase.data import atomic_masses

        mass = crystals.layout.sum(torch.as_tensor(atomic_masses, dtype=torch.float64)[crystals.species])
        return DALTON_PER_CUBIC_ANGSTROM * mass / volume
