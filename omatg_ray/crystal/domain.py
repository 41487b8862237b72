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
from omatg_ray.crystal.composition import symbol
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
            cells = cells.atomic_numbers
        kinds = Counter((frozenset(cell), len(cell)) for cell in cells)
        partners: dict[int, set[int]] = {}
        elements, sizes = Counter[int](), Counter[int]()
        for (kind, size), count in kinds.items():
            elements[len(kind)] += count
            sizes[size] += count
            for z in kind:
                partners.setdefault(z, set()).update(kind - {z})
        return cls(
            partners={symbol(z): " ".join(map(symbol, sorted(others))) for z, others in sorted(partners.items())},
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

    def outside(self, species: Collection[int]) -> list[Reason]:
        """Return why a cell with these atomic numbers is outside; nothing if it is not."""
        symbols = by_electronegativity(set(species))
        new = [element for element in symbols if element not in self.partners]
        known = [element for element in symbols if element in self.partners]
        new += [f"{a}-{b}" for a, b in combinations(known, 2) if frozenset((a, b)) not in self.pairs]
        return [
            *(Reason(what, 0) for what in new),
            *self._seldom(self.elements, len(symbols), "element"),
            *self.outside_by_size(len(species)),
        ]

    def outside_by_size(self, atoms: int) -> list[Reason]:
        """Return why a cell with this number of atoms, whose elements are still open, is outside."""
        return self._seldom(self.sizes, atoms, "atom")

    def _seldom(self, counts: dict[int, int], number: int, noun: str) -> list[Reason]:
        seen = counts.get(number, 0)
        return [Reason(counted(number, noun), seen)] if counts and seen < SELDOM * self.crystals else []


class Trained(NamedTuple):
    """A model or potential, and what it was trained on.

    Attributes:
        who: `model runs/base`, `potential bundled`.
        domain: None if it does not say.
        is_model: Whether it is a model. Only what every model was trained on is inside.
        open_species: Whether elements are still open, since a model will choose them: only the number of atoms counts.
    """

    who: str
    domain: Domain | None
    is_model: bool = False
    open_species: bool = False

    def outside(self, species: Collection[int]) -> list[Reason]:
        """Return why a cell with these atomic numbers is outside; nothing if it is not, or if that is unknown."""
        if self.domain is None:
            return []
        return self.domain.outside_by_size(len(species)) if self.open_species else self.domain.outside(species)


def judge(trained: Sequence[Trained], species: Collection[int]) -> str:
    """Say whether a cell with these atomic numbers is in domain: `yes`, `unknown`, or `no (P-O, 28 atoms)`.

    It is unknown if a model does not say what it was trained on, or if nothing does. A potential that does not say is
    left out.
    """
    reasons = dict.fromkeys(reason.what for one in trained for reason in one.outside(species))
    if reasons:
        return f"no ({', '.join(reasons)})"
    said = [one for one in trained if one.domain is not None]
    return INSIDE if said and all(one in said for one in trained if one.is_model) else UNKNOWN


def share_inside(judgements: Sequence[str]) -> float | None:
    """Return which share of what `judge` said is `yes`; None if some of it is unknown."""
    if not judgements or UNKNOWN in judgements:
        return None
    return judgements.count(INSIDE) / len(judgements)


def report_outside(trained: Iterable[Trained], cells: Sequence[Collection[int]], noun: str) -> str:
    """Say in a few words which cells are outside of which domain, and why; nothing if none is.

    Args:
        trained: Models and potentials. Nothing is said about one that has no domain.
        cells: Atomic numbers of each cell.
        noun: What the cells are, in the plural.
    """
    parts = []
    for one in trained:
        reasons = [found for cell in cells if (found := one.outside(cell))]
        if one.domain is not None and reasons:
            commonest = Counter(reason for found in reasons for reason in found).most_common()
            named = [reason for reason, _ in commonest[:LISTED]]
            never = [reason.what for reason in named if not reason.seen]
            why = [f"none has {' or '.join(never)}"] if never else []
            why += [f"{r.seen:,} {'has' if r.seen == 1 else 'have'} {r.what}" for r in named if r.seen]
            if len(commonest) > LISTED:
                why.append(f"and {len(commonest) - LISTED} more")
            # Those of a potential may be candidates, of which some were not labelled.
            counted_crystals = f"its {one.domain.crystals:,} training crystals"
            if not one.is_model:
                counted_crystals = f"the {one.domain.crystals:,} crystals in its domain"
            parts.append(
                f"{one.who}{f', {len(reasons):,} of {len(cells):,} {noun}' if len(cells) > 1 else ''}: of "
                f"{counted_crystals} {', '.join(why)}"
            )
    return "; ".join(parts)


def by_electronegativity(numbers: Iterable[int]) -> list[str]:
    """Return the symbols of atomic numbers in the order of formulas, cations first."""
    from pymatgen.core import Element

    return [element.symbol for element in sorted(map(Element.from_Z, numbers))]
