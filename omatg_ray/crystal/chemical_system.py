"""Formulas of a chemical system, such as Li-Fe-P-O."""

from __future__ import annotations

import re
from collections.abc import Sequence

from omatg_ray.crystal.formula import parse_formula
from omatg_ray.crystal.random_formulas import formulas_of
from omatg_ray.errors import FormulaError

ATOMS = 12
"""Most atoms of a formula that is not named."""


def system_formulas(system: str, stoichiometries: Sequence[str] = ()) -> list[str]:
    """Return formulas of a chemical system that hold all of its elements, those of fewest atoms first.

    Args:
        system: Elements, such as 'Li-Fe-P-O'.
        stoichiometries: Atoms of each element, in their order, such as '1:1:1:4'. Without any: all formulas of up to
            `ATOMS` atoms that are neutral with common oxidation states of the elements, or of metals alone.

    Raises:
        FormulaError: An element is unknown or named twice, a stoichiometry does not fit, or no formula is left.
    """
    symbols = [part.strip() for part in system.split("-")]
    known = parse_formula("".join(symbols) if all(symbols) else "")
    if list(known) != symbols:
        raise FormulaError(f"cannot read the chemical system {system!r}; name each element once, like Li-Fe-P-O")
    if len(symbols) == 1 and not stoichiometries:
        return symbols
    if stoichiometries:
        counts = [_counts(text, symbols) for text in stoichiometries]
    else:
        found = sorted(formulas_of(symbols, ATOMS), key=lambda formula: sum(formula.values()))
        counts = [list(formula.values()) for formula in found]
    if not counts:
        raise FormulaError(
            f"no formula of {system} with up to {ATOMS} atoms is neutral with common oxidation states; name "
            f"stoichiometries, like {':'.join('1' for _ in symbols)}"
        )
    return ["".join(f"{s}{n if n > 1 else ''}" for s, n in zip(symbols, each, strict=True)) for each in counts]


def _counts(text: str, symbols: Sequence[str]) -> list[int]:
    parts = text.split(":")
    if len(parts) != len(symbols) or not all(re.fullmatch(r"[1-9]\d{0,2}", part, flags=re.ASCII) for part in parts):
        raise FormulaError(
            f"the stoichiometry {text!r} does not fit {'-'.join(symbols)}; give {len(symbols)} numbers, like "
            f"{':'.join('1' for _ in symbols)}"
        )
    return [int(part) for part in parts]
