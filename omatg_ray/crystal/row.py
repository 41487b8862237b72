"""One crystal of a file, as its reader returns it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from omatg_ray.crystal.dataset import Scalar, scalar_properties
from omatg_ray.errors import DataError

if TYPE_CHECKING:
    from ase import Atoms
    from pymatgen.core import Structure

ID_COLUMN = "material_id"

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Row:
    """One crystal as a file describes it.

    Attributes:
        ident: Its id.
        numbers: Atomic numbers (N,).
        cell: Lattice (3, 3) in Å; rows are the vectors.
        frac: Fractional positions (N, 3), not wrapped.
        properties: The scalars stored with it.
        doubt: What in the file does not fit the crystal, if that is no reason to refuse it.
    """

    ident: str
    numbers: list[int]
    cell: FloatArray
    frac: FloatArray
    properties: dict[str, Scalar] = field(default_factory=dict)
    doubt: str | None = None


class Entry(NamedTuple):
    """A part of a file that should hold a crystal.

    Attributes:
        where: File and row, block or key, for messages.
        read: Reads a `Row` from it, given the id that it has if the file names none; may raise anything if that fails.
        default: This id.
        whole_file: Whether it stands for a file of many crystals that cannot be read at all.
    """

    where: str
    read: Callable[[str], Row]
    default: str
    whole_file: bool = False


def failed_entry(where: str, error: Exception, whole_file: bool = False) -> Entry:
    """Return an entry without a crystal, whose reading raises the error."""

    def read(default: str) -> Row:
        raise error

    return Entry(where, read, "", whole_file)


def require_periodic(pbc: Any) -> None:
    """Refuse slabs, wires and molecules.

    Args:
        pbc: Whether the crystal repeats along each lattice vector (3,), or along all of them.

    Raises:
        DataError: The crystal does not repeat in all three directions.
    """
    along = np.broadcast_to(np.asarray(pbc, dtype=bool).reshape(-1), 3)
    if not along.all():
        raise DataError(f"it is not periodic in all three directions (pbc {' '.join('FT'[int(p)] for p in along)})")


def row_of_structure(structure: Structure, ident: str, properties: dict[str, Scalar]) -> Row:
    """Convert a pymatgen structure to a row.

    Raises:
        DataError: A site is disordered or holds no element, or the structure is not periodic in three directions.
    """
    require_periodic(structure.lattice.pbc)
    for index, site in enumerate(structure, start=1):
        if not site.is_ordered:
            raise DataError(
                f"site {index} ({site.species_string}) is disordered; only fully occupied sites can be used"
            )
    numbers = [site.specie.Z for site in structure]
    return Row(ident, numbers, structure.lattice.matrix.copy(), structure.frac_coords.copy(), properties)


def row_of_atoms(atoms: Atoms, default: str, properties: Mapping[str, Any] | None = None) -> Row:
    """Convert an ASE object to a row.

    Args:
        atoms: The object.
        default: Id if the properties have none.
        properties: What is stored with it; None takes what ASE read from a frame, which moves energies and the like
            to a calculator.

    Raises:
        DataError: The object has no lattice, or is not periodic in three directions.
    """
    if atoms.cell.rank != 3:
        raise DataError("it has no lattice of three vectors")
    require_periodic(atoms.pbc)
    if properties is None:
        properties = {**atoms.info, **(atoms.calc.results if atoms.calc else {})}
    cell = np.array(atoms.cell)
    frac = np.linalg.solve(cell.T, atoms.positions.T).T
    return Row(identity(properties, default), atoms.numbers.tolist(), cell, frac, scalar_properties(properties))


def identity(properties: Mapping[str, Any], default: str, keys: Sequence[str] = (ID_COLUMN,)) -> str:
    """Return the id of a crystal: the first of the keys that is not empty, else the default."""
    names = (str(properties[key]).strip() for key in keys if properties.get(key) is not None)
    return next(filter(None, names), default)
