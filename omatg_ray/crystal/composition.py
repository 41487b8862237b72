"""Comparison of a crystal's atoms with the formula, formula units and multiplicities that its file states."""

from __future__ import annotations

import re
from collections import Counter
from itertools import count
from typing import NamedTuple

import gemmi
import numpy as np
from numpy.typing import NDArray

from omatg_ray.crystal.symmetry import Operations
from omatg_ray.errors import DataError

FloatArray = NDArray[np.float64]

FORMULA_TOLERANCE = 0.02
"""Relative rounding error allowed for amounts in formulas."""
HYDROGEN = 1


class Site(NamedTuple):
    """An atom of the asymmetric unit: its label, atomic number, fractional position (3,), and multiplicity if given."""

    label: str
    z: int
    frac: FloatArray
    multiplicity: int | None


def parse_formula_sum(text: str | None) -> dict[int, float]:
    """Parse amounts by atomic number from 'C2 H6 O', 'SI1 O2' or 'TiO2'; D and T count as hydrogen.

    The result is empty if the text cannot be read.
    """
    words = (text or "").split()
    spellings = [words]  # one element per word, as the dictionary requires, perhaps in upper case; or all in one
    if len(words) > 1:
        spellings.append([word.capitalize() for word in words])
    spellings.append([symbol + amount for symbol, amount in re.findall(r"([A-Z][a-z]?)([\d.]*)", text or "")])
    for spelling in spellings:
        terms = [re.fullmatch(r"([A-Z][a-z]?)(\d*\.?\d*)", word) for word in spelling]
        amounts: dict[int, float] = {}
        for term in filter(None, terms):
            z = HYDROGEN if term[1] in ("D", "T") else gemmi.Element(term[1]).atomic_number
            amounts[z] = amounts.get(z, 0.0) + (float(term[2]) if term[2] not in ("", ".") else 1.0)
        if terms and all(terms) and 0 not in amounts and "".join(spelling).lower() == "".join(words).lower():
            return {z: amount for z, amount in amounts.items() if amount > 0}
    return _parse_brackets("".join(words))


def _parse_brackets(text: str) -> dict[int, float]:
    """Parse the amounts of a formula such as 'Mg(OH)2'; empty if it cannot be read."""
    from pymatgen.core import Composition

    try:
        return {element.Z: float(n) for element, n in Composition(text, strict=True).items()} if "(" in text else {}
    except (ValueError, KeyError):
        return {}


def compare_composition(
    sites: list[Site], orbits: list[FloatArray], group: Operations, formula: dict[int, float], z: float | None
) -> str | None:
    """Compare the composition that a file states with its atoms.

    Returns:
        Why the crystal may differ from the formula, if that may be legitimate (solvents left out); otherwise None.

    Raises:
        DataError: They contradict each other.
    """
    _compare_multiplicities(sites, orbits, group)
    counts: Counter[int] = Counter()
    for site, orbit in zip(sites, orbits, strict=True):
        counts[site.z] += len(orbit)
    if not formula:
        return None
    atoms, whole = _spell(counts), _spell(formula)
    if HYDROGEN in formula and HYDROGEN not in counts:
        raise DataError(f"the formula {whole} has hydrogen, but no site holds it: the crystal is incomplete")
    if counts.keys().isdisjoint(formula):
        raise DataError(f"it has {atoms} in the cell, but none of its formula {whole}")
    if not counts.keys() <= formula.keys():
        return f"{atoms} in the cell is not its formula {whole}"
    units = {element: counts[element] / amount for element, amount in formula.items()}
    low, high = min(units.values()), max(units.values())
    times = f" times {z:g} (formula units in the cell)" if z is not None else ""
    if high <= low * (1 + FORMULA_TOLERANCE):
        # pymatgen writes the formula of the whole cell beside its number of formula units.
        whole_cell = z is None or all(abs(n / z - round(n / z)) <= FORMULA_TOLERANCE for n in formula.values())
        expected = [1.0] * whole_cell + [float(round(low)) if z is None else z]
        if not any(abs(low - number) <= FORMULA_TOLERANCE * number for number in expected):
            if z is not None and abs(low - z * group.centrings) <= FORMULA_TOLERANCE * low:
                return (
                    f"its number of formula units ({z:g}) is that of a primitive cell, but it has {atoms} in this one"
                )
            raise DataError(f"it has {atoms} in the cell, but its formula {whole}{times} says otherwise")
        return None
    if z is not None and high > max(z, 1.0) * (1 + FORMULA_TOLERANCE):
        raise DataError(f"it has {atoms} in the cell, more than its formula {whole}{times}")
    return f"{atoms} in the cell is not its formula {whole}{times}"


def _compare_multiplicities(sites: list[Site], orbits: list[FloatArray], group: Operations) -> None:
    """Check multiplicities, which count the atoms of a site in the cell, or (SHELX) the operations that fix the site.

    Raises:
        DataError: They do neither.
    """
    stated = [
        (index, site, len(orbit))
        for index, site, orbit in zip(count(1), sites, orbits)
        if site.multiplicity is not None and len(orbit)
    ]
    if all(site.multiplicity == atoms for _, site, atoms in stated):
        return
    if all(site.multiplicity == len(group) // atoms for _, site, atoms in stated):
        return
    index, site, atoms = next(entry for entry in stated if entry[1].multiplicity != entry[2])
    raise DataError(f"site {index} ({site.label}) gives {atoms} atoms, but its multiplicity is {site.multiplicity}")


def _spell(amounts: dict[int, float] | Counter[int]) -> str:
    return " ".join(f"{symbol(z)}{amount:g}" for z, amount in sorted(amounts.items()) if amount)


def symbol(z: int) -> str:
    """Return the symbol of an atomic number."""
    return str(gemmi.Element(z).name)
