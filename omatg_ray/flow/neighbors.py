"""Pairs of near atoms, for messages in large cells."""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor

from omatg_ray.crystal.batch import CrystalBatch, Edges
from omatg_ray.crystal.lattice import minimum_difference

SHELL = 1e-3
"""Relative difference of distances up to which atoms count as equally near; far above rounding."""


@torch.no_grad()
def near(crystals: CrystalBatch, k: int) -> Edges:
    """Return the pairs in which one atom is among the k nearest of the other, each pair both ways.

    Atoms as near as the k-th are included, so that neither the order of atoms nor the origin matters in symmetric
    crystals. Cells of up to k + 1 atoms keep all their pairs, in the same order.
    """
    layout = crystals.layout
    if max(layout.sizes, default=0) <= k + 1:
        return layout.edges
    first, second, structure = layout.pairs
    distance = _distances(crystals, first, second, structure)
    reach = (1.0 + SHELL) * _kth_smallest(
        torch.cat([first, second]), distance.repeat(2), layout.n_atoms, crystals.batch, k
    )
    kept = (distance <= reach[first]) | (distance <= reach[second])
    first, second = first[kept], second[kept]
    ends = torch.cat([first, second, torch.arange(len(crystals.batch), device=first.device)])
    return Edges.between(first, second, ends.bincount(minlength=len(crystals.batch)))


def _distances(crystals: CrystalBatch, first: Tensor, second: Tensor, structure: Tensor) -> Tensor:
    """Return the distances in Å (P,) of pairs: to the nearest of the eight images around, enough for reduced cells."""
    apart = minimum_difference(crystals.pos[second] - crystals.pos[first])
    cell = crystals.cell[structure]
    nearest = torch.full_like(apart[:, 0], torch.inf)
    for corner in product((0.0, 1.0), repeat=3):
        # One step along each axis, towards the other side of the cell.
        image = apart - apart.new_tensor(corner) * torch.where(apart < 0, -1.0, 1.0)
        # Products written out, as a GPU may round those of matrices to ten bits.
        nearest = torch.minimum(nearest, (image[:, :, None] * cell).sum(1).square().sum(1))
    return nearest.sqrt()


def _kth_smallest(atom: Tensor, distance: Tensor, n_atoms: Tensor, batch: Tensor, k: int) -> Tensor:
    """Return the k-th smallest distance of each atom's pairs (sum N,); infinite where it has fewer."""
    by_distance = distance.argsort(stable=True)
    order = by_distance[atom[by_distance].argsort(stable=True)]
    others = n_atoms.index_select(0, batch) - 1
    place = others.cumsum(0) - others + k - 1
    many = others >= k
    reach = torch.full_like(others, torch.inf, dtype=distance.dtype)
    reach[many] = distance[order[place[many]]]
    return reach
