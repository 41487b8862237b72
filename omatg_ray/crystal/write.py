"""Writing crystals to files that `omatg_ray.crystal.read` and other programs can read."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from omatg_ray.crystal.cif_block import PROPERTY_PREFIX
from omatg_ray.crystal.dataset import Scalar, scalar_properties
from omatg_ray.errors import DataError
from omatg_ray.run.atomic import replace_folder, write_text

if TYPE_CHECKING:
    from pymatgen.core import Structure

# Names that mean something in one of the formats: a property of that name would make the file unreadable.
RESERVED_NAMES = {"structure", "cif", "Lattice", "Properties", "pbc", "stress", "virial"}

_Rows = list[tuple["Structure", dict[str, Scalar]]]


def write_structures(
    path: str | Path, structures: Sequence[Structure], properties: Sequence[Mapping[str, Any]] | None = None
) -> None:
    """Write structures and their properties, in the format of the suffix.

    | path | what is written |
    |---|---|
    | `.extxyz`, `.xyz` | extended XYZ (ASE); properties are key=value pairs of the comment line |
    | `.cif` | one file with a data block (P1) per structure; properties are data names `_omatg_ray_...` |
    | ends in `/` or has no suffix | a folder with one such CIF file per structure |
    | `.json` | a list of objects: `formula`, the properties, and `structure` (pymatgen's dictionary) |

    Properties that are missing (None, NaN, infinite) or not scalars are left out. A property `material_id` becomes the
    id when the file is read. In XYZ and CIF, characters that a name cannot hold are replaced by an underscore. Files
    and folders are written under a temporary name and renamed; missing parent folders are created.

    Raises:
        DataError: The suffix is unknown, there are no structures, properties do not fit them or have a reserved name, a
            folder exists and is not empty, or the path cannot be written.
        OmatgRayError: The disk is full or the folder is not writable; earlier content is untouched.
    """
    rows = _rows(structures, properties)
    target = Path(path).absolute()
    to_folder = str(path).endswith(("/", os.sep)) or not target.suffix
    formats: dict[str, Callable[[_Rows], str]] = {".extxyz": _xyz, ".xyz": _xyz, ".cif": _cif, ".json": _json}
    to_text = None if to_folder else formats.get(target.suffix.lower())
    if to_text is None and not to_folder:
        known = ", ".join(formats)
        raise DataError(f"{path} has an unknown suffix; write {known}, or a folder of CIF files (end the path in /)")
    try:
        if to_text is None:
            _write_folder(target, _cif_blocks(rows))
        else:
            write_text(target, to_text(rows))
    except OSError as error:
        raise DataError(f"{target} cannot be written: {error}") from error


def _rows(structures: Sequence[Structure], properties: Sequence[Mapping[str, Any]] | None) -> _Rows:
    if not structures:
        raise DataError("there are no structures to write")
    if properties is None:
        properties = [{}] * len(structures)
    if len(properties) != len(structures):
        raise DataError(f"{len(properties)} property rows do not fit {len(structures)} structures")
    for row in properties:
        if reserved := RESERVED_NAMES.intersection(row):
            raise DataError(f"a property cannot be called {min(reserved)!r}: file formats reserve the name")
    return [(structure, scalar_properties(row)) for structure, row in zip(structures, properties, strict=True)]


# --- formats --------------------------------------------------------------------------------------------------------


def _xyz(rows: _Rows) -> str:
    from ase import Atoms
    from ase.io.extxyz import write_xyz

    images = [
        Atoms(
            numbers=[site.specie.Z for site in structure],
            scaled_positions=structure.frac_coords,
            cell=structure.lattice.matrix,
            pbc=True,
            info={
                _plain_name(key): " ".join(value.split()) if isinstance(value, str) else value
                for key, value in properties.items()
            },
        )
        for structure, properties in rows
    ]
    out = StringIO()
    write_xyz(out, images)
    return out.getvalue()


def _json(rows: _Rows) -> str:
    entries = [
        {"formula": structure.composition.reduced_formula, **properties, "structure": structure.as_dict(verbosity=0)}
        for structure, properties in rows
    ]
    return "[\n" + ",\n".join(json.dumps(entry) for entry in entries) + "\n]\n"


def _cif(rows: _Rows) -> str:
    return "\n".join(_cif_blocks(rows).values())


def _cif_blocks(rows: _Rows) -> dict[str, str]:
    """Return a data block for each structure by its name, such as '00001_BaTiO3', which sorts in their order."""
    digits = max(5, len(str(len(rows))))
    names = [f"{i:0{digits}d}_{structure.composition.reduced_formula}" for i, (structure, _) in enumerate(rows, 1)]
    return {name: _cif_block(name, *row) for name, row in zip(names, rows, strict=True)}


def _cif_block(name: str, structure: Structure, properties: dict[str, Scalar]) -> str:
    from pymatgen.core import Lattice, Structure
    from pymatgen.io.cif import CifWriter

    cell, frac = structure.lattice.matrix, structure.frac_coords
    if np.linalg.det(cell) < 0:  # lengths and angles imply a right-handed lattice; the negative avoids a mirror image
        cell, frac = -cell, -frac
    plain = Structure(Lattice(cell), structure.species, frac, to_unit_cell=True)
    text = str(CifWriter(plain, significant_figures=10))
    lines = [f"{PROPERTY_PREFIX}{_plain_name(key)}   {_cif_value(value)}" for key, value in properties.items()]
    body = text[text.index("data_") :].split("\n", 1)[1]
    return "\n".join([f"data_{name}", *lines, body])


def _cif_value(value: Scalar) -> str:
    if not isinstance(value, str):
        return repr(value)
    text = re.sub(r"\s+#*", " ", value)  # a # after a space would start a comment
    if "'" not in text:
        return f"'{text}'"
    return '"' + text.replace('"', "'") + '"'


def _plain_name(key: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]", "_", key)


# --- files ----------------------------------------------------------------------------------------------------------


def _write_folder(target: Path, blocks: dict[str, str]) -> None:
    if target.is_dir() and any(target.iterdir()):
        raise DataError(f"the folder {target} exists and is not empty; choose another one or remove it")
    with replace_folder(target) as temporary:
        for name, text in blocks.items():
            (temporary / f"{name}.cif").write_text(text, encoding="utf-8")
