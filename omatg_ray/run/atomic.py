"""Atomic writes: a file or folder is written completely or not at all.

Everything is written under a temporary name in the same folder, flushed to the disk and renamed.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omatg_ray.errors import DiskError, OmatgRayError

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
NO_SPACE = "No space left on device"
"""The system's message for it, to recognise it in errors of libraries with exception classes of their own."""
NOT_ALLOWED = (errno.EACCES, errno.EPERM, errno.EROFS)


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn a full disk or a missing permission while writing `path` into a `DiskError` with advice."""
    try:
        yield
    except OmatgRayError:
        raise
    except Exception as error:
        code = error.errno if isinstance(error, OSError) else None
        if code in DISK_FULL or NO_SPACE in str(error):
            message = f"cannot write {path}: the disk or quota is full ({_free_space(path)}); free some space or write"
            raise DiskError(f"{message} to another disk") from error
        if code in NOT_ALLOWED:
            message = f"cannot write {path}: {os.strerror(code or 0).lower()}; choose a folder you may write to"
            raise DiskError(f"{message}, or fix its permissions") from error
        raise


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file, creating parent folders, so that `path` holds either the old or all of the new content.

    Raises:
        DiskError: The disk is full or the folder is not writable; `path` is unchanged.
    """
    with _beside(path) as temporary:
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)


def write_text(path: Path, text: str) -> None:
    """Write a text file (UTF-8) as `write_bytes` does."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Write strict, indented JSON as `write_bytes` does.

    Raises:
        ValueError: `value` contains NaN or infinity, which JSON lacks.
    """
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


@contextmanager
def replace_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder that becomes `path` when the block ends, or is removed when the block fails.

    An existing folder at `path` stays there until the new one is complete, and is then deleted.

    Raises:
        DiskError: The disk is full or the folder is not writable; `path` is unchanged.
    """
    with _beside(path) as temporary:
        temporary.mkdir()
        yield temporary
        _sync_tree(temporary)
        _swap(temporary, path)


def remove_folder(path: Path) -> None:
    """Delete a folder; if interrupted, nothing half deleted remains at `path`."""
    with disk_errors(path):
        temporary = _temporary_path(path)
        os.replace(path, temporary)
        shutil.rmtree(temporary)


def point(link: Path, target_name: str) -> None:
    """Point the symbolic link `link` to its sibling `target_name`, atomically."""
    with _beside(link) as temporary:
        os.symlink(target_name, temporary)
        os.replace(temporary, link)


def remove_leftovers(folder: Path) -> None:
    """Delete what a killed process left under temporary names in `folder`. Only its sole writer may call this."""
    for path in folder.glob(".*.tmp"):
        _remove(path)


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """Yield a name in the same folder for what the block makes and then renames to `path`; removed if it fails."""
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = _temporary_path(path)
        try:
            yield temporary
        except BaseException:
            _remove(temporary)
            raise
        _sync_folder(path.parent)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _temporary_path(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.tmp")


def _swap(temporary: Path, path: Path) -> None:
    if not path.is_dir():
        os.replace(temporary, path)
        return
    old = _temporary_path(path)
    os.replace(path, old)
    try:
        os.replace(temporary, path)
    except BaseException:
        os.replace(old, path)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _sync_tree(folder: Path) -> None:
    for root, _, names in os.walk(folder):
        for name in names:
            with open(os.path.join(root, name), "rb") as file:
                os.fsync(file.fileno())
        _sync_folder(Path(root))


def _sync_folder(folder: Path) -> None:
    # Some network file systems cannot flush a folder; the rename has already happened by then.
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _free_space(path: Path) -> str:
    parent = next((folder for folder in path.absolute().parents if folder.is_dir()), Path("/"))
    return f"{shutil.disk_usage(parent).free / 1e6:,.0f} MB free in {parent}"
