"""Writing crystals to files that `omatg_ray.crystal.read` and other programs can read."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from omatg_ray.crystal.cif_block import PROPERTY_PREFIX
from omatg_ray.crystal.cif_symmetric import symmetric_items
from omatg_ray.crystal.dataset import Scalar, scalar_properties
from omatg_ray.crystal.file_names import FolderFormat, written_as
from omatg_ray.crystal.standard import right_handed
from omatg_ray.crystal.standard_crystal import StandardCrystal
from omatg_ray.crystal.xyz import ENERGY, cell_energy
from omatg_ray.errors import DataError
from omatg_ray.run.atomic import replace_folder, write_text

if TYPE_CHECKING:
    from ase import Atoms
    from pymatgen.core import Structure

# Names that mean something in one of the formats: a property of that name would make the file unreadable.
RESERVED_NAMES = {"structure", "cif", "Lattice", "Properties", "pbc", "stress", "virial"}


class _Row(NamedTuple):
    """A crystal to write, with a name such as '00001_BaTiO3', and its symmetry if that is to be written too."""

    name: str
    structure: Structure
    properties: dict[str, Scalar]
    symmetry: StandardCrystal | None


def write_structures(
    path: str | Path,
    structures: Sequence[Structure | StandardCrystal],
    properties: Sequence[Mapping[str, Any]] | None = None,
    folder_format: FolderFormat | None = None,
) -> None:
    """Write structures and their properties, in the format of the suffix.

    | path | what is written |
    |---|---|
    | `.extxyz`, `.xyz` | extended XYZ; properties are key=value pairs of the comment line, and from `energy_per_atom` |
    | | follows `energy` in eV of the cell, which ASE's `get_potential_energy` finds |
    | `.cif` | one file with a data block per structure; properties are data names `_omatg_ray_...` |
    | `.vasp`, `POSCAR*`, `CONTCAR*` | one structure, with atoms grouped by element; properties are in the first line |
    | ends in `/`, or is a folder | a folder with one such CIF or `.vasp` file per structure |
    | `.json` | a list of objects: `formula`, the properties, and `structure` (pymatgen's dictionary) |

    A CIF lists all atoms (P1), or the asymmetric unit with its space group for a `StandardCrystal`. Properties that are
    missing (None, NaN, infinite) or not scalars are left out. A property `material_id` becomes the id when the file is
    read, except from POSCAR. In XYZ and CIF, characters that a name cannot hold are replaced by an underscore. Files
    and folders are written under a temporary name and renamed; missing parent folders are created.

    Args:
        path: File or folder.
        structures: The crystals, in pymatgen's form or in standard cells (`standardize`).
        properties: A row for each; None writes none.
        folder_format: Format of the files of a folder, CIF unless it is named.

    Raises:
        DataError: The suffix is missing, unknown or not that of the format, there are no structures or too many for a
            POSCAR, properties do not fit them or have a reserved name, a folder is not empty, or the path cannot be
            written.
        OmatgRayError: The disk is full or the folder is not writable; earlier content is untouched.
    """
    rows = _rows(structures, properties)
    kind, target = written_as(path, folder_format), Path(path).absolute()
    if kind.holds_one and len(rows) > 1:
        raise DataError(
            f"{path} holds one crystal, not {len(rows)}; write a folder of POSCAR files (end the path in /, with the "
            "format vasp), or another format"
        )
    try:
        if kind.folder:
            _write_folder(target, {f"{row.name}{kind.suffix}": TO_TEXT[kind.suffix]([row]) for row in rows})
        else:
            write_text(target, TO_TEXT[kind.suffix](rows))
    except OSError as error:
        raise DataError(f"{target} cannot be written: {error}") from error


def _rows(
    structures: Sequence[Structure | StandardCrystal], properties: Sequence[Mapping[str, Any]] | None
) -> list[_Row]:
    if not structures:
        raise DataError("there are no structures to write")
    if properties is None:
        properties = [{}] * len(structures)
    if len(properties) != len(structures):
        raise DataError(f"{len(properties)} property rows do not fit {len(structures)} structures")
    for row in properties:
        if reserved := RESERVED_NAMES.intersection(row):
            raise DataError(f"a property cannot be called {min(reserved)!r}: file formats reserve the name")
    digits = max(5, len(str(len(structures))))
    rows = []
    for index, (crystal, row) in enumerate(zip(structures, properties, strict=True), start=1):
        symmetry = crystal if isinstance(crystal, StandardCrystal) else None
        structure = crystal.structure if isinstance(crystal, StandardCrystal) else crystal
        note = {} if symmetry is None else {"standardized": symmetry.note}
        # Names sort in the order of the structures.
        name = f"{index:0{digits}d}_{structure.composition.reduced_formula}"
        rows.append(_Row(name, structure, scalar_properties({**row, **note}), symmetry))
    return rows


# --- formats --------------------------------------------------------------------------------------------------------


def _xyz(rows: Sequence[_Row]) -> str:
    from ase.io.extxyz import write_xyz

    out = StringIO()
    write_xyz(out, [_atoms(row) for row in rows])
    return out.getvalue()


def _atoms(row: _Row) -> Atoms:
    """Convert to ASE, with the energy of the cell where `get_potential_energy` finds it."""
    from ase import Atoms
    from ase.calculators.singlepoint import SinglePointCalculator

    atoms = Atoms(
        numbers=[site.specie.Z for site in row.structure],
        scaled_positions=row.structure.frac_coords,
        cell=row.structure.lattice.matrix,
        pbc=True,
        info={_plain_name(key): _one_line(value) for key, value in row.properties.items()},
    )
    energy = cell_energy(row.properties, len(atoms))
    if energy is not None and ENERGY not in row.properties:
        atoms.calc = SinglePointCalculator(atoms, energy=energy)
    return atoms


def _one_line(value: Scalar) -> Scalar:
    return " ".join(value.split()) if isinstance(value, str) else value


def _json(rows: Sequence[_Row]) -> str:
    entries = [
        {
            "formula": row.structure.composition.reduced_formula,
            **row.properties,
            "structure": row.structure.as_dict(verbosity=0),
        }
        for row in rows
    ]
    return "[\n" + ",\n".join(json.dumps(entry) for entry in entries) + "\n]\n"


def _poscar(rows: Sequence[_Row]) -> str:
    from pymatgen.core import Structure
    from pymatgen.io.vasp import Poscar

    (row,) = rows
    # Negative volumes would be made positive by pymatgen in a way that turns the crystal into its mirror image.
    plain = right_handed(row.structure)
    species = [site.specie for site in plain]
    order = sorted(range(len(plain)), key=lambda site: species.index(species[site]))
    grouped = Structure(plain.lattice, [species[site] for site in order], plain.frac_coords[order], to_unit_cell=True)
    properties = [f"{key}={_one_line(value)}" for key, value in row.properties.items()]
    comment = "; ".join([row.structure.composition.reduced_formula, *properties])
    return Poscar(grouped, comment=comment).get_str(significant_figures=16)


def _cif(rows: Sequence[_Row]) -> str:
    return "\n".join(map(_cif_block, rows))


def _cif_block(row: _Row) -> str:
    lines = [f"{PROPERTY_PREFIX}{_plain_name(key)}   {_cif_value(value)}" for key, value in row.properties.items()]
    body = _all_atoms(row.structure) if row.symmetry is None else symmetric_items(row.symmetry)
    return "\n".join([f"data_{row.name}", *lines, body])


def _all_atoms(structure: Structure) -> str:
    from pymatgen.core import Structure
    from pymatgen.io.cif import CifWriter

    # Lengths and angles imply a right-handed lattice.
    right = right_handed(structure)
    plain = Structure(right.lattice, right.species, right.frac_coords, to_unit_cell=True)
    text = str(CifWriter(plain, significant_figures=10))
    return text[text.index("data_") :].split("\n", 1)[1]


def _cif_value(value: Scalar) -> str:
    if not isinstance(value, str):
        return repr(value)
    text = re.sub(r"\s+#*", " ", value)  # a # after a space would start a comment
    if "'" not in text:
        return f"'{text}'"
    return '"' + text.replace('"', "'") + '"'


def _plain_name(key: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]", "_", key)


TO_TEXT: dict[str, Callable[[Sequence[_Row]], str]] = {
    ".extxyz": _xyz,
    ".xyz": _xyz,
    ".cif": _cif,
    ".vasp": _poscar,
    ".json": _json,
}


# --- files ----------------------------------------------------------------------------------------------------------


def _write_folder(target: Path, blocks: dict[str, str]) -> None:
    if target.is_dir() and any(target.iterdir()):
        raise DataError(f"the folder {target} exists and is not empty; choose another one or remove it")
    with replace_folder(target) as temporary:
        for name, text in blocks.items():
            (temporary / name).write_text(text, encoding="utf-8")
