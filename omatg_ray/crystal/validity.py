"""Validity of structures as crystals: cheap geometric checks, made when reading and before computing energies."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.crystal.lattice import minimum_difference, polar_sine, volume

MIN_VOLUME = 0.1
"""Smallest valid volume of a cell, in Å³."""
MIN_DISTANCE = 0.5
"""Smallest valid distance between two atoms, periodic images included, in Å."""
MIN_POLAR_SINE = 1e-3
"""Smallest valid volume of a cell divided by the product of its three lengths."""

MAX_REDUCTION_STEPS = 100
PAIRS_AT_ONCE = 1_000_000
"""Pairs of atoms whose distances are computed together, some 300 bytes each; a crystal of 1,000 atoms has half as many.
"""


@dataclass(frozen=True)
class Validity:
    """Results of the checks of B structures, each (B,), on the CPU; the measures are float64.

    Attributes:
        volume: Volume of the cell in Å³.
        min_distance: Shortest periodic distance in Å; infinite if there is none (a one-atom cell when its own images
            do not count), NaN if the cell already fails another check.
        polar_sine: Volume divided by the product of the three lengths; NaN if a length is 0.
        valid: Whether the structure is finite and passes all three checks (bool).
    """

    volume: Tensor
    min_distance: Tensor
    polar_sine: Tensor
    valid: Tensor


def check_validity(crystals: CrystalBatch, own_images: bool = True) -> Validity:
    """Check that structures are finite, that their cells span a volume and that their atoms keep apart.

    The limits are those of OMatG-IRL (arXiv 2602.00424): `MIN_VOLUME`, `MIN_POLAR_SINE`, `MIN_DISTANCE`, all inclusive.
    Distances are exact for every cell, however skewed: they are measured in the Minkowski-reduced cell (see
    `shortest_distances`). Cells that fail volume or polar sine are not measured.

    Args:
        crystals: B structures, on any device, wrapped or not.
        own_images: Whether the distance of a site to its own periodic images counts. Without them (the published
            rule) a cell with one short vector passes.
    """
    crystals = crystals.to("cpu", torch.float64)
    cell_volume, sine = volume(crystals.cell), polar_sine(crystals.cell)
    infinite_coordinates = crystals.layout.sum((~crystals.pos.isfinite()).sum(1))
    sound = (
        crystals.cell.isfinite().all(-1).all(-1)
        & (infinite_coordinates == 0)
        & (cell_volume >= MIN_VOLUME)
        & cell_volume.isfinite()
        & (sine >= MIN_POLAR_SINE)
    )
    distance = torch.full_like(cell_volume, torch.nan)
    for rows in _parts(crystals.n_atoms, sound.nonzero().squeeze(1)):
        distance[rows] = shortest_distances(crystals.select(rows), own_images)
    return Validity(cell_volume, distance, sine, sound & (distance >= MIN_DISTANCE))


def _parts(n_atoms: Tensor, rows: Tensor) -> Iterator[Tensor]:
    """Yield the rows in order, in parts of about `PAIRS_AT_ONCE` pairs of atoms."""
    part = (n_atoms[rows] ** 2 // 2).cumsum(0) // PAIRS_AT_ONCE
    yield from rows.split(part.unique_consecutive(return_counts=True)[1].tolist()) if len(rows) else ()


def shortest_distances(crystals: CrystalBatch, own_images: bool = True) -> Tensor:
    """Return the shortest periodic distance of every structure (B,) in Å. The cells must span a volume.

    In a Minkowski-reduced cell a1, a2, a3 the images x1 a1 + x2 a2 + x3 a3 of a difference with fractional
    components d in [-1/2, 1/2], x_i = d_i + n_i, need not be searched beyond n2, n3 in {-1, 0, 1} and, for each of
    these, the one n1 that minimises a quadratic:

    - The nearest image is no longer than the covering radius, <= (√3/2)|a3|, and the height of the cell over the
      plane of a1, a2 is >= |a3|/√2 (the volume is >= |a1||a2||a3|/√2). So |x3| <= √(3/2) < 1.23 and |n3| <= 1.
    - For this n3, the part in the plane lies in the Voronoi cell of the planar lattice, where the component along a2
      is <= 2/3; so does the projection of a3, because a3 is the shortest of a3 + m1 a1 + m2 a2.
      So |x2| <= 2/3 + 1.23 · 2/3 < 1.5 and |n2| <= 1.

    The shortest distance of a site to its own images is |a1|.

    Args:
        crystals: B structures on the CPU, finite, in float64.
        own_images: Whether the distance of a site to its own images counts.

    Returns:
        (B,); infinite if there is nothing to measure, NaN if the cell is too extreme to be reduced.
    """
    cell, converged = minkowski_reduce(crystals.cell)
    shortest = cell[:, 0].norm(dim=-1) if own_images else torch.full((len(cell),), torch.inf, dtype=cell.dtype)
    structure = crystals.layout.pairs[2]
    shortest = shortest.scatter_reduce(0, structure, _pair_distances(crystals, cell), "amin")
    return torch.where(converged, shortest, torch.nan)


def closest_atoms(crystal: CrystalBatch) -> tuple[int, int, float]:
    """Return the two atoms of one structure that are nearest to each other, and their distance in Å.

    The same atom twice means an atom and its own image.
    """
    cell, _ = minkowski_reduce(crystal.cell)
    own, (first, second, _) = float(cell[0, 0].norm()), crystal.layout.pairs
    distances = _pair_distances(crystal, cell)
    if len(distances) == 0 or float(distances.min()) >= own:
        return 0, 0, own
    index = int(distances.argmin())
    return int(first[index]), int(second[index]), float(distances[index])


def _pair_distances(crystals: CrystalBatch, cell: Tensor) -> Tensor:
    """Return the shortest distances (P,) of the pairs of `Layout.pairs`, by the reduced lattices (B, 3, 3)."""
    first, second, structure = crystals.layout.pairs
    difference = minimum_difference(crystals.pos[second] - crystals.pos[first])
    cartesian = (difference[:, None, :] @ crystals.cell[structure])[:, 0]
    inverse, _ = torch.linalg.inv_ex(cell)
    reduced = minimum_difference((cartesian[:, None, :] @ inverse[structure])[:, 0])
    vectors = cell[structure]
    origin = (reduced[:, None, :] @ vectors)[:, 0]
    a1, a2, a3 = vectors.unbind(1)
    length_squared = (a1 * a1).sum(-1, keepdim=True)
    nearest = torch.full((len(structure),), torch.inf, dtype=cell.dtype)
    for n2 in (-1, 0, 1):
        for n3 in (-1, 0, 1):
            image = origin + n2 * a2 + n3 * a3
            image = image - torch.round((image * a1).sum(-1, keepdim=True) / length_squared) * a1
            nearest = torch.minimum(nearest, image.norm(dim=-1))
    return nearest


def minkowski_reduce(cell: Tensor) -> tuple[Tensor, Tensor]:
    """Return other vectors of the same lattices, as short and as orthogonal as possible.

    On return |a1| <= |a2| <= |a3|, and every vector is the shortest that adding multiples of the ones before it can
    make: |a2| <= |a2 + m a1| and |a3| <= |a3 + m1 a1 + m2 a2| for all integers (Minkowski's conditions, of which in
    three dimensions those with m in {-1, 0, 1} imply the rest). The method is the greedy one of P. Q. Nguyen and
    D. Stehlé, ACM Trans. Algorithms 5, 46 (2009).

    Args:
        cell: Lattices (B, 3, 3), float64, rows are the vectors, none of zero volume.

    Returns:
        The reduced lattices (B, 3, 3), of either handedness, and whether each one is reduced (B,): cells whose
        entries differ by so many orders of magnitude that rounding wins may not be.
    """
    steps = torch.tensor([-1.0, 0.0, 1.0], dtype=cell.dtype, device=cell.device)
    combinations = torch.cartesian_prod(steps, steps)
    converged = torch.zeros(len(cell), dtype=torch.bool, device=cell.device)
    for _ in range(MAX_REDUCTION_STEPS):
        order = cell.norm(dim=-1).argsort(dim=-1, stable=True)
        a1, a2, a3 = cell.gather(1, order[..., None].expand_as(cell)).unbind(1)
        square = (a1 * a1).sum(-1, keepdim=True)
        nearer = a2 - torch.round((a2 * a1).sum(-1, keepdim=True) / square) * a1
        # Only a real decrease counts as progress: among equal lengths, rounding would choose forever.
        reduced2 = nearer.norm(dim=-1) < a2.norm(dim=-1) * (1 - 1e-12)
        a2 = torch.where(reduced2[:, None], nearer, a2)
        # Babai's nearest plane brings a3 close in one step, however long it is; the nine candidates make it shortest.
        normal2 = a2 - (a2 * a1).sum(-1, keepdim=True) / square * a1
        n2 = torch.round((a3 * normal2).sum(-1, keepdim=True) / (normal2 * normal2).sum(-1, keepdim=True))
        close = a3 - n2 * a2
        close = close - torch.round((close * a1).sum(-1, keepdim=True) / square) * a1
        candidates = close[:, None] + combinations[:, :1] * a1[:, None] + combinations[:, 1:] * a2[:, None]
        lengths = candidates.norm(dim=-1)
        shortest = candidates[torch.arange(len(cell), device=cell.device), lengths.argmin(dim=-1)]
        shorter = lengths.amin(dim=-1) < a3.norm(dim=-1) * (1 - 1e-12)
        a3 = torch.where(shorter[:, None], shortest, a3)
        cell = torch.stack([a1, a2, a3], 1)
        a1_length, a2_length, a3_length = cell.norm(dim=-1).unbind(-1)
        ordered = (a1_length <= a2_length * (1 + 1e-12)) & (a2_length <= a3_length * (1 + 1e-12))
        converged = ~reduced2 & ~shorter & ordered
        if converged.all():
            break
    return cell, converged
