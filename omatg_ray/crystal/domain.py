"""What a model or a potential was trained on, as far as compositions say it, and what lies outside.

A composition is outside if it has an element or a pair of elements that no training crystal has, or a number of
elements or atoms that few of them have. This says nothing about geometry: inside, a result may still be wrong.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from functools import cached_property
from itertools import combinations
from typing import Final, NamedTuple, Self

from pydantic import Field

from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.run.text import counted
from omatg_ray.settings import Settings

DOMAIN_FILE: Final = "domain.json"
"""The domain of a potential, beside its weights. That of a model is part of its `model.json`."""
SELDOM: Final = 0.01
"""A number of elements or atoms is outside if a smaller share of the training crystals has it."""
INSIDE: Final = "yes"
UNKNOWN: Final = "unknown"
LISTED: Final = 6
"""Reasons named in a warning, which may be about hundreds of compositions."""


class Reason(NamedTuple):
    """Why a composition is outside.

    Attributes:
        what: `Co`, `P-O`, `4 elements` or `28 atoms`.
        seen: Number of training crystals that have it.
    """

    what: str
    seen: int


class Domain(Settings):
    """Elements, pairs of elements, numbers of elements and numbers of atoms of a set of training crystals."""

    partners: dict[str, str] = Field(
        description="for each element, those that occur with it in a training crystal, separated by spaces"
    )
    elements: dict[int, int] = Field(description="training crystals for each number of elements")
    sizes: dict[int, int] = Field(
        {}, description="training crystals for each number of atoms per cell; empty if it does not matter"
    )

    @classmethod
    def of(cls, cells: CrystalBatch | Iterable[Sequence[int]], sized: bool = True) -> Self:
        """Return the domain of crystals, or of the atomic numbers of each.

        Args:
            cells: Training crystals.
            sized: Whether numbers of atoms matter. For a generator they do; a potential sees neighbours, not cells.
        """
        if isinstance(cells, CrystalBatch):
            cells = species_of(cells)
        kinds = Counter((frozenset(cell), len(cell)) for cell in cells)
        partners: dict[int, set[int]] = {}
        elements, sizes = Counter[int](), Counter[int]()
        for (kind, size), count in kinds.items():
            elements[len(kind)] += count
            sizes[size] += count
            for z in kind:
                partners.setdefault(z, set()).update(kind - {z})
        return cls(
            partners={_symbol(z): " ".join(map(_symbol, sorted(others))) for z, others in sorted(partners.items())},
            elements=dict(sorted(elements.items())),
            sizes=dict(sorted(sizes.items())) if sized else {},
        )

    @cached_property
    def crystals(self) -> int:
        """Number of training crystals."""
        return sum(self.elements.values())

    @cached_property
    def pairs(self) -> frozenset[frozenset[str]]:
        """Pairs of elements that occur together."""
        return frozenset(frozenset((one, other)) for one, others in self.partners.items() for other in others.split())

    def outside(self, species: Collection[int] | int) -> list[Reason]:
        """Return why a cell is outside; nothing if it is not.

        Args:
            species: Its atomic numbers, or only how many there are, if the elements are still open.
        """
        if isinstance(species, int):
            return self._seldom(self.sizes, species, "atom")
        symbols = by_electronegativity(set(species))
        new = [symbol for symbol in symbols if symbol not in self.partners]
        known = [symbol for symbol in symbols if symbol in self.partners]
        new += [f"{a}-{b}" for a, b in combinations(known, 2) if frozenset((a, b)) not in self.pairs]
        return [
            *(Reason(what, 0) for what in new),
            *self._seldom(self.elements, len(symbols), "element"),
            *self.outside(len(species)),
        ]

    def _seldom(self, counts: dict[int, int], number: int, noun: str) -> list[Reason]:
        seen = counts.get(number, 0)
        return [Reason(counted(number, noun), seen)] if counts and seen < SELDOM * self.crystals else []


class Trained(NamedTuple):
    """A model or potential, and what it was trained on.

    Attributes:
        who: `model runs/base`, `potential bundled`.
        domain: None if it does not say.
    """

    who: str
    domain: Domain | None


def judge(trained: Iterable[Trained], species: Collection[int] | int) -> str:
    """Return `yes` if a cell is in every domain that is known, `unknown` if none is known, else why it is not."""
    domains = [domain for _, domain in trained if domain is not None]
    reasons = dict.fromkeys(reason.what for domain in domains for reason in domain.outside(species))
    return ", ".join(reasons) or (INSIDE if domains else UNKNOWN)


def report_outside(trained: Iterable[Trained], cells: Sequence[Collection[int] | int], noun: str) -> str:
    """Say in a few words which cells are outside of which domain, and why; nothing if none is.

    Args:
        trained: Models and potentials. Nothing is said about one that has no domain.
        cells: Atomic numbers of each cell, or only how many there are.
        noun: What the cells are, in the plural.
    """
    parts = []
    for who, domain in trained:
        reasons = [] if domain is None else [found for cell in cells if (found := domain.outside(cell))]
        if domain is not None and reasons:
            commonest = Counter(reason for found in reasons for reason in found).most_common()
            named = [reason for reason, _ in commonest[:LISTED]]
            never = [reason.what for reason in named if not reason.seen]
            why = [f"none has {' or '.join(never)}"] if never else []
            why += [f"{r.seen:,} {'has' if r.seen == 1 else 'have'} {r.what}" for r in named if r.seen]
            if len(commonest) > LISTED:
                why.append(f"and {len(commonest) - LISTED} more")
            parts.append(
                f"{who}{f', {len(reasons):,} of {len(cells):,} {noun}' if len(cells) > 1 else ''}: of its "
                f"{domain.crystals:,} training crystals {', '.join(why)}"
            )
    return "; ".join(parts)


def species_of(crystals: CrystalBatch) -> list[list[int]]:
    """Return the atomic numbers of each crystal."""
    return [species.tolist() for species in crystals.species.cpu().split(crystals.layout.sizes)]


def _symbol(z: int) -> str:
    from pymatgen.core import Element

    return Element.from_Z(z).symbol


def by_electronegativity(numbers: Iterable[int]) -> list[str]:
    """Return the symbols of atomic numbers in the order of formulas, cations first."""
    from pymatgen.core import Element

    return [element.symbol for element in sorted(map(Element.from_Z, numbers))]
