"""Pairs of near atoms, for messages in large cells."""

from __future__ import annotations

import torch
from torch import Tensor

from omatg_ray.crystal.batch import CrystalBatch, Edges
from omatg_ray.crystal.lattice import minimum_difference


@torch.no_grad()
def near(crystals: CrystalBatch, k: int) -> Edges:
    """Return the pairs in which one atom is among the k nearest of the other, each pair both ways.

    Distances are Cartesian, of the image that is nearest component by component in fractional units: the nearest one of
    all in cells that are not very skewed. Cells of up to k + 1 atoms keep all their pairs, in the same order.
    """
    layout = crystals.layout
    if max(layout.sizes, default=0) <= k + 1:
        return layout.edges
    first, second, structure = layout.pairs
    apart = minimum_difference(crystals.pos[second] - crystals.pos[first])
    distance = torch.einsum("pi,pij->pj", apart, crystals.cell[structure]).square().sum(1)
    kept = (
        (_rank(torch.cat([first, second]), distance.repeat(2), layout.n_atoms, crystals.batch) < k).view(2, -1).any(0)
    )
    first, second = first[kept], second[kept]
    ends = torch.cat([first, second, torch.arange(len(crystals.batch), device=first.device)])
    return Edges.between(first, second, ends.bincount(minlength=len(crystals.batch)))


def _rank(atom: Tensor, distance: Tensor, n_atoms: Tensor, batch: Tensor) -> Tensor:
    """Return the place of each ordered pair among those of its atom, by distance; ties keep their order."""
    by_distance = distance.argsort(stable=True)
    order = by_distance[atom[by_distance].argsort(stable=True)]
    others = n_atoms.index_select(0, batch) - 1
    start = (others.cumsum(0) - others).index_select(0, atom[order])
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order), device=order.device) - start
    return rank
