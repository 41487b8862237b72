"""Reading crystals from files, Niggli-reduced and in standard orientation.

Formats, by suffix: CSV with a `cif` column (as Perov-5, MP-20 and Carbon-24 are handed out), extended XYZ, CIF, folders
of CIF files, the JSON that `omatg_ray.crystal.write` writes, and the LMDB and Parquet files of OMatG (see
`omatg_ray.crystal.records`).
"""

from __future__ import annotations

import csv
import json
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from io import StringIO
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from omatg_ray.crystal.batch import MAX_ATOMIC_NUMBER, CrystalBatch
from omatg_ray.crystal.dataset import CrystalDataset, Scalar, distinct_ids, scalar_properties
from omatg_ray.crystal.lattice import wrap
from omatg_ray.crystal.records import geometry, identity, lmdb_records, parquet_records
from omatg_ray.crystal.unpickle import unpickle_record
from omatg_ray.errors import DataError
from omatg_ray.run.progress import Progress

if TYPE_CHECKING:
    from pymatgen.core import Structure

CIF_PROPERTY_PREFIX = "_omatg_ray_"
MIN_VOLUME = 0.1
"""Cells below this volume in Å³ are degenerate."""

ID_COLUMN = "material_id"

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class _Row:
    """One crystal of a file: where it stands (for messages), its id, its atoms and what came along."""

    where: str
    ident: str
    numbers: list[int]
    cell: FloatArray
    frac: FloatArray
    properties: dict[str, Scalar]


def read_dataset(
    path: str | Path, *, reduce: bool = True, limit: int | None = None, progress: bool = False
) -> CrystalDataset:
    """Read a file or a folder of CIF files.

    An id is the `material_id` (in LMDB and Parquet also the `identifier` or `ids`) that came along, else the name of a
    CIF file (of its data block where it has several) or the key in an LMDB file, else the number of the row, from 1.
    CIF knows no orientation, so crystals from CIF and CSV are always in standard orientation.

    Args:
        path: .csv, .extxyz, .xyz, .cif, .json, .lmdb, .parquet or a folder of .cif files (in the order of their names).
        reduce: Niggli-reduce the lattices and put them in standard orientation. Otherwise cells are taken as they are.
        limit: Read only this many crystals, from the first on.
        progress: Show a progress bar.

    Raises:
        DataError: The path is missing, unreadable, empty or of an unknown format; or a row is unusable (unparseable,
            disordered, non-finite numbers, a cell below 0.1 Å³, or a pickle that asks for more than tensors and
            numbers), which is named with its file and number or key.
    """
    path = Path(path)
    if limit is not None and limit < 1:
        raise DataError(f"limit={limit} leaves nothing to read from {path}; it must be at least 1")
    idents, properties, numbers, cells, frac = [], [], [], [], []
    try:
        with warnings.catch_warnings(), Progress(None, f"read {path.name}", shown=progress) as bar:
            warnings.simplefilter("ignore")  # the parsers warn about every repair; what matters raises
            for row in islice(_rows(path), limit):
                with _naming(row.where):
                    _check(row)
                cell, pos = reduce_cell(row.cell, row.frac) if reduce else (row.cell, row.frac)
                idents.append(row.ident)
                properties.append(row.properties)
                numbers.append(row.numbers)
                cells.append(cell)
                frac.append(pos)
                bar.advance()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    if not idents:
        raise DataError(f"{path} holds no crystals")
    crystals = CrystalBatch(
        torch.tensor([z for row_numbers in numbers for z in row_numbers]),
        wrap(torch.from_numpy(np.concatenate(frac)).float()),
        torch.from_numpy(np.stack(cells)).float(),
        torch.tensor([len(row_numbers) for row_numbers in numbers]),
    )
    return CrystalDataset(crystals, distinct_ids(idents), properties)


# --- lattices -------------------------------------------------------------------------------------------------------


def reduce_cell(cell: FloatArray, frac: FloatArray) -> tuple[FloatArray, FloatArray]:
    """The same crystal in its Niggli cell (Grosse-Kunstleve et al. 2004) and in standard orientation.

    Args:
        cell: Lattice (3, 3) in Å, not degenerate; rows are the vectors.
        frac: Fractional positions (N, 3).

    Returns:
        Lattice and fractional positions (not wrapped). A lattice on which both reductions fail is only oriented.
    """
    transform = _niggli_transform(cell)
    return standard_orientation(transform @ cell, frac @ np.linalg.inv(transform))


def standard_orientation(cell: FloatArray, frac: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Rotate a crystal so that a lies along x, b in the xy plane (b_y > 0) and c_z > 0.

    A left-handed lattice is replaced by its negative, and the positions with it: a rotation alone then does the rest,
    and the crystal does not turn into its mirror image.
    """
    if np.linalg.det(cell) < 0:
        cell, frac = -cell, -frac
    lower = np.linalg.qr(cell.T)[1].T
    return lower * np.sign(np.diag(lower)), frac


def _niggli_transform(cell: FloatArray) -> FloatArray:
    """Integer matrix T (3, 3), |det T| = 1, such that T @ cell is a Niggli cell; the identity where none is found."""
    import spglib
    from pymatgen.core import Lattice

    # spglib first: it takes a few microseconds, pymatgen half a millisecond
    for niggli in (spglib.niggli_reduce, lambda c: Lattice(c).get_niggli_reduced_lattice().matrix):
        try:
            reduced = np.asarray(niggli(cell), dtype=np.float64)
            transform = np.rint(reduced @ np.linalg.inv(cell))
            same = abs(round(np.linalg.det(transform))) == 1 and np.allclose(
                transform @ cell, reduced, rtol=0, atol=1e-3
            )
        except Exception:  # noqa: BLE001 - either library may give up on an odd cell, in many ways
            continue
        if same:
            return transform
    return np.eye(3)


# --- rows -----------------------------------------------------------------------------------------------------------


class _BadRowError(Exception):
    """Why a row cannot be used; `_naming` adds which row it is."""


@contextmanager
def _naming(where: str) -> Iterator[None]:
    """Turn whatever is raised about a bad row into a DataError that names the row."""
    try:
        yield
    except (_BadRowError, DataError) as error:
        raise DataError(f"{where}: {error}") from error
    except Exception as error:  # the parsers raise anything on malformed text
        cause = error.__cause__ or error
        reason = " ".join(str(cause).split())
        if isinstance(cause, KeyError):
            reason = f"{reason} is unknown or missing"
        raise DataError(f"{where}: it cannot be parsed ({reason or type(cause).__name__})") from error


def _check(row: _Row) -> None:
    if not row.numbers:
        raise _BadRowError("it has no atoms")
    if not all(1 <= z <= MAX_ATOMIC_NUMBER for z in row.numbers):
        raise _BadRowError("a site holds no chemical element")
    if not (np.isfinite(row.cell).all() and np.isfinite(row.frac).all()):
        raise _BadRowError("a coordinate or lattice vector is NaN or infinite")
    volume = abs(np.linalg.det(row.cell))
    if volume < MIN_VOLUME:
        raise _BadRowError(f"the cell is degenerate: its volume is {volume:.3g} Å³ (at least {MIN_VOLUME} is needed)")


def _from_structure(where: str, ident: str, structure: Structure, properties: dict[str, Scalar]) -> _Row:
    for index, site in enumerate(structure, start=1):
        if not site.is_ordered:
            raise _BadRowError(
                f"site {index} ({site.species_string}) is disordered; only fully occupied sites can be used"
            )
    numbers = [site.specie.Z for site in structure]
    return _Row(where, ident, numbers, structure.lattice.matrix.copy(), structure.frac_coords.copy(), properties)


def _ident(properties: dict[str, Any], default: str) -> str:
    value = properties.get(ID_COLUMN)
    return str(value).strip() if value not in (None, "") else default


# --- formats --------------------------------------------------------------------------------------------------------


def _rows(path: Path) -> Iterator[_Row]:
    readers = {
        ".csv": _csv,
        ".extxyz": _xyz,
        ".xyz": _xyz,
        ".cif": _cif,
        ".json": _json,
        ".lmdb": _lmdb,
        ".parquet": _parquet,
    }
    if not path.exists():
        raise DataError(f"{path} does not exist")
    if path.is_dir():
        return _folder(path)
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise DataError(f"{path} has an unknown suffix; known are {', '.join(readers)} and folders of .cif files")
    return reader(path)


def _csv(path: Path) -> Iterator[_Row]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        records = csv.DictReader(file)
        try:
            if "cif" not in (records.fieldnames or []):
                raise DataError(f"{path} has no column 'cif'; its columns are {records.fieldnames or 'missing'}")
            for number, record in enumerate(records, start=1):
                where = f"{path}, row {number}"
                with _naming(where):
                    if None in record or None in record.values():
                        raise _BadRowError("the number of its fields differs from the header's")
                    blocks = _cif_blocks(record.pop("cif"))
                    if len(blocks) != 1:
                        raise _BadRowError(f"its cif holds {len(blocks)} crystals instead of one")
                    columns = {key: _number(text) for key, text in record.items() if key}
                    row = _from_cif(where, _ident(record, str(number)), blocks[0][1])
                    row = replace(row, properties=scalar_properties(columns))
                yield row
        except csv.Error as error:
            raise DataError(f"{path}, line {records.line_num}: {error}") from error


def _xyz(path: Path) -> Iterator[_Row]:
    from ase.io.extxyz import read_xyz

    with path.open(encoding="utf-8") as file:
        number = 0
        while header := file.readline():
            if not header.strip():
                continue
            number += 1
            where = f"{path}, row {number}"
            with _naming(where):
                if not header.strip().isdecimal():
                    raise _BadRowError(f"expected a number of atoms, found {header.strip()[:40]!r}")
                # frame by frame, so that an error can name the row and a limit leaves the rest unread
                lines = [file.readline() for _ in range(1 + int(header))]
                if not lines[-1].strip():
                    raise _BadRowError(f"it ends before its {int(header)} atoms")
                (atoms,) = read_xyz(StringIO("".join([header, *lines])), 0)
                if not atoms.cell.rank == 3:
                    raise _BadRowError("it has no lattice of three vectors")
                if not atoms.pbc.all():
                    raise _BadRowError(f"it is not periodic in all three directions (pbc {atoms.pbc.tolist()})")
                # ASE moves energies and the like from the comment line to a calculator
                found = {**atoms.info, **(atoms.calc.results if atoms.calc else {})}
                cell = np.array(atoms.cell)
                row = _Row(
                    where,
                    _ident(found, str(number)),
                    atoms.numbers.tolist(),
                    cell,
                    np.linalg.solve(cell.T, atoms.positions.T).T,
                    scalar_properties(found),
                )
            yield row


def _cif(path: Path) -> Iterator[_Row]:
    blocks = _cif_blocks(path.read_text(encoding="utf-8", errors="replace"))
    for number, (name, text) in enumerate(blocks, start=1):
        where = str(path) if len(blocks) == 1 else f"{path}, block {number} ({name})"
        with _naming(where):
            row = _from_cif(where, path.stem if len(blocks) == 1 else name, text)
        yield replace(row, ident=_ident(row.properties, row.ident))


def _folder(path: Path) -> Iterator[_Row]:
    files = sorted(file for file in path.iterdir() if file.suffix.lower() == ".cif")
    if not files:
        raise DataError(f"the folder {path} holds no .cif files")
    for file in files:
        yield from _cif(file)


def _json(path: Path) -> Iterator[_Row]:
    from pymatgen.core import Structure

    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise DataError(f"{path} is no JSON: {error}") from error
    if not isinstance(entries, list):
        raise DataError(f"{path} must hold a list of objects with a key 'structure'")
    for number, entry in enumerate(entries, start=1):
        where = f"{path}, row {number}"
        with _naming(where):
            if not isinstance(entry, dict) or not isinstance(entry.get("structure"), dict):
                raise _BadRowError("it is no object with a key 'structure' that holds a pymatgen structure")
            structure = Structure.from_dict(entry.pop("structure"))
            row = _from_structure(where, _ident(entry, str(number)), structure, scalar_properties(entry))
        yield row


def _lmdb(path: Path) -> Iterator[_Row]:
    for key, data in lmdb_records(path):
        where = f"{path}, key {key}"
        with _naming(where):
            row = _from_record(where, key, unpickle_record(data), "pos")
        yield row


def _parquet(path: Path) -> Iterator[_Row]:
    for number, record in enumerate(parquet_records(path), start=1):
        where = f"{path}, row {number}"
        with _naming(where):
            row = _from_record(where, str(number), record, "positions")
        yield row


def _from_record(where: str, default: str, record: dict[str, Any], positions: str) -> _Row:
    numbers, cell, frac = geometry(record, positions)
    return _Row(where, identity(record, default), numbers, cell, frac, scalar_properties(record))


# --- CIF ------------------------------------------------------------------------------------------------------------


def _cif_blocks(text: str) -> list[tuple[str, str]]:
    """Name and text of every data block that describes a crystal.

    pymatgen keeps only the last of several blocks of one name, so they are taken apart here.
    """
    parts = re.split(r"^[ \t]*data_", text, flags=re.MULTILINE | re.IGNORECASE)[1:]
    crystals = [part for part in parts if "_cell_length" in part or "_atom_site_" in part]
    return [((part.split(None, 1)[0] if not part[:1].isspace() else "unnamed"), f"data_{part}") for part in crystals]


def _from_cif(where: str, ident: str, text: str) -> _Row:
    """The crystal of a data block, in standard orientation, with the properties that `write_structures` left there."""
    from pymatgen.io.cif import CifParser

    # Coordinates near 1/3 and 2/3 are rounded to them only where symmetry operations need it: a P1 cell (as in the
    # usual data sets) is taken as it is.
    parser = CifParser.from_str(text, frac_tolerance=0.0, check_cif=False)
    (structure,) = parser.parse_structures(primitive=False, on_error="raise")
    if len(parser.symmetry_operations) > 1:
        parser = CifParser.from_str(text, check_cif=False)
        (structure,) = parser.parse_structures(primitive=False, on_error="raise")
    (block,) = parser.as_dict().values()

    # pymatgen drops sites that it cannot read and guesses at others
    listed = {re.sub(r"[^A-Za-z].*", "", symbol).capitalize() for symbol in block.get("_atom_site_type_symbol", [])}
    understood = {element.symbol for element in structure.composition}
    if listed and listed != understood:
        raise _BadRowError(f"its atom types {sorted(listed)} were understood as the elements {sorted(understood)}")

    properties = {
        key.removeprefix(CIF_PROPERTY_PREFIX): _number(value)
        for key, value in block.items()
        if key.startswith(CIF_PROPERTY_PREFIX) and isinstance(value, str)
    }
    row = _from_structure(where, ident, structure, scalar_properties(properties))
    cell, frac = standard_orientation(row.cell, row.frac)
    return replace(row, cell=cell, frac=frac)


def _number(text: str) -> Scalar:
    """A text as integer or float where it is written as one."""
    if re.fullmatch(r"\s*[+-]?\d+\s*", text, flags=re.ASCII):
        return int(text)
    try:
        return float(text) if "_" not in text else text
    except ValueError:
        return text
