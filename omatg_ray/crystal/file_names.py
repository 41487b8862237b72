"""Names of files of crystals: the format that a name means when it is read or written. Imports nothing heavy."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path, PurePath
from typing import Literal, NamedTuple, get_args

from omatg_ray.errors import DataError

TEXTS = (".cif", ".mcif", ".vasp", ".csv", ".tsv", ".json", ".jsonl", ".extxyz", ".xyz")
"""Suffixes of the text formats that `formats` reads."""
FILES = (".lmdb", ".parquet", ".db", ".traj")
"""Suffixes of the other formats that `formats` reads."""
WRITTEN = (".extxyz", ".xyz", ".cif", ".vasp", ".json")

FolderFormat = Literal["cif", "vasp"]
FOLDER_FORMATS: tuple[FolderFormat, ...] = get_args(FolderFormat)
"""Formats of the files of a folder, one crystal in each."""


def read_as(name: str) -> str:
    """Return the suffix that determines how a file is read; `.vasp` for POSCAR and CONTCAR files."""
    plain = PurePath(re.sub(r"\.gz$", "", name, flags=re.IGNORECASE))
    if re.match(r"(POSCAR|CONTCAR)([._-]|$)", plain.name) and plain.suffix.lower() not in (*TEXTS, *FILES, ".zip"):
        return ".vasp"
    return plain.suffix.lower()


def kinds_of(names: Iterable[str], most: int = 5) -> str:
    """Count names by their suffix, as text: '12 .extxyz, 3 .csv.gz, README'; names without one are named."""
    found = Counter(_kind_of(PurePath(name)) for name in names)
    counts = sorted(found.items(), key=lambda pair: (-pair[1], pair[0]))
    texts = [kind if number == 1 and not kind.startswith(".") else f"{number} {kind}" for kind, number in counts[:most]]
    rest = sum(number for _, number in counts[most:])
    return ", ".join([*texts, *([f"{rest} others"] if rest else [])])


def _kind_of(name: PurePath) -> str:
    suffix = name.suffix.lower()
    return (PurePath(name.stem).suffix.lower() if suffix == ".gz" else "") + suffix or name.name


class Target(NamedTuple):
    """Where crystals are written: a file, or a folder with a file for each.

    Attributes:
        suffix: Format of the file, or of the files of the folder: one of `WRITTEN`.
        folder: Whether it is a folder.
    """

    suffix: str
    folder: bool

    @property
    def holds_one(self) -> bool:
        """Whether there is room for one crystal only."""
        return self.suffix == ".vasp" and not self.folder


def written_as(path: str | Path, folder_format: FolderFormat | None = None) -> Target:
    """Return what a path stands for: a file in the format of its name, or a folder if it ends in `/` or is one.

    Args:
        path: The path.
        folder_format: Format of the files of a folder (None: CIF). A file has to be of this format too.

    Raises:
        DataError: The name has no suffix, an unknown one, or that of another format; says what to write instead.
    """
    text = str(path)
    name = PurePath(text).name
    suffix = "" if name.lower().endswith(".gz") else read_as(name)
    if text.endswith(("/", os.sep)) or (suffix not in WRITTEN and Path(path).is_dir()):
        return Target(f".{folder_format or 'cif'}", True)
    if suffix not in WRITTEN:
        what = "it has an unknown suffix" if PurePath(text).suffix else "it has no suffix"
        files = "POSCAR" if folder_format == "vasp" else "CIF"
        known = f"{', '.join(WRITTEN)}, POSCAR, or a folder of {files} files: {text}/"
        raise DataError(f"cannot write {text}: {what}; write {known}")
    if folder_format is not None and suffix != f".{folder_format}":
        raise DataError(
            f"cannot write {text}: it has another format than {folder_format}, which is meant for a folder; end it in /"
        )
    return Target(suffix, False)
