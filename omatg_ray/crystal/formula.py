"""Chemical formulas as users write them."""

from __future__ import annotations

import re
from pathlib import Path

from omatg_ray.crystal.text import read_text
from omatg_ray.errors import DataError, FormulaError

# The network's messages grow with the square of the atoms in a cell, and a slip of the keyboard must not fill memory.
MAX_ATOMS_PER_CELL = 1000

_EXAMPLE = "write it like BaTiO3 or Ca3(PO4)2"
_ELEMENTS = r"(?:[A-Z][a-z]?(?:[1-9]\d*)?)+"
_GROUP = rf"(?:\({_ELEMENTS}\)|\[{_ELEMENTS}\])(?:[1-9]\d*)?(?![a-z0-9])"


def parse_formula(text: str) -> dict[str, int]:
    """Atoms per formula unit by element symbol, in the order in which the formula first names the elements.

    Groups in round or square brackets may be nested: 'Ca3(PO4)2' gives {'Ca': 3, 'P': 2, 'O': 8}.

    Raises:
        FormulaError: The text is empty or malformed, names an unknown element (isotopes such as D included), or a
            count is zero, negative or not an integer.
    """
    from pymatgen.core import Composition, Element

    formula = text.strip()
    if not formula:
        raise FormulaError(f"the formula {text!r} is empty; {_EXAMPLE}")
    if re.search(r"\d\.\d|\.\d", formula):
        raise FormulaError(f"the formula {text!r} has a count that is not an integer; {_EXAMPLE}")
    symbols = list(dict.fromkeys(re.findall(r"[A-Z][a-z]*", formula)))
    for symbol in symbols:
        if not Element.is_valid_symbol(symbol) or symbol in ("D", "T"):
            raise FormulaError(f"the formula {text!r} names {symbol!r}, which is no element; {_EXAMPLE}")
    # pymatgen takes more than it should (exponents, counts of zero, a bracket of one kind closed by another), so check
    # the grammar here: every innermost group stands for one element more, until no group is left
    flat, groups = formula, 1
    while groups:
        flat, groups = re.subn(_GROUP, "H", flat, flags=re.ASCII)
    if not re.fullmatch(_ELEMENTS, flat, flags=re.ASCII):
        raise FormulaError(f"the formula {text!r} cannot be parsed; {_EXAMPLE}")
    counts = Composition(formula, strict=True).get_el_amt_dict()
    return {symbol: round(counts[symbol]) for symbol in symbols}


def require_fitting_cell(atoms: int) -> None:
    """Refuse cells of more than `MAX_ATOMS_PER_CELL` atoms.

    Raises:
        DataError: It is one.
    """
    if atoms > MAX_ATOMS_PER_CELL:
        raise DataError(f"it has {atoms} atoms or more; a cell holds {MAX_ATOMS_PER_CELL} at most")


def cell_species(text: str, z: int = 1) -> list[int]:
    """Atomic numbers of z formula units, grouped by element in the formula's order.

    For example, ('TiO2', 2) gives [22, 22, 8, 8, 8, 8].

    Raises:
        FormulaError: The formula cannot be parsed, z is not positive, or the cell would hold more than
            `MAX_ATOMS_PER_CELL` atoms.
    """
    from pymatgen.core import Element

    if z < 1:
        raise FormulaError(f"{z} formula units of {text!r} make no cell; ask for at least 1")
    counts = parse_formula(text)
    total = z * sum(counts.values())
    if total > MAX_ATOMS_PER_CELL:
        raise FormulaError(
            f"{z} formula units of {text!r} are {total} atoms; a cell holds {MAX_ATOMS_PER_CELL} at most"
        )
    return [Element(symbol).Z for symbol, count in counts.items() for _ in range(z * count)]


def parse_z(text: str) -> list[int]:
    """Formula units per cell from '2,4', '1-4' or '1-2,4': ascending, each number once.

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
    """Formulas from a text file: one per line; empty lines and what follows a `#` are ignored.

    Raises:
        DataError: The file cannot be read or holds no formula.
        FormulaError: A line is no formula (file and line are named).
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
