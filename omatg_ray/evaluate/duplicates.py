"""Equal crystals in a set of known ones, with a bound on the work."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.evaluate.unique import find_unique
from omatg_ray.reward.matching import compositions

COMPARISONS = 20_000
"""Comparisons of two crystals, some milliseconds each."""


@dataclass(frozen=True)
class Duplicates:
    """Crystals that are equal to an earlier one.

    Attributes:
        of: Index of the earlier crystal, by index.
        compared: Number of crystals that were compared with all others of their composition.
        left_out: Number of crystals of compositions that the bound left out.
        failed: Number of comparisons that failed or took too long; they count as different.
    """

    of: dict[int, int]
    compared: int
    left_out: int
    failed: int


def find_duplicates(
    crystals: CrystalBatch, most: int = COMPARISONS, *, workers: int = 0, timeout: float = 10.0, progress: bool = False
) -> Duplicates:
    """Find crystals that StructureMatcher considers equal to an earlier one of the same reduced composition.

    Args:
        crystals: B crystals. Invalid ones are equal to none.
        most: Largest number of comparisons. Compositions with few crystals come first; those beyond are left out.
        workers: Worker processes; 0 compares in this process (see `BoundedPool`).
        timeout: Seconds that one comparison may take.
        progress: Show a progress bar.
    """
    keys = compositions(crystals)
    chosen, needed = set(), 0
    for key, count in sorted(Counter(keys).items(), key=lambda pair: pair[1]):
        needed += count * (count - 1) // 2
        if needed > most:
            break
        chosen.add(key)
    rows = [row for row, key in enumerate(keys) if key in chosen]
    unique = find_unique(
        crystals.select(rows), workers=workers, timeout=timeout, progress="duplicates" if progress else None
    )
    firsts = [rows[row] for row in unique.representatives.tolist()]
    leaders = [firsts[cluster] for cluster in unique.cluster.tolist()]
    of = {row: leader for row, leader in zip(rows, leaders, strict=True) if row != leader}
    return Duplicates(of, len(rows), len(keys) - len(rows), unique.timed_out + unique.failed)
