"""Where a verb writes: refused before a long computation if it could not be written after it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from omatg_ray.cli.runs import holds_config
from omatg_ray.errors import ConfigError

# What `omatg_ray.crystal.write` writes; "" is a folder.
STRUCTURE_SUFFIXES = (".extxyz", ".xyz", ".cif", ".json", "")


def check_output(path: str | Path | None, suffixes: Sequence[str]) -> str | None:
    """Where to write what is asked for; refuses before a long computation what could not be written after it."""
    if path is None:
        return None
    from omatg_ray.run.job_paths import lasting

    place = f"{lasting(Path(path))}{'/' if str(path).endswith('/') else ''}"
    target = Path(place)
    folder = "" in suffixes and (place.endswith("/") or not target.suffix)
    if not folder and target.suffix.lower() not in suffixes:
        known = ", ".join(suffix or "a folder (end the path in /)" for suffix in suffixes)
        raise ConfigError(f"cannot write {place}: the suffix must be {known}")
    if target.is_dir() and not (folder and not any(target.iterdir())):
        raise ConfigError(
            f"cannot write {place}: there is a folder of that name{' with files in it' if folder else ''}"
        )
    above = next(parent for parent in target.absolute().parents if parent.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise ConfigError(f"cannot write {place}: {above} is not a folder that you may write to")
    return place


def check_folder(path: str | None) -> Path | None:
    """A folder to write into, which may be there already; refuses before a long computation what could not be."""
    if path is None:
        return None
    from omatg_ray.run.job_paths import lasting
    from omatg_ray.run.location import is_remote

    if is_remote(path):
        raise ConfigError(f"--to {path}: a folder on this machine, please; copy it there when it is done")
    place = lasting(Path(path))
    if holds_config(place):
        raise ConfigError(f"--to {place}: that is a run, whose report would be lost; name a folder of its own")
    above = next(parent for parent in (place.absolute(), *place.absolute().parents) if parent.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise ConfigError(f"cannot write into {place}: {above} is not a folder that you may write to")
    return place


def print_notes(notes: Sequence[str]) -> None:
    """Prints what could not be carried over."""
    for note in notes:
        print(f"note: {note}")
