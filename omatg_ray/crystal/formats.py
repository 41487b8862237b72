"""File formats that hold crystals, and the position of each crystal in a file.

A reader yields an `Entry` for each crystal that a file should hold, and reads it only on request, so that a damaged one
does not hide the next. Text formats are read from bytes, which may come from a gzip file or an archive.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import partial
from itertools import takewhile
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from omatg_ray.crystal import records
from omatg_ray.crystal.cif import row_of_block
from omatg_ray.crystal.cif_block import read_blocks
from omatg_ray.crystal.dataset import scalar_properties
from omatg_ray.crystal.file_names import read_as
from omatg_ray.crystal.row import Entry, Row, failed_entry, identity, require_periodic, row_of_atoms, row_of_structure
from omatg_ray.crystal.tables import (
    csv_entries,
    holds_crystals_in_column,
    holds_crystals_in_json,
    holds_crystals_in_lines,
    json_entries,
    json_lines_entries,
)
from omatg_ray.crystal.text import decode, decompress
from omatg_ray.crystal.unpickle import unpickle_record
from omatg_ray.crystal.xyz import has_lattice, xyz_entries
from omatg_ray.errors import DataError

Texts = Callable[[str, str], Iterator[Entry]]
Files = Callable[[Path], Iterator[Entry]]


def file_entries(path: Path) -> Iterator[Entry]:
    """Return an entry for each crystal that a file should hold.

    Raises:
        DataError: Its format is unknown.
    """
    kind = read_as(path.name)
    if kind in FILES:
        return guard(str(path), partial(FILES[kind], path))
    if kind not in TEXTS:
        raise DataError(
            f"{path} has an unknown suffix; known are {', '.join([*TEXTS, *FILES])} (texts also with .gz), POSCAR and "
            "CONTCAR files, folders and .zip archives of these"
        )
    return guard(str(path), lambda: TEXTS[kind](str(path), text_of(str(path), path.read_bytes())))


def text_of(where: str, data: bytes) -> str:
    """Return the text of a file in one of the formats `TEXTS`, which its name says.

    Raises:
        DataError: It cannot be decompressed, or is no text.
    """
    if where.lower().endswith(".gz"):
        data = decompress(data)
    return decode(data, lenient=read_as(PurePath(where).name) in CRYSTAL_FILES)


def guard(where: str, read: Callable[[], Iterator[Entry]]) -> Iterator[Entry]:
    """Yield the entries of a file. If reading them fails or there are none, yield one that raises the error."""
    has_entries, many = False, read_as(PurePath(where).name) not in CRYSTAL_FILES
    try:
        for entry in read():
            has_entries = True
            yield entry
        if not has_entries:
            yield failed_entry(where, DataError("it holds no crystals"), many)
    except (DataError, OSError) as error:
        yield failed_entry(where, error, many and not has_entries)


# --- single crystals ------------------------------------------------------------------------------------------------


def _cif(where: str, text: str) -> Iterator[Entry]:
    blocks = read_blocks(text)
    stem = re.sub(r"\.(mcif|cif)(\.gz)?$", "", PurePath(where).name, flags=re.IGNORECASE)
    for number, block in enumerate(blocks, start=1):
        single = len(blocks) == 1
        label = where if single else f"{where}, block {number} ({block.name})"
        yield Entry(label, partial(row_of_block, block), identity(block.properties, stem if single else block.name))


def _poscar(where: str, text: str) -> Iterator[Entry]:
    yield Entry(where, partial(_read_poscar, text), re.sub(r"\.vasp$", "", PurePath(where).name, flags=re.IGNORECASE))


def _read_poscar(text: str, name: str) -> Row:
    from pymatgen.io.vasp import Poscar

    lines = text.splitlines()
    if len(lines) < 8:
        raise DataError("it is not a POSCAR: it has fewer than 8 lines")
    if re.fullmatch(r"[\s\d]*", lines[5]):
        raise DataError("it names no elements (VASP 4): write their symbols in the line above the numbers of atoms")
    symbols, counts = lines[5].split(), lines[6].split()
    if len(symbols) != len(counts):
        raise DataError(f"it names {len(symbols)} elements and {len(counts)} numbers of atoms")
    structure = Poscar.from_str("\n".join(lines)).structure
    # The coordinates are followed by nothing, or by an empty line and velocities.
    first = 8 + (lines[7].strip()[:1] in "sS")
    coordinates = list(takewhile(str.strip, lines[first:]))
    if len(coordinates) > len(structure) and not re.match(r"\s*[A-Za-z]", coordinates[len(structure)]):
        raise DataError(f"it lists {len(coordinates)} coordinates, but its numbers of atoms add up to {len(structure)}")
    return row_of_structure(structure, name, {})


# --- collections ----------------------------------------------------------------------------------------------------


def _lmdb(path: Path) -> Iterator[Entry]:
    for key, data in records.lmdb_records(path):
        yield Entry(f"{path}, key {key}", partial(_read_pickle, data), key)


def _read_pickle(data: bytes, default: str) -> Row:
    return _read_record(unpickle_record(data), "pos", default)


def _parquet(path: Path) -> Iterator[Entry]:
    for number, record in enumerate(records.parquet_records(path), start=1):
        yield Entry(f"{path}, row {number}", partial(_read_record, record, "positions"), str(number))


def _read_record(record: dict[str, Any], positions: str, default: str) -> Row:
    if record.get("pbc") is not None:
        require_periodic(np.asarray(record["pbc"]))
    numbers, cell, frac = records.geometry(record, positions)
    return Row(identity(record, default, records.ID_KEYS), numbers, cell, frac, scalar_properties(record))


def _ase_database(path: Path) -> Iterator[Entry]:
    import sqlite3

    from ase.db import connect

    try:
        with connect(path, type="db", use_lock_file=False) as database:
            for row in database.select():
                yield Entry(f"{path}, row {row.id}", partial(_read_database_row, row), str(row.id))
    except (sqlite3.Error, ValueError) as error:
        raise DataError(f"it is not a readable ASE database: {error}") from error


def _read_database_row(row: Any, default: str) -> Row:
    properties = {**row.key_value_pairs, **({"energy": row.energy} if "energy" in row else {})}
    return row_of_atoms(row.toatoms(), default, properties)


def _trajectory(path: Path) -> Iterator[Entry]:
    from ase.io import ulm
    from ase.io.trajectory import TrajectoryReader

    try:
        with TrajectoryReader(path) as images:
            count = len(images)
    except (ulm.InvalidULMFileError, ValueError, KeyError) as error:
        raise DataError(f"it is not a readable ASE trajectory: {error}") from error
    for number in range(count):
        yield Entry(f"{path}, image {number + 1}", partial(_read_image, path, number), str(number + 1))


def _read_image(path: Path, number: int, default: str) -> Row:
    from ase.io.trajectory import TrajectoryReader

    with TrajectoryReader(path) as images:
        return row_of_atoms(images[number], default)


CRYSTAL_FILES: dict[str, Texts] = {".cif": _cif, ".mcif": _cif, ".vasp": _poscar}
"""Formats of single crystals, whose file names are their ids."""
TEXTS: dict[str, Texts] = {
    **CRYSTAL_FILES,
    ".csv": csv_entries,
    ".tsv": csv_entries,
    ".json": json_entries,
    ".jsonl": json_lines_entries,
    ".extxyz": xyz_entries,
    ".xyz": xyz_entries,
}
FILES: dict[str, Files] = {".lmdb": _lmdb, ".parquet": _parquet, ".db": _ase_database, ".traj": _trajectory}
TEXTS_OF_ANYTHING: dict[str, Callable[[str], bool]] = {
    ".csv": holds_crystals_in_column,
    ".tsv": holds_crystals_in_column,
    ".json": holds_crystals_in_json,
    ".jsonl": holds_crystals_in_lines,
    ".xyz": has_lattice,
}
"""Formats of which a file in a folder may hold no crystals, but properties or molecules, and what tells from its text.

A damaged file counts as one with crystals, so that it is refused and not left out.
"""
FILES_OF_ANYTHING: dict[str, Callable[[Path], bool]] = {
    ".parquet": records.holds_crystals_in_columns,
    ".db": records.is_database,
}
"""The same of formats that are not texts."""
