"""A crystal in a standard cell, as `standard_cell` makes it and `write` writes it. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from pymatgen.core import Structure

CellKind = Literal["primitive", "conventional"]
CELLS: tuple[CellKind, ...] = get_args(CellKind)

SYMPREC = 0.1
"""spglib's tolerance in Å, of positions and, by the lengths they subtend, of cell angles."""
LOOSER = 2
"""Times the tolerance: where the space group differs there, it depends on the tolerance."""


@dataclass(frozen=True)
class StandardCrystal:
    """A crystal in a standard cell, with its symmetry.

    Attributes:
        structure: All atoms of the cell.
        number: Number of its space group (1 to 230).
        symbol: Hermann-Mauguin symbol, with the axes and the origin if it leaves these open; None if the cell is none
            of the tabulated settings, as primitive cells of centred groups.
        hall: Hall symbol, likewise.
        operations: All symmetry operations, as 'x,-y,z+1/2'.
        sites: Index and number of atoms of one site of each orbit: the asymmetric unit.
        note: Which cell it is, and by which tolerance.
    """

    structure: Structure
    number: int
    symbol: str | None
    hall: str | None
    operations: tuple[str, ...]
    sites: tuple[tuple[int, int], ...]
    note: str
