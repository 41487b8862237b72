"""Output paths of verbs, checked before a long computation."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from omatg_ray.cli.runs import holds_config
from omatg_ray.errors import ConfigError

# The formats of `omatg_ray.crystal.write`; "" is a folder.
STRUCTURE_SUFFIXES = (".extxyz", ".xyz", ".cif", ".json", "")


def check_output(path: str | Path | None, suffixes: Sequence[str]) -> str | None:
    """Return the path to write to; refuse, before a long computation, a path that could not be written after it."""
    if path is None:
        return None
    from omatg_ray.run.job_paths import path_to_keep

    out = f"{path_to_keep(Path(path))}{'/' if str(path).endswith('/') else ''}"
    target = Path(out)
    folder = "" in suffixes and (out.endswith("/") or not target.suffix)
    if not folder and target.suffix.lower() not in suffixes:
        known = ", ".join(suffix or "a folder (end the path in /)" for suffix in suffixes)
        raise ConfigError(f"cannot write {out}: the suffix must be {known}")
    if target.is_dir() and not (folder and not any(target.iterdir())):
        raise ConfigError(f"cannot write {out}: there is a folder of that name{' with files in it' if folder else ''}")
    above = next(parent for parent in target.absolute().parents if parent.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise ConfigError(f"cannot write {out}: {above} is not a folder that you may write to")
    return out


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
