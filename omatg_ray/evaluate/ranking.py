"""Energies of crystals within their compositions: how far above the best, and whether two potentials agree."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Final

from torch import Tensor

from omatg_ray.reward.matching import Composition

DISAGREE: Final = 0.1
"""eV/atom by which two potentials may differ on an energy difference."""


def above_best(keys: Sequence[Composition], energy: Tensor) -> list[float | None]:
    """Return the eV/atom of every crystal above the lowest of its composition; None if its energy is NaN.

    Args:
        keys: Composition of each of B crystals.
        energy: eV/atom (B,), NaN where unknown.
    """
    energies = energy.tolist()
    best = {key: min(energies[row] for row in rows) for key, rows in _known(keys, energies)}
    return [None if math.isnan(value) else value - best[key] for key, value in zip(keys, energies, strict=True)]


def in_dispute(keys: Sequence[Composition], first: Tensor, second: Tensor) -> list[bool]:
    """Return both crystals of every pair of one composition that two potentials order differently.

    Pairs count if their energy difference changes by more than `DISAGREE` between the potentials.

    Args:
        keys: Composition of each of B crystals.
        first: eV/atom by the first potential (B,), NaN where unknown.
        second: The same by the second.
    """
    disputed = [False] * len(keys)
    for _, rows in _known(keys, (second - first).tolist()):
        for row in rows:
            gap, other_gap = first[rows] - first[row], second[rows] - second[row]
            disputed[row] = bool(((gap * other_gap < 0) & ((gap - other_gap).abs() > DISAGREE)).any())
    return disputed


def opposed(drop: Tensor, second_drop: Tensor) -> list[bool]:
    """Return which relaxations one potential made and another objects to.

    The energy falls by the first, and rises by the second by more than `DISAGREE`.

    Args:
        drop: eV/atom (B,) by which the energy fell by the potential that relaxed the crystals, NaN where unknown.
        second_drop: The same by the other one.
    """
    return ((drop > 0) & (second_drop < -DISAGREE)).tolist()


def _known(keys: Sequence[Composition], values: Sequence[float]) -> Iterator[tuple[Composition, list[int]]]:
    """Return the rows of every composition that have a value."""
    rows: dict[Composition, list[int]] = defaultdict(list)
    for row, (key, value) in enumerate(zip(keys, values, strict=True)):
        if not math.isnan(value):
            rows[key].append(row)
    return iter(rows.items())
