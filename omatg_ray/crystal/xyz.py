"""Extended XYZ, frame by frame, so that an error names the frame and a limit leaves the rest unread."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from io import StringIO

from omatg_ray.crystal.dataset import scalar_properties
from omatg_ray.crystal.row import Entry, Row, failed, identity, row_of_atoms
from omatg_ray.errors import DataError

KEYS = {"lattice": "Lattice", "properties": "Properties"}


def xyz_entries(where: str, text: str) -> Iterator[Entry]:
    """The frames of a file."""
    file = StringIO(text)
    number = 0
    while header := file.readline():
        if not header.strip():
            continue
        number += 1
        if not (header.strip().isdecimal() and header.isascii()):
            error = DataError(f"expected a number of atoms, found {header.strip()[:40]!r}")
            yield failed(f"{where}, row {number}", error)
            return  # where the next frame begins is unknown
        lines = [file.readline() for _ in range(1 + int(header))]
        yield Entry(f"{where}, row {number}", partial(_read_frame, lines, str(number)))


def _read_frame(lines: list[str], default: str) -> Row:
    from ase.io.extxyz import read_xyz

    comment, *atoms_lines = lines
    if not lines[-1].strip():
        raise DataError(f"it ends before its {len(atoms_lines)} atoms")
    for key, spelling in KEYS.items():
        comment = re.sub(rf"(?<!\S){key}(?=\s*=)", spelling, comment, flags=re.IGNORECASE)
    # ASE has no deuterium
    atoms_lines = [re.sub(r"(?<!\S)D(?!\S)", "H", line) for line in atoms_lines]
    (atoms,) = read_xyz(StringIO("".join([f"{len(atoms_lines)}\n", comment, *atoms_lines])), 0)
    # ASE moves energies and the like from the comment line to a calculator
    found = {**atoms.info, **(atoms.calc.results if atoms.calc else {})}
    return row_of_atoms(atoms, identity(found, default), scalar_properties(found))
