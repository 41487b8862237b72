"""Extended XYZ, read frame by frame, so that an error names the frame and a limit leaves the rest unread."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from functools import partial
from io import StringIO
from itertools import islice

import numpy as np

from omatg_ray.crystal.dataset import Scalar
from omatg_ray.crystal.formula import require_fitting_cell
from omatg_ray.crystal.row import Entry, Row, failed_entry, row_of_atoms
from omatg_ray.errors import DataError

KEYS = {"lattice": "Lattice", "properties": "Properties", "pbc": "pbc"}
ENERGY, ENERGY_PER_ATOM = "energy", "energy_per_atom"


def cell_energy(properties: Mapping[str, Scalar], atoms: int) -> float | None:
    """Return the energy in eV of a cell of so many atoms, by its energy per atom; None if that is unknown."""
    energy = properties.get(ENERGY_PER_ATOM)
    return energy * atoms if isinstance(energy, float) else None


def has_lattice(text: str) -> bool:
    """Return whether any frame of a file names a lattice, which molecules have none of."""
    return re.search(r"(?<!\S)lattice\s*=", text, flags=re.IGNORECASE) is not None


def xyz_entries(where: str, text: str) -> Iterator[Entry]:
    """Yield the frames of a file."""
    file = StringIO(text, newline=None)
    number = 0
    while header := file.readline():
        if not header.strip():
            continue
        number += 1
        if not (header.strip().isdecimal() and header.isascii()):
            error = DataError(f"expected a number of atoms, found {header.strip()[:40]!r}")
            yield failed_entry(f"{where}, row {number}", error)
            return  # the start of the next frame is unknown
        lines = list(islice(file, 1 + int(header)))
        yield Entry(f"{where}, row {number}", partial(_read_frame, lines, int(header)), str(number))


def _read_frame(lines: list[str], atoms: int, default: str) -> Row:
    from ase.io.extxyz import read_xyz

    require_fitting_cell(atoms)
    if len(lines) < 1 + atoms or not lines[-1].strip():
        raise DataError(f"it ends before its {atoms} atoms")
    comment, *rows = lines
    for key, spelling in KEYS.items():
        comment = re.sub(rf"(?<!\S){key}(?=\s*=)", spelling, comment, flags=re.IGNORECASE)
    # ASE has no deuterium.
    rows = [re.sub(r"(?<!\S)D(?!\S)", "H", row) for row in rows]
    (image,) = read_xyz(StringIO("".join([f"{atoms}\n", comment, *rows])), 0)
    for name in ("occupancy", "occupancies"):
        if name in image.arrays and not np.allclose(image.arrays[name], 1):
            raise DataError(
                "it is disordered (its column occupancy is not 1 everywhere); only fully occupied sites can be used"
            )
    row = row_of_atoms(image, default)
    # It was written for ASE; a cell of another size, such as a standard cell, has another one.
    if (energy := cell_energy(row.properties, atoms)) is not None and _same(row.properties.get(ENERGY), energy):
        del row.properties[ENERGY]
    return row


def _same(value: Scalar | None, energy: float) -> bool:
    return isinstance(value, float | int) and math.isclose(value, energy, rel_tol=1e-6, abs_tol=1e-6)
