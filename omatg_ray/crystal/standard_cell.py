"""Standard cells by spglib. Imports only this, pymatgen, gemmi and numpy, so worker processes start quickly."""

from __future__ import annotations

from typing import Any

import gemmi
import numpy as np
import spglib
from pymatgen.core import Lattice, Structure
from pymatgen.core.structure_matcher import StructureMatcher

from omatg_ray.crystal.standard_crystal import SYMPREC, CellKind, StandardCrystal

EXACT = 1e-3
"""spglib's tolerance in Å for a cell that it has made symmetric."""
LENGTH, SITE, ANGLE = 0.05, 0.05, 3.0
"""StructureMatcher's tolerances of a crystal and its standard cell: what `SYMPREC` can move, and little more.

Lengths are relative, sites in units of (V/N)^(1/3), angles in degrees. For another tolerance they are scaled with it.
"""


class NotStandard(ValueError):
    """A crystal has no standard cell; the message says why."""


def standard_crystal(structure: Structure, cell: CellKind, symprec: float = SYMPREC) -> StandardCrystal:
    """Return a crystal in spglib's primitive or conventional standard cell, made exactly symmetric.

    Cells and settings are those of spglib's `standardize_cell`: the first tabulated setting of the group (unique axis
    b, origin 1, hexagonal axes). The result is compared with the original.

    Args:
        structure: Ordered, with a right-handed lattice.
        cell: Which cell.
        symprec: spglib's tolerance in Å.

    Raises:
        NotStandard: spglib finds no symmetry, or the standard cell is no longer the same crystal.
    """
    original: Any = (structure.lattice.matrix, structure.frac_coords, structure.atomic_numbers)
    found = _dataset(original, symprec)
    made: Any = spglib.standardize_cell(original, to_primitive=cell == "primitive", symprec=symprec)
    if found is None or made is None:
        raise NotStandard("spglib finds no symmetry")
    lattice, frac, numbers = made
    frac = np.mod(np.round(frac, 12), 1.0)
    standard = Structure(Lattice(lattice), numbers.tolist(), frac)
    exact = _dataset((lattice, frac, numbers), min(EXACT, symprec))
    if exact is None or exact.number != found.number:
        raise NotStandard(f"its standard cell is not exactly of the space group {found.international}")
    _refuse_other(structure, standard, symprec / SYMPREC)
    if np.linalg.det(found.std_rotation_matrix) < 0:
        raise NotStandard("its standard cell is a mirror image")
    operations = [_operation(*pair) for pair in zip(exact.rotations, exact.translations, strict=True)]
    setting = gemmi.find_spacegroup_by_ops(gemmi.GroupOps(operations))
    orbits, counts = np.unique(exact.equivalent_atoms, return_counts=True)
    return StandardCrystal(
        standard,
        int(exact.number),
        None if setting is None else setting.xhm(),
        None if setting is None else setting.hall,
        tuple(operation.triplet() for operation in operations),
        tuple(zip(orbits.tolist(), counts.tolist(), strict=True)),
        f"{cell} cell by spglib {spglib.__version__}, symprec {symprec:g} Angstrom",
    )


def standard_or_reason(structure: Structure, cell: CellKind, symprec: float) -> StandardCrystal | str:
    """Return the same, or the reason why there is no standard cell."""
    try:
        return standard_crystal(structure, cell, symprec)
    except NotStandard as error:
        return str(error)


def _dataset(cell: tuple[Any, Any, Any], symprec: float) -> Any:
    return spglib.get_symmetry_dataset(cell, symprec=symprec)


def _operation(rotation: Any, translation: Any) -> gemmi.Op:
    operation, shift = gemmi.Op(), np.asarray(translation) * gemmi.Op.DEN
    if np.abs(shift - np.rint(shift)).max() > 0.01:
        raise NotStandard("its standard cell has no standard origin")
    operation.rot = (np.asarray(rotation) * gemmi.Op.DEN).tolist()
    operation.tran = np.rint(shift).astype(int).tolist()
    return operation.wrap()


def _refuse_other(structure: Structure, standard: Structure, scale: float) -> None:
    """Refuse a standard cell that has lost atoms or moved them too far, by tolerances times `scale`.

    Raises:
        NotStandard: It is another crystal.
    """
    ratio = standard.volume / structure.volume
    if abs(len(standard) / len(structure) / ratio - 1) > scale * LENGTH:
        raise NotStandard(
            f"its standard cell has {len(standard)} atoms where {len(structure) * ratio:.3g} are expected"
        )
    numbers: Any = structure.atomic_numbers  # bare elements, as in the standard cell: no oxidation states
    bare = Structure(structure.lattice, numbers, structure.frac_coords)
    if not StructureMatcher(scale * LENGTH, scale * SITE, scale * ANGLE, scale=False).fit(bare, standard):
        raise NotStandard("its standard cell no longer matches it")
