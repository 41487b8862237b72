"""Rewards for a density or a volume close to a target."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.crystal.validity import check_validity
from omatg_ray.reward.gradient import Gradient
from omatg_ray.reward.protocol import REWARD, RewardResult

DALTON_PER_CUBIC_ANGSTROM = 1.66053907
"""1 Da/Å³ in g/cm³ (CODATA 2018)."""


def closeness(value: Tensor, target: float, scale: float) -> Tensor:
    """Return -d / (1 + d) with d = |value - target| / scale, any shape.

    It is 0 on target, -1/2 at a distance of scale, and always above -1, so that an invalid structure, which gets -1,
    never scores above a valid one.
    """
    distance = (value - target).abs() / scale
    return -distance / (1.0 + distance)


def volume_per_atom(crystals: CrystalBatch, volume: Tensor) -> Tensor:
    """Return the volume per atom in Å³ (B,), float64, of structures with cells of a volume (B,) in Å³."""
    return volume / crystals.n_atoms


def density(crystals: CrystalBatch, volume: Tensor) -> Tensor:
    """Return the density in g/cm³ (B,), float64, of structures with cells of a volume (B,) in Å³."""
    from ase.data import atomic_masses

    mass = crystals.layout.sum(torch.as_tensor(atomic_masses, dtype=torch.float64)[crystals.species])
    return DALTON_PER_CUBIC_ANGSTROM * mass / volume


QUANTITIES = {"volume": ("volume_per_atom", volume_per_atom), "density": ("density", density)}
"""Name of the value, and what computes it, by the name of the reward."""


class Target:
    """Closeness of a quantity to a target; an invalid structure gets -1.

    Args:
        name: "volume" (per atom) or "density".
        target: In Å³ or g/cm³.
        scale: Distance at which the reward is -1/2, in the same unit.
    """

    elements = None

    def __init__(self, name: str, target: float, scale: float) -> None:
        self.name, self.target, self.scale = name, target, scale

    def __call__(self, crystals: CrystalBatch) -> RewardResult:
        """Return the rewards of B structures, with the quantity as a value, NaN where invalid."""
        crystals = crystals.to("cpu")
        validity, (value, measure) = check_validity(crystals), QUANTITIES[self.name]
        quantity = measure(crystals, validity.volume).where(validity.valid, torch.nan)
        reward = closeness(quantity, self.target, self.scale).where(validity.valid, -1.0)
        return RewardResult(reward, {value: quantity})

    def with_gradient(self, crystals: CrystalBatch) -> RewardResult:
        """Return the same with the gradient of the reward, which only depends on the volume."""
        result, crystals = self(crystals), crystals.to("cpu")
        _, measure = QUANTITIES[self.name]
        cell = crystals.cell.double().requires_grad_()
        with torch.enable_grad():
            reward = closeness(measure(crystals, torch.linalg.det(cell).abs()), self.target, self.scale)
            (by_cell,) = torch.autograd.grad(reward.sum(), cell)
        gradient = Gradient(torch.zeros(crystals.pos.shape, dtype=torch.float64), by_cell)
        valid = check_validity(crystals).valid.double()
        return replace(result, gradients={REWARD: gradient.times(valid, crystals.layout)})
