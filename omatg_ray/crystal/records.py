"""Data files of OMatG: LMDB and Parquet, one record of arrays per crystal, with Cartesian positions.

Source of the formats: OMatG's `StructureDataset` (FERMat-ML/OMatG). An LMDB file (one file, not a folder) maps keys
to pickled dictionaries with tensors `cell` (3, 3), `pos` (N, 3) and `atomic_numbers` (N,); a Parquet file has columns
`cell`, `positions` and `atomic_numbers`. Both may name the crystal in `material_id`, `identifier` or `ids`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from omatg_ray.errors import DataError

ID_KEYS = ("material_id", "identifier", "ids")
PARQUET_COLUMNS = ("cell", "positions", "atomic_numbers")
ROWS_AT_ONCE = 256

FloatArray = NDArray[np.float64]


def lmdb_records(path: Path) -> Iterator[tuple[str, bytes]]:
    """Yield key and pickle of every record, in the order of the keys (which is OMatG's).

    Raises:
        DataError: The file is not an LMDB file, is damaged, or is shorter than it says.
    """
    import lmdb

    try:
        environment = lmdb.open(str(path), subdir=False, readonly=True, lock=False, readahead=False)
    except lmdb.Error as error:
        raise DataError(f"it is not an LMDB file: {error}") from error
    with closing(environment):
        # The file is mapped into memory: reading beyond its end would kill the process.
        needed = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
        if path.stat().st_size < needed:
            raise DataError(f"it is cut off: {path.stat().st_size} of {needed} bytes")
        try:
            with environment.begin() as transaction, transaction.cursor() as cursor:
                for key, value in cursor:
                    yield key.decode(errors="backslashreplace"), value
        except lmdb.Error as error:
            raise DataError(f"it is damaged: {error}") from error


def is_database(path: Path) -> bool:
    """Return whether a file is an SQLite database, as ASE's are; others end in `.db` too. Also if it is unreadable."""
    try:
        with path.open("rb") as file:
            return file.read(16) == b"SQLite format 3\0"
    except OSError:
        return True


def holds_crystals_in_columns(path: Path) -> bool:
    """Return whether a Parquet file has the columns of crystals; also if it is damaged."""
    import pyarrow
    import pyarrow.parquet

    try:
        return set(PARQUET_COLUMNS) <= set(pyarrow.parquet.read_schema(path).names)
    except (OSError, pyarrow.ArrowException):
        return True


def parquet_records(path: Path) -> Iterator[dict[str, Any]]:
    """Yield every row as plain Python values, in order.

    Raises:
        DataError: The file is not a Parquet file, or lacks a column.
    """
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            columns = file.schema_arrow.names
            missing = [name for name in PARQUET_COLUMNS if name not in columns]
            if missing:
                raise DataError(f"it has no column {missing[0]!r}; its columns are {', '.join(columns)}")
            for batch in file.iter_batches(batch_size=ROWS_AT_ONCE):
                yield from batch.to_pylist()
    except pyarrow.ArrowException as error:
        raise DataError(f"it is not a readable Parquet file: {error}") from error


def geometry(record: Mapping[str, Any], positions: str) -> tuple[list[int], FloatArray, FloatArray]:
    """Return atomic numbers, lattice (3, 3) in Å and fractional positions (N, 3) of a record.

    Args:
        record: Holds `cell`, `atomic_numbers` and Cartesian positions in Å.
        positions: Key of the positions.

    Raises:
        DataError: A key is missing, an array has another shape, or an atomic number is not an integer.
    """
    missing = [key for key in ("cell", positions, "atomic_numbers") if record.get(key) is None]
    if missing:
        raise DataError(f"it has no {missing[0]!r}; its keys are {', '.join(map(str, record))}")
    cell, pos, numbers = (_array(record, key) for key in ("cell", positions, "atomic_numbers"))
    if cell.shape == (1, 3, 3):
        cell = cell[0]
    if numbers.ndim != 1 or cell.shape != (3, 3) or pos.shape != (len(numbers), 3):
        raise DataError(
            f"'cell' has shape {cell.shape}, {positions!r} {pos.shape} and 'atomic_numbers' {numbers.shape}; "
            "(3, 3), (N, 3) and (N,) are needed"
        )
    if not (np.isfinite(numbers).all() and (numbers == np.rint(numbers)).all()):
        raise DataError("'atomic_numbers' holds numbers that are not integers")
    # A lattice without volume or with NaN has no fractional positions; the caller refuses it by its volume.
    invertible = np.isfinite(cell).all() and abs(np.linalg.det(cell)) > 0
    frac: FloatArray = np.linalg.solve(cell.T, pos.T).T.astype(np.float64) if invertible else pos
    return [int(z) for z in numbers], cell, frac


def _array(record: Mapping[str, Any], key: str) -> FloatArray:
    try:
        return np.array(record[key], dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"{key!r} is not an array of numbers ({error})") from error
