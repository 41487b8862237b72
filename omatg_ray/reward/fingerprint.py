"""Dissimilarity of two crystals of one composition: the distance of their radial distribution functions.

The fingerprint of Oganov and Valle, J. Chem. Phys. 130, 104504 (2009): for every pair of elements A, B

    F_AB(r) = Σ_ij δ(r − r_ij) / (4π r² N_A (N_B / V) dr) − 1,

smeared by a Gaussian, and the cosine distance of two of them with weights w_AB ∝ N_A N_B. Lengths are in units of
(V/N)^(1/3), so two crystals that differ only in volume are the same, as for StructureMatcher.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.crystal.lattice import volume, wrap
from omatg_ray.crystal.validity import check_validity, minkowski_reduce
from omatg_ray.reward.graph import neighbours

CUTOFF = 3.0
SMEARING = 0.08
BIN = 0.02
"""In units of (V/N)^(1/3), a little less than a nearest-neighbour distance."""


def group_distances(crystals: CrystalBatch, members: int) -> Tensor:
    """Return the distances between the members of each group, 0 (same) to 1.

    Args:
        crystals: Groups of `members` consecutive crystals of one composition, on any device.
        members: Size of a group.

    Returns:
        (groups, members, members), float32, on the CPU; NaN for crystals that fail the validity checks, and for groups
        of several compositions.
    """
    crystals = crystals.to("cpu", torch.float64)
    valid = check_validity(crystals).valid
    distances = torch.full((len(crystals) // members, members, members), math.nan, dtype=torch.float64)
    compositions = list(map(sorted, crystals.atomic_numbers))
    for group in range(len(distances)):
        rows = torch.arange(group * members, (group + 1) * members)
        kept = valid[rows].nonzero().squeeze(1)
        if len(kept) and all(compositions[row] == compositions[rows[0]] for row in rows):
            fingerprint = fingerprints(crystals.select(rows[kept]))
            distances[group, kept[:, None], kept] = distances_between(fingerprint, fingerprint)
    # float32, because the distances of every iteration pass through the controller.
    return distances.float()


def distances_between(first: Tensor, second: Tensor) -> Tensor:
    """Return the distances (n, m), 0 (same) to 1, of fingerprints (n, D) and (m, D) of one composition."""
    return 0.5 * (1.0 - (first @ second.T).clamp(-1.0, 1.0))


def fingerprints(crystals: CrystalBatch) -> Tensor:
    """Return the fingerprints (B, D) of valid crystals of one composition, float64, each of length 1."""
    crystals = crystals.to("cpu", torch.float64)
    n = int(crystals.n_atoms[0])
    elements, kind = crystals.species.unique(return_inverse=True)
    amount = torch.bincount(kind, minlength=len(elements)).double() / len(crystals)
    cell = minkowski_reduce(crystals.cell)[0]
    frac = wrap((crystals.pos[:, None] @ (crystals.cell @ torch.linalg.inv(cell))[crystals.batch])[:, 0])
    cell = cell / (volume(cell) / n).pow(1 / 3)[:, None, None]
    # The margin includes all distances that are smeared into the cutoff.
    reach = CUTOFF + 3.0 * SMEARING
    n_bins, n_kinds = math.ceil(reach / BIN) + 2, len(elements)
    histogram = torch.zeros(len(crystals), n_kinds * n_kinds * n_bins, dtype=torch.float64)
    for b, (x, z) in enumerate(zip(frac.split(n), kind.split(n), strict=True)):
        lattice = cell[b].numpy()
        pairs, offset = (torch.from_numpy(part) for part in neighbours(x.numpy(), lattice, reach))
        length = ((x[pairs[1]] + offset - x[pairs[0]]) @ cell[b]).norm(dim=1)
        # Each distance is shared between the two nearest grid points, so that equal crystals do not differ by rounding.
        lower, share = (length / BIN).long(), (length / BIN).frac()
        index = (z[pairs[0]] * n_kinds + z[pairs[1]]) * n_bins + lower
        for at, part in ((index, 1.0 - share), (index + 1, share)):
            histogram[b] += torch.bincount(at, weights=part, minlength=histogram.shape[1])
    centre = torch.arange(n_bins, dtype=torch.float64) * BIN
    r = centre[(centre > 0.0) & (centre < CUTOFF)]
    smear = torch.exp(-0.5 * ((r[:, None] - centre) / SMEARING).square()) / (SMEARING * math.sqrt(2.0 * math.pi))
    counts = histogram.view(len(crystals), n_kinds, n_kinds, n_bins) @ smear.T
    # V = N in these units: N_B / V is the share of B.
    expected = 4.0 * math.pi * r.square() * (amount[:, None] * amount / n)[..., None]
    weight = (amount[:, None] * amount).sqrt() / n
    function = weight[..., None] * (counts / expected - 1.0)
    return torch.nn.functional.normalize(function.flatten(1), dim=1)
