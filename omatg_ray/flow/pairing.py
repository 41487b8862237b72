"""Minimum-permutation pairing of base and data positions.

The base draws every atom's position from the same distribution, so its rows may be assigned in any order. Assigning
them to the data atoms such that the total path length is smallest straightens the flow.
"""

from __future__ import annotations

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from omatg_ray.crystal.batch import Layout
from omatg_ray.crystal.lattice import minimum_difference


def minimum_permutation(x_0: Tensor, x_1: Tensor, layout: Layout) -> Tensor:
    """Return the rows of x_0, reordered inside each structure (sum N,), that minimise the sum of distances to x_1.

    The distance of two atoms is the Euclidean norm of their minimum-image difference in fractional units. The
    assignment covers all atoms of a structure, regardless of their species.

    Args:
        x_0: Base positions (sum N, 3).
        x_1: Data positions (sum N, 3).
    """
    order = torch.arange(len(x_1))
    origin, target, sizes, ptr = x_0.cpu(), x_1.cpu(), layout.n_atoms.cpu(), layout.ptr.cpu()
    for size in sorted(set(layout.sizes) - {1}):
        rows = ptr[:-1][sizes == size, None] + torch.arange(size)
        difference = minimum_difference(target[rows][:, :, None] - origin[rows][:, None, :])
        for row, distance in zip(rows, difference.norm(dim=-1).numpy(), strict=True):
            order[row] = row[torch.from_numpy(linear_sum_assignment(distance)[1])]
    return order.to(x_0.device)
