"""Pairing of base and data positions: which atom of x_0 goes to which of x_1.

The base draws every atom's position from the same distribution, so atoms that cannot be told apart may be assigned in
any order. Assigning them to the data atoms such that the total path length is smallest straightens the flow.
"""

from __future__ import annotations

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from omatg_ray.crystal.batch import CrystalBatch, Layout
from omatg_ray.crystal.lattice import minimum_difference
from omatg_ray.flow.settings import Pairing

FAR = 10.0
"""Added to distances in fractional units, of which none is above √3 / 2, between atoms that may not be exchanged."""


def paired(x_0: CrystalBatch, x_1: CrystalBatch, among: Pairing | None) -> CrystalBatch:
    """Return x_0 with its atoms in the order of the shortest total path to x_1; `among` None is `all_atoms`.

    Atoms of one species cannot be told apart: exchanged `among` them, x_0 with its species is distributed as before.
    Exchanged among all atoms it is not, since atoms then start near places of their own species. Sampling also
    starts from states that such training rarely sees.
    """
    if among == "as_drawn":
        return x_0
    species = x_1.species if among == "same_species" else None
    return x_0.replace(x_0.pos[minimum_permutation(x_0.pos, x_1.pos, x_1.layout, species)])


def minimum_permutation(x_0: Tensor, x_1: Tensor, layout: Layout, species: Tensor | None = None) -> Tensor:
    """Return the rows of x_0, reordered inside each structure (sum N,), that minimise the sum of distances to x_1.

    The distance of two atoms is the Euclidean norm of their minimum-image difference in fractional units.

    Args:
        x_0: Base positions (sum N, 3).
        x_1: Data positions (sum N, 3).
        layout: Layout of the structures.
        species: Atomic numbers (sum N,): atoms are exchanged within a species only. None: the assignment covers all
            atoms of a structure, as in OMatG.
    """
    order = torch.arange(len(x_1))
    origin, target, sizes, ptr = x_0.cpu(), x_1.cpu(), layout.n_atoms.cpu(), layout.ptr.cpu()
    species = None if species is None else species.cpu()
    for size in sorted(set(layout.sizes) - {1}):
        rows = ptr[:-1][sizes == size, None] + torch.arange(size)
        distance = minimum_difference(target[rows][:, :, None] - origin[rows][:, None, :]).norm(dim=-1)
        if species is not None:
            distance += FAR * (species[rows][:, :, None] != species[rows][:, None, :])
        for row, costs in zip(rows, distance.numpy(), strict=True):
            order[row] = row[torch.from_numpy(linear_sum_assignment(costs)[1])]
    return order.to(x_0.device)
