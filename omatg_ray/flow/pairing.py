"""Pairing of base and data positions: which atom of x_0 goes to which of x_1, and from which origin.

The base draws every atom's position from the same distribution, so its rows may be assigned in any order. Assigning
them to the data atoms such that the total path length is smallest straightens the flow.

Uniform positions may be translated, too, and a crystal is the same wherever its origin lies. Choosing the origin as
well shortens the paths further (equivariant optimal transport: Klein et al., Song et al., both NeurIPS 2023).
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from omatg_ray.crystal.batch import CrystalBatch, Layout
from omatg_ray.crystal.lattice import minimum_difference, wrap
from omatg_ray.flow.settings import PathSettings

ORIGINS, REFINEMENTS = 8, 2
"""Origins that are tried for each crystal, and how often the best is refined; more shorten paths by a few per cent."""


def pair(paths: PathSettings, x_0: CrystalBatch, x_1: CrystalBatch) -> CrystalBatch:
    """Return x_0 with its atoms in the order of the shortest paths to x_1; with `free_origin`, translated as well."""
    if paths.pairing == "free_origin":
        order, shift = shortest_paths(x_0.pos, x_1.pos, x_1.layout)
        return x_0.replace(wrap(x_0.pos[order] + shift.index_select(0, x_1.batch)))
    return x_0.replace(x_0.pos[minimum_permutation(x_0.pos, x_1.pos, x_1.layout)])


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


def shortest_paths(x_0: Tensor, x_1: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
    """Return an order of x_0 (sum N,) and translations (B, 3) that make the sum of squared distances to x_1 small.

    Distances are those of `minimum_permutation`. For each structure the origins tried are that of x_0 as it is, and
    those that bring one of its first atoms onto the first atom of x_1. The best is refined: it moves by the mean
    difference, and atoms are assigned anew. In structures of up to `ORIGINS` atoms a translated copy is recognised for
    certain.

    Args:
        x_0: Base positions (sum N, 3).
        x_1: Data positions (sum N, 3).
    """
    order, shift = np.empty(len(x_1), dtype=np.int64), np.empty((len(layout.sizes), 3))
    origin, target = x_0.detach().double().cpu().numpy(), x_1.detach().double().cpu().numpy()
    start = 0
    for b, size in enumerate(layout.sizes):
        rows = slice(start, start + size)
        apart = target[rows, None] - origin[None, rows]
        tried = [_refined(apart, moved) for moved in (np.zeros(3), *apart[0, :ORIGINS])]
        best = min(tried, key=lambda one: one[0])
        for _ in range(REFINEMENTS):
            best = min(best, _refined(apart, best[2]), key=lambda one: one[0])
        order[rows], shift[b] = start + best[1], best[2]
        start += size
    return torch.from_numpy(order).to(x_0.device), torch.from_numpy(shift).to(x_0)


def _refined(apart: np.ndarray, moved: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    """Assign atoms whose differences (N, N, 3) are less a translation, then translate so that the mean vanishes.

    Returns:
        Sum of the squared distances, the assignment (N,), and the translation.
    """
    difference = (apart - moved + 0.5) % 1.0 - 0.5
    rows, columns = linear_sum_assignment(np.square(difference).sum(-1))
    chosen = difference[rows, columns]
    mean = chosen.mean(0)
    return float(np.square(chosen - mean).sum()), columns, moved + mean
