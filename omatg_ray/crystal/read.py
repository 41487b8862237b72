"""Reading crystals from files: checked, Niggli-reduced and in standard orientation.

`contents` finds the files, `formats` the crystals of a file, and `cif`, `xyz`, `tables` and `records` read one each.
This module checks them and gathers the errors of those that fail.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch

from omatg_ray.crystal.batch import MAX_ATOMIC_NUMBER, CrystalBatch
from omatg_ray.crystal.composition import symbol
from omatg_ray.crystal.contents import contents
from omatg_ray.crystal.dataset import CrystalDataset, distinct_ids
from omatg_ray.crystal.file_names import kinds_of
from omatg_ray.crystal.formula import require_fitting_cell
from omatg_ray.crystal.lattice import wrap
from omatg_ray.crystal.reduce import reduce_cell
from omatg_ray.crystal.row import Entry, Row
from omatg_ray.crystal.validity import MIN_DISTANCE, MIN_POLAR_SINE, MIN_VOLUME, check_validity, closest_atoms
from omatg_ray.errors import DataError, DataWarning
from omatg_ray.run.progress import Progress
from omatg_ray.run.text import MOST_NAMED, counted, listed

OnError = Literal["refuse", "skip"]

ROWS_AT_ONCE = 256
FARTHEST = 1e6
"""Distance from the origin, in cells, at which a position has lost too many digits."""


def read_dataset(
    path: str | Path,
    *,
    reduce: bool = True,
    limit: int | None = None,
    on_error: OnError = "refuse",
    allow_overlaps: bool = False,
    progress: bool = False,
) -> CrystalDataset:
    """Read a file, or the files of a folder or archive.

    The formats are CIF, POSCAR, CSV, JSON, XYZ, ASE's databases and trajectories, and OMatG's LMDB and Parquet files;
    docs/data.md says what is read of each, and what is refused.

    Text formats may end in `.gz`. An id is the `material_id` in the file (in LMDB and Parquet also the `identifier` or
    `ids`), else the name of a CIF file (of the data block if it has several) or the key in an LMDB file, else the
    number of the row, from 1. In a folder or archive, key and number follow the name of the file (`<file>-<number>`),
    which stands alone if the file holds one crystal. CIF has no orientation, so crystals from it are always in standard
    orientation.

    Args:
        path: File, folder or archive.
        reduce: Niggli-reduce the lattices and put them in standard orientation. Otherwise cells stay unchanged.
        limit: Read only the first so many crystals.
        on_error: Refuse unusable crystals, or skip them with a warning that says which and why.
        allow_overlaps: Skip `check_validity`, which generated crystals may fail: atoms may overlap, cells may be flat.
        progress: Show a progress bar.

    Raises:
        DataError: The path is missing, unreadable, empty or of an unknown format; or crystals are unusable: not
            parseable, disordered, not periodic, at odds with their formula or symmetry, with non-finite numbers,
            overlapping atoms (`check_validity`) or more than `MAX_ATOMS_PER_CELL` atoms. Up to 20 are named.
    """
    path = Path(path)
    if limit is not None and limit < 1:
        raise DataError(f"limit={limit} leaves nothing to read from {path}; it must be at least 1")
    if on_error not in get_args(OnError):
        raise DataError(f"on_error={on_error!r} is none of {', '.join(get_args(OnError))}")
    found = _gather(path, limit, on_error, allow_overlaps, progress)
    rows, wrong, looked_at = found.rows, found.unusable, found.looked_at
    if wrong and not rows and on_error == "skip" and looked_at > 1:
        raise DataError(f"none of the {looked_at} crystals of {path} can be used:", lines(wrong[:MOST_NAMED]))
    if wrong and (on_error == "refuse" or not rows):
        raise _refusal(path, lines(wrong), looked_at)
    if wrong:
        _warn(f"{len(wrong)} of {looked_at} crystals of {path} are left out", lines(wrong))
    if found.doubts:
        _warn(f"{len(found.doubts)} of {looked_at} crystals of {path} are doubtful (solvents left out?)", found.doubts)
    if others := found.left_out:
        warnings.warn(
            f"{path}: {counted(len(others), 'file')} not read: {kinds_of(others)} (without crystals, or of a format "
            f"that is not read from {'a folder' if path.is_dir() else 'an archive'})",
            DataWarning,
            stacklevel=2,
        )
    if not rows:
        raise DataError(f"{path} holds no crystals")
    return dataset_of(rows, reduce)


@dataclass(frozen=True)
class Unusable:
    """A crystal that cannot be used.

    Attributes:
        where: File and row, block or key.
        reason: Why it cannot be used.
        overlaps: Whether the reason is that `check_validity` failed.
        whole_file: Whether it stands for a file of many crystals, none of which can be read.
    """

    where: str
    reason: str
    overlaps: bool
    whole_file: bool = False


@dataclass(frozen=True)
class Survey:
    """What a file, folder or archive holds.

    Attributes:
        usable: The crystals that can be used; None if there are none.
        unusable: The others.
        doubts: What is doubtful about crystals that can be used.
        left_out: Files of a folder or archive that are not read.
    """

    usable: CrystalDataset | None
    unusable: list[Unusable]
    doubts: list[str]
    left_out: list[str]


def survey(path: str | Path, *, progress: bool = False) -> Survey:
    """Read a file as `read_dataset` does, and return what it would refuse, skip or warn of.

    Raises:
        DataError: The path is missing, unreadable or of an unknown format; or it is a table, list or database without
            a single crystal.
    """
    path = Path(path)
    found = _gather(path, None, "skip", False, progress)
    if found.looked_at == 1 and found.unusable and found.unusable[0].whole_file:
        raise DataError(*lines(found.unusable))
    usable = dataset_of(found.rows, reduce=True) if found.rows else None
    return Survey(usable, found.unusable, found.doubts, found.left_out)


class _Gathered(NamedTuple):
    """What was read, how many crystals were looked at, and the files of a folder or archive that were not read."""

    rows: list[Row]
    unusable: list[Unusable]
    doubts: list[str]
    looked_at: int
    left_out: list[str]


def _gather(path: Path, limit: int | None, on_error: OnError, allow_overlaps: bool, progress: bool) -> _Gathered:
    rows: list[Row] = []
    wrong: list[Unusable] = []
    doubts: list[str] = []
    looked_at = 0
    with warnings.catch_warnings(), Progress(None, f"read {path.name}", shown=progress) as bar:
        warnings.simplefilter("ignore")  # the parsers warn about every repair; what matters raises
        pending, left_out = contents(path)
        while on_error == "skip" or len(wrong) < MOST_NAMED:
            n_used = len(rows) if on_error == "skip" else looked_at
            size = ROWS_AT_ONCE if limit is None else min(ROWS_AT_ONCE, limit - n_used)
            chunk = list(islice(pending, size))
            if not chunk:
                break
            looked_at += len(chunk)
            for entry, result in zip(chunk, _read(chunk, allow_overlaps), strict=True):
                if isinstance(result, Row):
                    rows.append(result)
                    if result.doubt is not None:
                        doubts.append(f"{entry.where}: {result.doubt}")
                else:
                    wrong.append(Unusable(entry.where, result.reason, result.overlaps, entry.whole_file))
            bar.advance(steps=len(chunk))
    return _Gathered(rows, wrong, doubts, looked_at, left_out)


def lines(unusable: Sequence[Unusable]) -> list[str]:
    """Return a line for each crystal that cannot be used, with the reason."""
    return [f"{crystal.where}: {crystal.reason}" for crystal in unusable]


class _Refused(NamedTuple):
    """The reason why a row cannot be used, and whether it is one of `check_validity`."""

    reason: str
    overlaps: bool = False


def _read(chunk: Sequence[Entry], allow_overlaps: bool) -> list[Row | _Refused]:
    results = [_Refused(read) if isinstance(read, str) else read for read in map(_read_one, chunk)]
    if allow_overlaps:
        return results
    reasons = iter(_invalid([row for row in results if isinstance(row, Row)]))
    return [(next(reasons) or row) if isinstance(row, Row) else row for row in results]


def _read_one(entry: Entry) -> Row | str:
    try:
        row = entry.read(entry.default)
        require_usable(row)
        return row
    except DataError as error:
        return str(error)
    except OSError as error:
        return f"it cannot be read: {error.strerror or error}"
    except Exception as error:  # noqa: BLE001 - the parsers raise anything on malformed text
        cause = error.__cause__ or error
        reason = " ".join(str(cause).split())
        if isinstance(cause, KeyError):
            reason = f"{reason} is unknown or missing"
        return f"it cannot be parsed ({reason or type(cause).__name__})"


def require_usable(row: Row, *, allow_collapsed: bool = False) -> None:
    """Refuse a crystal that is wrong on its own, before anything is computed from it.

    Args:
        row: The crystal.
        allow_collapsed: Accept a cell without volume, which `check_validity` finds invalid.

    Raises:
        DataError: Says what is wrong.
    """
    if not row.numbers:
        raise DataError("it has no atoms")
    require_fitting_cell(len(row.numbers))
    if not all(1 <= z <= MAX_ATOMIC_NUMBER for z in row.numbers):
        raise DataError("a site holds no chemical element")
    if not (np.isfinite(row.cell).all() and np.isfinite(row.frac).all()):
        raise DataError("a coordinate or lattice vector is NaN or infinite")
    if np.abs(row.frac).max() > FARTHEST:
        raise DataError(f"an atom lies more than {FARTHEST:g} cells from the origin, where positions lose their digits")
    volume = abs(np.linalg.det(row.cell))
    if volume < MIN_VOLUME and not allow_collapsed:
        raise DataError(f"the cell is degenerate: its volume is {volume:.3g} Å³ (at least {MIN_VOLUME} is needed)")


def _invalid(rows: list[Row]) -> list[_Refused | None]:
    """Return what `check_validity` finds wrong with each crystal, or None."""
    if not rows:
        return []
    crystals = _batch(rows)
    validity = check_validity(crystals)
    reasons: list[_Refused | None] = [None] * len(rows)
    for index in (~validity.valid).nonzero().flatten().tolist():
        sine = float(validity.polar_sine[index])
        if sine < MIN_POLAR_SINE:
            reasons[index] = _Refused(f"the cell is flat: its volume is {sine:.2g} of the product of its lengths", True)
            continue
        first, second, distance = closest_atoms(crystals.select([index]))
        names = rows[index].numbers
        pair = (
            f"atom {first + 1} ({symbol(names[first])}) and its own image"
            if first == second
            else f"atoms {first + 1} ({symbol(names[first])}) and {second + 1} ({symbol(names[second])})"
        )
        reasons[index] = _Refused(f"{pair} are {distance:.3g} Å apart (at least {MIN_DISTANCE} is needed)", True)
    return reasons


def _refusal(path: Path, wrong: list[str], looked_at: int) -> DataError:
    if looked_at == 1:
        return DataError(wrong[0])
    hint = "data.on_error=skip (evaluate, relax: --on-error skip) leaves out unusable crystals"
    if len(wrong) == 1:
        return DataError(f"{wrong[0]} (1 of {looked_at} crystals; {hint})")
    more = "the first " if len(wrong) >= MOST_NAMED else ""
    hint += ", and omatg-ray check finds them all" if more else ""
    return DataError(
        f"{len(wrong)} of {more}{looked_at} crystals of {path} cannot be used; {hint}:", wrong[:MOST_NAMED]
    )


def _warn(what: str, reasons: list[str]) -> None:
    warnings.warn(listed(f"{what}:", reasons), DataWarning, stacklevel=3)


def _batch(rows: list[Row]) -> CrystalBatch:
    """Batch rows in float64, wrapped: far from the origin, float32 has no digits left for the position in the cell."""
    return CrystalBatch(
        torch.tensor([z for row in rows for z in row.numbers]),
        wrap(torch.from_numpy(np.concatenate([row.frac for row in rows]))),
        torch.from_numpy(np.stack([row.cell for row in rows])),
        torch.tensor([len(row.numbers) for row in rows]),
    )


def dataset_of(rows: list[Row], reduce: bool) -> CrystalDataset:
    """Return usable crystals as a data set: float32, wrapped, with distinct ids; see `read_dataset`."""
    crystals = _batch([_reduce_row(row) for row in rows] if reduce else rows)
    crystals = crystals.replace(pos=wrap(crystals.pos.float()), cell=crystals.cell.float())
    return CrystalDataset(crystals, distinct_ids(row.ident for row in rows), [row.properties for row in rows])


def _reduce_row(row: Row) -> Row:
    cell, frac = reduce_cell(row.cell, row.frac)
    return Row(row.ident, row.numbers, cell, frac)
