"""Matches of generated crystals with references, and their closeness: pymatgen's StructureMatcher over many pairs."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor

from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.crystal.validity import check_validity
from omatg_ray.errors import DataError
from omatg_ray.run.bounded import BoundedPool, Outcome
from omatg_ray.run.progress import Progress

if TYPE_CHECKING:
    from omatg_ray.reward.worker_functions import Arrays

logger = logging.getLogger(__name__)

Composition = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class MatchSettings:
    """Tolerances of pymatgen's StructureMatcher; its other settings stay at their defaults.

    The defaults are those of crystal structure prediction benchmarks.

    Args:
        ltol: Fractional tolerance of the cell lengths.
        stol: Tolerance of the site displacements, in units of (V/N)^(1/3).
        angle_tol: Tolerance of the cell angles in degrees.
    """

    ltol: float = 0.3
    stol: float = 0.5
    angle_tol: float = 10.0


@dataclass(frozen=True)
class MatchResult:
    """Matches of many rows: pairs of crystals, or references.

    Attributes:
        rmse: Root mean square displacement in units of (V/N)^(1/3), float64 (rows,); NaN = no match.
        timed_out: Number of comparisons that exceeded the time bound. They count as no match.
        failed: Number of comparisons that raised an exception or whose worker process died twice. They count as no
            match.
    """

    rmse: Tensor
    timed_out: int
    failed: int = 0


class Matcher:
    """Matcher of generated against reference crystals, in this process or in parallel over worker processes.

    A pair is compared only if both crystals are valid (`omatg_ray.crystal.validity`) and their compositions agree; any
    other pair is no match. Every comparison has its own time bound, because StructureMatcher can take forever on nearly
    degenerate cells. Workers start when first needed and stay until the matcher is closed.

    Args:
        workers: Worker processes; 0 compares in this process (see `BoundedPool` for the time bound there).
        timeout: Seconds that one comparison may take.
        settings: Tolerances.
        reduced: Whether compositions agree if the reduced ones do (TiO2 and Ti2O4); False requires equal atom counts.
        own_images: Whether validity includes the distances of a site to its own periodic images.
        compare: The comparison that workers run, (first, second, ltol, stol, angle_tol) to RMSE or None. It must be
            picklable by name, and its module should import quickly. None stands for StructureMatcher's RMSE.

    Example:
        >>> with Matcher(workers=4) as matcher:                                  # doctest: +SKIP
        ...     result = matcher.pairs(generated, reference)
    """

    def __init__(
        self,
        workers: int = 0,
        timeout: float = 10.0,
        settings: MatchSettings = MatchSettings(),
        *,
        reduced: bool = True,
        own_images: bool = True,
        compare: Callable[..., float | None] | None = None,
    ) -> None:
        if compare is None:
            from omatg_ray.reward.worker_functions import matched_rmse

            compare = matched_rmse
        self.settings, self.reduced, self.own_images = settings, reduced, own_images
        self._pool = BoundedPool(compare, workers, timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the worker processes."""
        self._pool.close()

    def pairs(self, generated: CrystalBatch, reference: CrystalBatch) -> MatchResult:
        """Match row i against row i: `rmse` has one entry per row.

        Args:
            generated: Generated crystals.
            reference: As many references.

        Raises:
            DataError: The numbers of crystals differ.
        """
        if len(generated) != len(reference):
            raise DataError(f"{len(generated)} generated crystals cannot be matched with {len(reference)} references")
        return self.listed(generated, reference, [(i, i) for i in range(len(generated))])

    def listed(self, generated: CrystalBatch, reference: CrystalBatch, pairs: Sequence[tuple[int, int]]) -> MatchResult:
        """Match the pairs (generated, reference) of a list: `rmse` has one entry per pair.

        Args:
            generated: Generated crystals.
            reference: References.
            pairs: Indices into the two; each comparison of the list is made once.
        """
        ours, theirs = self._keys(generated), self._keys(reference)
        kept = [k for k, (i, j) in enumerate(pairs) if ours[i] is not None and ours[i] == theirs[j]]
        left, right, tolerances = (to_arrays(generated), to_arrays(reference), astuple(self.settings))
        compared = [pairs[k] for k in kept]
        calls = [(left[i], right[j], *tolerances) for i, j in compared]
        outcomes = run_all(self._pool, calls, [f"generated {i} and reference {j}" for i, j in compared])
        rmse = torch.full((len(pairs),), math.nan, dtype=torch.float64)
        found = [math.nan if outcome.value is None else outcome.value for outcome in outcomes]
        rmse[kept] = torch.tensor(found, dtype=torch.float64)
        timed_out = sum(outcome.timed_out for outcome in outcomes)
        failed = sum(outcome.error is not None for outcome in outcomes) - timed_out
        return MatchResult(rmse, timed_out, failed)

    def _keys(self, crystals: CrystalBatch) -> list[Composition | None]:
        """Return the key that two crystals must share to be compared; None = never compared."""
        valid = check_validity(crystals, own_images=self.own_images).valid.tolist()
        return [key if ok else None for key, ok in zip(compositions(crystals, self.reduced), valid, strict=True)]


def compositions(crystals: CrystalBatch, reduced: bool = True) -> list[Composition]:
    """Return the (atomic number, count) pairs of every crystal, sorted; counts have no common factor if `reduced`."""
    species, ptr = crystals.species.tolist(), crystals.ptr.tolist()
    result = []
    for start, end in pairwise(ptr):
        counts = Counter(species[start:end])
        factor = math.gcd(*counts.values()) if reduced else 1
        result.append(tuple(sorted((z, n // factor) for z, n in counts.items())))
    return result


def to_arrays(crystals: CrystalBatch) -> list[Arrays]:
    """Convert every crystal to numpy arrays in float64, for workers that do not import torch."""
    from omatg_ray.reward.worker_functions import Arrays

    species, ptr = crystals.species.cpu().numpy(), crystals.ptr.tolist()
    pos, cell = (crystals.pos.double().cpu().numpy(), crystals.cell.double().cpu().numpy())
    return [Arrays(species[start:end], pos[start:end], cell[b]) for b, (start, end) in enumerate(pairwise(ptr))]


def run_all(
    pool: BoundedPool, calls: Sequence[tuple[Any, ...]], names: Sequence[str], progress: str | None = None
) -> list[Outcome]:
    """Return the outcomes of all calls in their order; log the failed ones by name.

    Args:
        pool: Pool that runs them.
        calls: Arguments of every call.
        names: Subject of every call, for the log.
        progress: Title of a progress bar; None shows none.
    """
    outcomes = [Outcome()] * len(calls)
    with Progress(len(calls), progress or "", shown=progress is not None) as bar:
        for index, outcome in pool.map(calls):
            outcomes[index] = outcome
            if outcome.error is not None:
                logger.warning("%s: %s", names[index], outcome.error)
            bar.advance()
    return outcomes
