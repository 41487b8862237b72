"""Texts of files, in any common encoding."""

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
    """Decode text in UTF-8, or in the encoding that a byte-order mark names; drops the mark.

    Args:
        data: The bytes.
        lenient: Read text that is not UTF-8 as Latin-1, for formats with such characters only in comments and names.

    Raises:
        DataError: It is not text in one of these encodings.
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
        raise DataError("it holds zero bytes: it is not text, or UTF-16 without a byte-order mark; save it as UTF-8")
    return text


def decompress(data: bytes) -> bytes:
    """Return the content of a gzip file.

    Raises:
        DataError: It is not a gzip file, or is cut off.
    """
    try:
        return gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"it is not a readable gzip file: {error}") from error


def read_text(path: Path) -> str:
    """Read the text of a file.

    Raises:
        DataError: The file cannot be read; the message names it.
    """
    try:
        return decode(path.read_bytes())
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
