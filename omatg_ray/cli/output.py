"""Output paths of verbs, checked before a long computation."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from omatg_ray.cli.arguments import path_or_word
from omatg_ray.cli.runs import holds_config
from omatg_ray.crystal.file_names import FOLDER_FORMATS, FolderFormat, written_as
from omatg_ray.crystal.standard_crystal import CELLS, SYMPREC, CellKind
from omatg_ray.errors import ConfigError, DataError

if TYPE_CHECKING:
    from omatg_ray.crystal.batch import CrystalBatch


def check_output(path: str | Path | None, suffix: str) -> str | None:
    """Return the file to write; refuse, before a long computation, a path that could not be written after it."""
    if path is None:
        return None
    out = _kept(path)
    if Path(out).suffix.lower() != suffix:
        raise ConfigError(f"cannot write {out}: the suffix must be {suffix}")
    _require_free(out, folder=False)
    return out


class CrystalsOutput(NamedTuple):
    """Where and how crystals are written, as `commands.write_crystals` takes it.

    Attributes:
        path: File, or folder if it ends in `/` or is one.
        folder_format: Format of the files of a folder; None: CIF.
        cell: Standard cell to write; None writes the cells as they are.
        holds_one: Whether the file has room for one crystal only.
    """

    path: str
    folder_format: FolderFormat | None
    cell: CellKind | None
    holds_one: bool

    def write(
        self,
        crystals: CrystalBatch,
        properties: Sequence[Mapping[str, Any]] | None,
        workers: int,
        timeout: float,
        progress: bool,
        symprec: float = SYMPREC,
    ) -> None:
        """Write crystals there; arguments and errors as for `write_crystals`."""
        from omatg_ray.commands.write_crystals import write_crystals

        write_crystals(
            self.path,
            crystals,
            properties,
            folder_format=self.folder_format,
            cell=self.cell,
            symprec=symprec,
            workers=workers,
            timeout=timeout,
            progress=progress,
        )


def crystals_arguments(sub: argparse.ArgumentParser, default: str | None, what: str) -> None:
    """Add the options of verbs that write crystals."""
    sub.add_argument(
        "--out",
        default=default,
        type=path_or_word,
        metavar="FILE",
        help=f"{what}: .extxyz, .cif, .json, .vasp or POSCAR (one crystal), or folder/ (a file for each)"
        f"{f' (default {default})' if default else ''}",
    )
    sub.add_argument(
        "--format", choices=FOLDER_FORMATS, dest="folder_format", help="files of a folder: CIF (default) or POSCAR"
    )
    sub.add_argument(
        "--standardize",
        choices=CELLS,
        help="write each crystal in spglib's standard cell, made exactly symmetric (tolerance "
        f"{SYMPREC:g} Å by default, as for space groups); CIF files then have the space group, its operations and the "
        "asymmetric unit. A crystal that would become another one is kept as it is, with a warning",
    )


def crystals_output(arguments: argparse.Namespace) -> CrystalsOutput | None:
    """Return where crystals go; refuse, before a long computation, a path that could not be written after it."""
    if arguments.out is None:
        for option, value in (("--format", arguments.folder_format), ("--standardize", arguments.standardize)):
            if value is not None:
                raise ConfigError(f"{option} is for the crystals that --out writes; add --out, or leave it out")
        return None
    out = _kept(arguments.out)
    try:
        target = written_as(out, arguments.folder_format)
    except DataError as error:
        raise ConfigError(str(error)) from error
    _require_free(out, target.folder)
    return CrystalsOutput(out, arguments.folder_format, arguments.standardize, target.holds_one)


def _kept(path: str | Path) -> str:
    from omatg_ray.run.job_paths import path_to_keep

    return f"{path_to_keep(Path(path))}{'/' if str(path).endswith('/') else ''}"


def _require_free(out: str, folder: bool) -> None:
    target = Path(out)
    if target.is_dir() and not (folder and not any(target.iterdir())):
        raise ConfigError(f"cannot write {out}: there is a folder of that name{' with files in it' if folder else ''}")
    if folder and target.is_file():
        raise ConfigError(f"cannot write {out}: there is a file of that name; name another folder")
    above = next(parent for parent in target.absolute().parents if parent.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise ConfigError(f"cannot write {out}: {above} is not a folder that you may write to")


def check_folder(path: str | None) -> Path | None:
    """Return the folder to write into, which may exist already.

    Refuses, before a long computation, a folder that could not be written after it.
    """
    if path is None:
        return None
    from omatg_ray.run.job_paths import path_to_keep
    from omatg_ray.run.location import is_remote

    if is_remote(path):
        raise ConfigError(f"--to {path}: give a folder on this machine, and copy it there afterwards")
    folder = path_to_keep(Path(path))
    if holds_config(folder):
        raise ConfigError(f"--to {folder}: that is a run, whose report would be overwritten; name another folder")
    above = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise ConfigError(f"cannot write into {folder}: {above} is not a folder that you may write to")
    return folder


def print_notes(notes: Sequence[str]) -> None:
    """Print notes, such as on what could not be converted."""
    for note in notes:
        print(f"note: {note}")
