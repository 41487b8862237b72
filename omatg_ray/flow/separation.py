"""Velocities along the lines between near atoms, which keep like atoms apart."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from omatg_ray.crystal.batch import CrystalBatch, Edges
from omatg_ray.crystal.lattice import minimum_difference, volume

REACH = 3.0
"""Å up to which two atoms move each other, if no other image is as near."""
WAVES, WIDTH = 8, 32
MIN_AREA, MIN_DISTANCE = 1e-6, 1e-6


class Separation(nn.Module):
    """Moves atom i by the sum over near atoms j of s_ij = s_ji times the unit vector from i to j, or away from it.

    Atoms of one species that meet on their way are alike to a network of smooth features, which then moves them to the
    same place. The direction from one to the other is not smooth where they meet. s_ij is a small network of both atoms
    and their distance, zero before training. It falls to zero at `REACH`, or at half the distance of lattice planes
    where that is shorter, beyond which another image may be the nearest one.
    """

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.of_atom = nn.Linear(hidden, WIDTH)
        self.of_distance = nn.Linear(WAVES, WIDTH, bias=False)
        self.strength = nn.Linear(WIDTH, 1)
        nn.init.zeros_(self.strength.weight)
        nn.init.zeros_(self.strength.bias)

    def forward(self, h: Tensor, crystals: CrystalBatch, edges: Edges) -> Tensor:
        """Return velocities (sum N, 3) in fractional units, without a translation of the crystal.

        Args:
            h: Features of the atoms (sum N, hidden).
            crystals: The crystals.
            edges: Pairs of atoms.
        """
        first, second = edges.first, edges.second
        difference = minimum_difference(crystals.pos[second] - crystals.pos[first])
        of = crystals.batch[first]
        distance = (difference[:, None] @ crystals.cell[of])[:, 0].norm(dim=-1)
        reach = half_widths(crystals.cell).clamp_max(REACH)[of]
        near = (distance < reach).nonzero()[:, 0]
        first, second, difference, distance = first[near], second[near], difference[near], distance[near]
        waves = torch.arange(WAVES, dtype=distance.dtype, device=distance.device)
        basis = (distance[:, None] * waves * (math.pi / REACH)).cos()
        z = self.of_atom(h)
        strength = self.strength(nn.functional.silu(z[first] + z[second] + self.of_distance(basis)))
        envelope = (1.0 - (distance / reach[near]).square()).square()
        push = strength * (envelope / distance.clamp_min(MIN_DISTANCE))[:, None] * difference
        return torch.zeros_like(crystals.pos).index_add(0, second, push).index_add(0, first, -push)


def half_widths(cell: Tensor) -> Tensor:
    """Return half of the smallest distance of opposite faces (B,) of cells (B, 3, 3), in Å."""
    areas = torch.linalg.cross(cell[:, [1, 2, 0]], cell[:, [2, 0, 1]]).norm(dim=-1)
    return 0.5 * volume(cell) / areas.amax(dim=1).clamp_min(MIN_AREA)
