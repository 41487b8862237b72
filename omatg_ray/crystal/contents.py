"""The crystals of a file, of a folder or of an archive, and the files of these that are not read."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import chain, islice
from pathlib import Path, PurePath
from typing import NamedTuple

from omatg_ray.crystal.file_names import kinds_of, read_as
from omatg_ray.crystal.formats import (
    CRYSTAL_FILES,
    FILES,
    FILES_OF_ANYTHING,
    TEXTS,
    TEXTS_OF_ANYTHING,
    file_entries,
    guard,
    text_of,
)
from omatg_ray.crystal.row import Entry, failed_entry
from omatg_ray.errors import DataError


class Contents(NamedTuple):
    """What a file, folder or archive holds.

    Attributes:
        entries: An entry for each crystal that it should hold, read on request.
        left_out: Names of the files of a folder or archive that are not read, as far as `entries` has come: those of
            other formats, and those without crystals where the format allows it.
    """

    entries: Iterator[Entry]
    left_out: list[str]


def contents(path: Path) -> Contents:
    """Return what a file, folder or archive holds.

    Raises:
        DataError: There is no such file, or its format is unknown.
    """
    if not path.exists():
        raise DataError(f"{path} does not exist")
    left_out: list[str] = []
    if path.is_dir():
        return Contents(_folder(path, left_out), left_out)
    if path.suffix.lower() == ".zip":
        return Contents(_archive(path, left_out), left_out)
    return Contents(file_entries(path), left_out)


def _folder(path: Path, left_out: list[str]) -> Iterator[Entry]:
    some = False
    for name in _visible(str(file.relative_to(path)) for file in path.rglob("*") if file.is_file()):
        kind, file = read_as(PurePath(name).name), path / name
        if kind in FILES and FILES_OF_ANYTHING.get(kind, _always)(file):
            found: Iterator[Entry] | None = _named(file_entries(file), name)
        else:
            found = _text(str(file), file.read_bytes)
        if found is None:
            left_out.append(name)
            continue
        some = True
        yield from found
    if not some:
        raise _without_crystals(f"the folder {path}", left_out, "name the file you need")


def _archive(path: Path, left_out: list[str]) -> Iterator[Entry]:
    some = False
    try:
        with zipfile.ZipFile(path) as archive:
            for name in _visible(info.filename for info in archive.infolist() if not info.is_dir()):
                found = _text(str(path / name), partial(_unpack, archive, name))
                if found is None:
                    left_out.append(name)
                    continue
                some = True
                yield from found
    except (zipfile.BadZipFile, OSError) as error:
        raise DataError(f"{path} is not a readable archive: {error}") from error
    if not some:
        raise _without_crystals(f"the archive {path}", left_out, "unpack the file you need")


def _without_crystals(what: str, left_out: list[str], advice: str) -> DataError:
    others = f" (only {kinds_of(left_out)})" if left_out else ""
    return DataError(f"{what} holds no files of crystals{others}; {advice}")


def _visible(names: Iterable[str]) -> list[str]:
    """Return the names in order, without hidden files and those that operating systems add to archives."""
    return sorted(
        name for name in names if not any(part.startswith((".", "__MACOSX")) for part in PurePath(name).parts)
    )


def _text(where: str, data: Callable[[], bytes]) -> Iterator[Entry] | None:
    """Return the entries of a text; None if it is none, or is not about crystals."""
    kind = read_as(PurePath(where).name)
    if kind not in TEXTS:
        return None
    try:
        text = text_of(where, data())
    except (DataError, OSError) as error:
        return iter([failed_entry(where, error, kind not in CRYSTAL_FILES)])
    if not TEXTS_OF_ANYTHING.get(kind, _always)(text):
        return None
    found = guard(where, partial(TEXTS[kind], where, text))
    return found if kind in CRYSTAL_FILES else _named(found, where)


def _unpack(archive: zipfile.ZipFile, name: str) -> bytes:
    try:
        return archive.read(name)
    except (RuntimeError, NotImplementedError, zipfile.BadZipFile) as error:
        raise DataError(f"it cannot be unpacked: {error}") from error


def _named(entries: Iterator[Entry], name: str) -> Iterator[Entry]:
    """Let crystals without an id of their own have the name of their file, with their number if there are several."""
    stem = PurePath(re.sub(r"\.gz$", "", name, flags=re.IGNORECASE)).stem
    first = list(islice(entries, 2))
    for entry in chain(first, entries):
        yield entry._replace(default=stem if len(first) == 1 else f"{stem}-{entry.default}")


def _always(_: object) -> bool:
    return True
