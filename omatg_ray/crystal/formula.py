"""Chemical formulas as users write them."""

from __future__ import annotations

import math
import re
from collections import Counter
from pathlib import Path

import gemmi

from omatg_ray.crystal.text import read_text
from omatg_ray.errors import DataError, FormulaError

# The network's messages grow with the square of the atoms in a cell, and a typing error must not fill memory.
MAX_ATOMS_PER_CELL = 1000

# Symbols that gemmi knows besides those of elements: deuterium and the unknown element.
NO_ELEMENTS = ("D", "X")

_EXAMPLE = "write it like BaTiO3 or Ca3(PO4)2"
_ELEMENT = r"([A-Z][a-z]?)(\d*)"
_ELEMENTS = r"(?:[A-Z][a-z]?(?:[1-9]\d*)?)+"
_GROUP = rf"(?:\({_ELEMENTS}\)|\[{_ELEMENTS}\])(?:[1-9]\d*)?(?![a-z0-9])"


def parse_formula(text: str) -> dict[str, int]:
    """Parse the atoms per formula unit by element symbol, in the order in which the formula first names them.

    Groups in round or square brackets may be nested: 'Ca3(PO4)2' gives {'Ca': 3, 'P': 2, 'O': 8}.

    Raises:
        FormulaError: The text is empty or malformed, names an unknown element (isotopes such as D included), or a
            count is zero, negative or not an integer.
    """
    formula = text.strip()
    if not formula:
        raise FormulaError(f"the formula {text!r} is empty; {_EXAMPLE}")
    if re.search(r"\d\.\d|\.\d", formula):
        raise FormulaError(f"the formula {text!r} has a count that is not an integer; {_EXAMPLE}")
    symbols = list(dict.fromkeys(re.findall(r"[A-Z][a-z]*", formula)))
    for symbol in symbols:
        if gemmi.Element(symbol).name != symbol or symbol in NO_ELEMENTS:
            raise FormulaError(f"the formula {text!r} names {symbol!r}, which is not an element; {_EXAMPLE}")
    # Multiply out the innermost groups until none is left.
    flat, groups = formula, 1
    while groups:
        flat, groups = re.subn(_GROUP, _multiply_out, flat, flags=re.ASCII)
    if not re.fullmatch(_ELEMENTS, flat, flags=re.ASCII):
        raise FormulaError(f"the formula {text!r} cannot be parsed; {_EXAMPLE}")
    counts = Counter(dict.fromkeys(symbols, 0))
    for symbol, number in re.findall(_ELEMENT, flat):
        counts[symbol] += int(number or 1)
    return dict(counts)


def _multiply_out(group: re.Match[str]) -> str:
    inside, _, times = re.sub(r"[\])]", ")", group[0][1:]).partition(")")
    elements = re.findall(_ELEMENT, inside)
    return "".join(f"{symbol}{int(number or 1) * int(times or 1)}" for symbol, number in elements)


def require_fitting_cell(atoms: int) -> None:
    """Refuse cells of more than `MAX_ATOMS_PER_CELL` atoms.

    Raises:
        DataError: The cell is too large.
    """
    if atoms > MAX_ATOMS_PER_CELL:
        raise DataError(f"it has {atoms} atoms or more; a cell may hold {MAX_ATOMS_PER_CELL} at most")


def cell_species(text: str, z: int = 1) -> list[int]:
    """Return the atomic numbers of z formula units, grouped by element in the formula's order.

    For example, ('TiO2', 2) gives [22, 22, 8, 8, 8, 8].

    Raises:
        FormulaError: The formula cannot be parsed, z is not positive, or the cell would hold more than
            `MAX_ATOMS_PER_CELL` atoms.
    """
    if z < 1:
        raise FormulaError(f"{z} formula units of {text!r} make no cell; ask for at least 1")
    counts = parse_formula(text)
    total = z * sum(counts.values())
    if total > MAX_ATOMS_PER_CELL:
        raise FormulaError(
            f"{z} formula units of {text!r} are {total} atoms; a cell may hold {MAX_ATOMS_PER_CELL} at most"
        )
    return [gemmi.Element(symbol).atomic_number for symbol, count in counts.items() for _ in range(z * count)]


def reduced_composition(text: str) -> frozenset[tuple[str, int]]:
    """Return symbols and counts of a formula without a common factor: the same for 'TiO2' and 'O4Ti2'.

    Raises:
        FormulaError: The formula cannot be parsed.
    """
    counts = parse_formula(text)
    factor = math.gcd(*counts.values())
    return frozenset((symbol, number // factor) for symbol, number in counts.items())


def parse_z(text: str) -> list[int]:
    """Parse formula units per cell from '2,4', '1-4' or '1-2,4': ascending, each number once.

    Raises:
        FormulaError: The text is anything else, a number is zero or a range runs backwards.
    """
    numbers: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,4})\s*(?:-\s*(\d{1,4})\s*)?", part, flags=re.ASCII)
        if match is None:
            raise FormulaError(f"cannot read {part!r} in the formula units {text!r}; write them like 2,4 or 1-4")
        first = int(match[1])
        last = first if match[2] is None else int(match[2])
        if not 1 <= first <= last <= MAX_ATOMS_PER_CELL:
            raise FormulaError(
                f"the formula units {text!r} must lie between 1 and {MAX_ATOMS_PER_CELL} and ranges ascend; "
                "write them like 2,4 or 1-4"
            )
        numbers.update(range(first, last + 1))
    return sorted(numbers)


def read_formulas(path: str | Path) -> list[str]:
    """Read formulas from a text file: one per line; empty lines and text after a `#` are ignored.

    Raises:
        DataError: The file cannot be read or holds no formula.
        FormulaError: A line is not a formula; the message names file and line.
    """
    path = Path(path)
    lines = read_text(path).splitlines()
    formulas = []
    for number, line in enumerate(lines, start=1):
        formula = line.split("#", 1)[0].strip()
        if not formula:
            continue
        try:
            parse_formula(formula)
        except FormulaError as error:
            raise FormulaError(f"{path}, line {number}: {error}") from error
        formulas.append(formula)
    if not formulas:
        raise DataError(f"{path} holds no formulas; write one per line")
    return formulas
