"""Random formulas that could be compounds: charge-neutral ones, and alloys."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from functools import cache
from itertools import product

from pymatgen.core import Element

MOST_UNITS = 6
"""Largest number of atoms of an element in a formula."""
TRIALS = 2000
"""Formulas tried for each that is asked for, before giving up."""


def random_formulas(
    elements: Sequence[str], kinds: Sequence[int], atoms: int, count: int, seed: int
) -> list[dict[str, int]]:
    """Draw different reduced formulas that are charge-neutral with common oxidation states, or of metals alone.

    Args:
        elements: Symbols to take elements from.
        kinds: Numbers of elements of a formula, of which each is drawn equally often.
        atoms: Most atoms of a formula.
        count: How many formulas; fewer if no more are found.
        seed: Decides which.

    Returns:
        Atoms by symbol, in the order in which they were drawn.
    """
    rng = random.Random(seed)
    found: dict[tuple[tuple[str, int], ...], None] = {}
    possible = [n for n in kinds if n <= min(len(elements), atoms)]
    for _ in range(TRIALS * count if possible else 0):
        chosen = rng.sample(list(elements), rng.choice(possible))
        counts = [rng.randint(1, MOST_UNITS) for _ in chosen]
        if sum(counts) > atoms or (len(chosen) > 1 and math.gcd(*counts) > 1):
            continue
        if is_metallic(chosen) or is_neutral(chosen, counts):
            found.setdefault(tuple(sorted(zip(chosen, counts, strict=True))))
            if len(found) == count:
                break
    return [dict(formula) for formula in found]


def is_neutral(symbols: Sequence[str], counts: Sequence[int]) -> bool:
    """Return whether some common oxidation state of each element makes the formula neutral."""
    states = product(*(_states(symbol) for symbol in symbols))
    return any(sum(n * charge for n, charge in zip(counts, charges, strict=True)) == 0 for charges in states)


def is_metallic(symbols: Sequence[str]) -> bool:
    """Return whether all elements are metals."""
    return all(Element(symbol).is_metal for symbol in symbols)


@cache
def _states(symbol: str) -> tuple[int, ...]:
    return Element(symbol).common_oxidation_states
