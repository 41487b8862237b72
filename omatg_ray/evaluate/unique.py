"""Detection of equal crystals among generated ones, and their space groups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.crystal.standard_crystal import SYMPREC
from omatg_ray.crystal.validity import check_validity
from omatg_ray.errors import DataError
from omatg_ray.reward.matching import MatchSettings, compositions, run_all, to_arrays
from omatg_ray.run.bounded import BoundedPool

SAME_STRUCTURE = MatchSettings(ltol=0.2, stol=0.3, angle_tol=5.0)
"""pymatgen's own tolerances: tighter than those of prediction benchmarks."""
WORTH_A_BAR = 100
"""Comparisons of a round from which on it shows its progress."""


@dataclass(frozen=True)
class UniqueCrystals:
    """Clusters of equal crystals.

    Attributes:
        representatives: Index of the crystal that represents each cluster (clusters,), best first.
        cluster: Cluster of every crystal (B,): crystal i is equal to `representatives[cluster[i]]`.
        timed_out: Number of comparisons stopped at the time limit; they count as different.
        failed: Number of comparisons that raised an exception or whose worker died; they count as different.
    """

    representatives: Tensor
    cluster: Tensor
    timed_out: int
    failed: int = 0


class SpaceGroup(NamedTuple):
    """Hermann-Mauguin symbol and number (1 to 230)."""

    symbol: str
    number: int


def find_unique(
    crystals: CrystalBatch,
    energies: Tensor | Sequence[float] | None = None,
    *,
    workers: int = 0,
    timeout: float = 10.0,
    progress: str | None = None,
) -> UniqueCrystals:
    """Cluster crystals that StructureMatcher considers equal.

    Crystals are taken in order of energy (or as they come); each joins the first earlier representative that it
    matches, or becomes one. Only crystals of one reduced composition are compared. No cheaper test excludes pairs
    beforehand: StructureMatcher scales volumes, so crystals that it considers equal may differ in volume and in energy
    per atom. Invalid crystals are never compared; each stays alone.

    Args:
        crystals: B crystals.
        energies: Energy per atom in eV (B,); the lowest of a cluster represents it, NaN comes last. None keeps the
            first.
        workers: Worker processes; 0 compares in this process (see `BoundedPool`).
        timeout: Seconds that one comparison may take.
        progress: Title of the progress bars of rounds with many comparisons; None shows none.

    Raises:
        DataError: There are not as many energies as crystals.
    """
    order = _order(energies, len(crystals))
    valid = check_validity(crystals).valid.tolist()
    arrays, keys, tolerances = to_arrays(crystals), compositions(crystals), astuple(SAME_STRUCTURE)
    from omatg_ray.reward.worker_functions import is_same

    leader = {i: i for i in order if not valid[i]}
    undecided = [i for i in order if valid[i]]
    timed_out = failed = 0
    with BoundedPool(is_same, workers, timeout) as pool:
        # One round settles the best remaining crystal of every composition and all equal to it, with independent
        # comparisons; the result is that of taking the crystals one by one.
        while undecided:
            first: dict[object, int] = {}
            for i in undecided:
                first.setdefault(keys[i], i)
            rows = [(i, first[keys[i]]) for i in undecided if first[keys[i]] != i]
            calls = [(arrays[i], arrays[j], *tolerances) for i, j in rows]
            title = progress if len(calls) >= WORTH_A_BAR else None
            outcomes = run_all(pool, calls, [f"crystals {i} and {j}" for i, j in rows], title)
            leader.update({j: j for j in first.values()})
            leader.update({i: j for (i, j), outcome in zip(rows, outcomes, strict=True) if outcome.value})
            undecided = [i for i in undecided if i not in leader]
            late = sum(outcome.timed_out for outcome in outcomes)
            timed_out += late
            failed += sum(outcome.error is not None for outcome in outcomes) - late
    representatives = [i for i in order if leader[i] == i]
    cluster_of = {i: cluster for cluster, i in enumerate(representatives)}
    cluster = [cluster_of[leader[i]] for i in range(len(crystals))]
    return UniqueCrystals(
        torch.tensor(representatives, dtype=torch.long), torch.tensor(cluster, dtype=torch.long), timed_out, failed
    )


def _order(energies: Tensor | Sequence[float] | None, count: int) -> list[int]:
    if energies is None:
        return list(range(count))
    energies = torch.as_tensor(energies, dtype=torch.float64)
    if energies.shape != (count,):
        raise DataError(f"energies has shape {tuple(energies.shape)}; {count} crystals need ({count},)")
    return torch.argsort(energies, stable=True).tolist()


def space_groups(
    crystals: CrystalBatch, symprec: float = SYMPREC, *, workers: int = 0, timeout: float = 10.0
) -> list[SpaceGroup | None]:
    """Find the space group of every crystal; see `space_groups_at`."""
    return [found for (found,) in space_groups_at(crystals, (symprec,), workers=workers, timeout=timeout)]


def space_groups_at(
    crystals: CrystalBatch, tolerances: Sequence[float], *, workers: int = 0, timeout: float = 10.0
) -> list[tuple[SpaceGroup | None, ...]]:
    """Find the space group of every crystal at each tolerance; None if it is invalid, if spglib finds none, on timeout.

    Args:
        crystals: B crystals.
        tolerances: spglib's, in Å, of positions and, by the lengths they subtend, of cell angles.
        workers: Worker processes; 0 computes in this process (see `BoundedPool`).
        timeout: Seconds that one crystal may take at one tolerance.
    """
    from omatg_ray.reward.worker_functions import space_group

    arrays = to_arrays(crystals)
    rows = check_validity(crystals).valid.nonzero().flatten().tolist()
    asked = [(i, tolerance) for i in rows for tolerance in tolerances]
    with BoundedPool(space_group, workers, timeout) as pool:
        calls = [(arrays[i], tolerance) for i, tolerance in asked]
        outcomes = run_all(pool, calls, [f"space group of crystal {i} at {tolerance:g} A" for i, tolerance in asked])
    found = {
        key: None if outcome.value is None else SpaceGroup(*outcome.value)
        for key, outcome in zip(asked, outcomes, strict=True)
    }
    return [tuple(found.get((i, tolerance)) for tolerance in tolerances) for i in range(len(crystals))]
