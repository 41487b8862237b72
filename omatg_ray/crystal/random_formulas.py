"""Random formulas that could be compounds: charge-neutral ones, and alloys."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import combinations, islice, pairwise, product

from pymatgen.core import Element

MOST_UNITS = 6
"""Largest number of atoms of an element in a formula."""
MOST_SYSTEMS = 20_000
"""Chemical systems of one number of elements that are looked at."""


def random_formulas(
    elements: Sequence[str], kinds: Sequence[int], atoms: int, count: int, seed: int
) -> list[dict[str, int]]:
    """Draw different reduced formulas that are charge-neutral with common oxidation states, or of metals alone.

    Every chemical system gives one formula before any gives two, and numbers of elements take turns, as long as there
    are any.

    Args:
        elements: Different symbols to take elements from.
        kinds: Numbers of elements of a formula.
        atoms: Most atoms of a formula.
        count: How many formulas; fewer if there are no more.
        seed: Decides which.

    Returns:
        Atoms by symbol.
    """
    rng = random.Random(seed)
    sources = [_formulas(_systems(elements, n, rng), atoms, rng) for n in dict.fromkeys(kinds)]
    found: list[dict[str, int]] = []
    while sources and len(found) < count:
        for source in list(sources):
            formula = next(source, None)
            if formula is None:
                sources.remove(source)
            elif len(found) < count:
                found.append(formula)
    return found


def _systems(elements: Sequence[str], n: int, rng: random.Random) -> list[tuple[str, ...]]:
    """Return chemical systems of n elements in random order."""
    if math.comb(len(elements), n) <= MOST_SYSTEMS:
        systems = list(combinations(elements, n))
        rng.shuffle(systems)
        return systems
    drawn = dict.fromkeys(tuple(sorted(rng.sample(list(elements), n))) for _ in range(2 * MOST_SYSTEMS))
    return list(islice(drawn, MOST_SYSTEMS))


def _formulas(systems: Sequence[tuple[str, ...]], atoms: int, rng: random.Random) -> Iterator[dict[str, int]]:
    """Yield formulas in rounds, one of each system that has any left."""
    left: list[Iterator[dict[str, int]]] = [_of_system(symbols, atoms, rng) for symbols in systems]
    while left:
        following = []
        for formulas in left:
            if (formula := next(formulas, None)) is not None:
                following.append(formulas)
                yield formula
        left = following


def _of_system(symbols: tuple[str, ...], atoms: int, rng: random.Random) -> Iterator[dict[str, int]]:
    """Yield the formulas of a chemical system in random order."""
    allowed = formulas_of(symbols, atoms, MOST_UNITS)
    rng.shuffle(allowed)
    yield from allowed


def formulas_of(symbols: Sequence[str], atoms: int, most: int | None = None) -> list[dict[str, int]]:
    """Return all reduced formulas that hold each of these elements and are neutral, or of metals alone.

    Args:
        symbols: Different elements.
        atoms: Most atoms of a formula.
        most: Most atoms of an element; None: any number.

    Returns:
        Atoms by symbol.
    """
    metallic = is_metallic(symbols)
    # Where to cut a row of atoms gives how many there are of each element.
    rows = combinations(range(1, atoms + 1), len(symbols))
    every = ([end - start for start, end in pairwise((0, *cuts))] for cuts in rows)
    return [
        dict(zip(symbols, counts, strict=True))
        for counts in every
        if (most is None or max(counts) <= most)
        and math.gcd(*counts) == 1
        and (metallic or is_neutral(symbols, counts))
    ]


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
