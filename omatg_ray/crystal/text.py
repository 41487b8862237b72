"""Texts of files, whichever encoding they come in."""

from __future__ import annotations

import codecs
import gzip
import zlib
from pathlib import Path

from omatg_ray.errors import DataError

MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",  # before UTF-16, whose mark it starts with
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def decode(data: bytes, *, lenient: bool = False) -> str:
    """A text in UTF-8, or in the encoding that a byte-order mark names; without the mark.

    Args:
        data: The bytes.
        lenient: Take what is no UTF-8 for Latin-1, where only comments and names are written in it.

    Raises:
        DataError: It is no text in one of these encodings.
    """
    encoding = next((name for mark, name in MARKS.items() if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        if not (lenient and encoding == "utf-8"):
            raise DataError(
                f"it cannot be read as {encoding.upper()} ({error.reason} at byte {error.start})"
            ) from error
        text = data.decode("latin-1")
    if "\0" in text:
        raise DataError("it holds zero bytes: it is no text, or UTF-16 without a byte-order mark; save it as UTF-8")
    return text


def decompress(data: bytes) -> bytes:
    """What a gzip file holds.

    Raises:
        DataError: It is none, or cut off.
    """
    try:
        return gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"it is no readable gzip file: {error}") from error


def read_text(path: Path) -> str:
    """The text of a file.

    Raises:
        DataError: It cannot be read; names the file.
    """
    try:
        return decode(path.read_bytes())
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
