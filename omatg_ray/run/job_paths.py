"""Paths of a command that runs as a Ray job.

`ray job submit --working-dir` runs a command in a copy of a folder. Ray may delete this copy at any time, and jobs that
upload the same files share it. Lasting files must therefore not be written there: relative paths are resolved in
`~/omatg_ray` on the node that runs the command. So are input files that the copy lacks. Outside such a copy, paths stay
unchanged. URLs always do.
"""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

from omatg_ray.errors import ConfigError
from omatg_ray.run.home import home
from omatg_ray.run.location import is_bundled

FOLDER = "omatg_ray"
"""Folder in the user's home where jobs keep their files."""

# Ray unpacks each upload into a folder of its own below these.
COPIES = ("runtime_resources", "working_dir_files")


def path_to_keep(path: Path) -> Path:
    """Return where a job writes a file or folder: in `~/omatg_ray` if the path is relative or leads into the copy.

    Prints the result if it differs from the path, as all functions here do.

    Raises:
        ConfigError: The user has no home.
    """
    below = None if copy_of(Path.cwd()) is None else _below_copy(path)
    return path if below is None else _announce(path, _home() / below)


def find_file(path: Path, key: str) -> Path:
    """Return where a job finds a file or folder: in its working directory, else in `~/omatg_ray`.

    Args:
        path: The path. One that leads into the copy of an earlier job is looked up in the copy of this one.
        key: The key or option that names it, for the message.

    Raises:
        ConfigError: It is in neither, or the user has no home.
    """
    existing = _find_existing(path)
    if existing is None:
        raise ConfigError(
            f"{key}: {path} is neither in the working directory of this job nor in {_home()} on "
            f"{socket.gethostname()}; put it there, or give an absolute path on that node (an upload leaves out the "
            "files that .gitignore and .rayignore name)"
        )
    return _announce(path, existing)


def find_potential(potential: str | None) -> str | None:
    """Do the same for a potential. A name instead of a folder is returned unchanged."""
    if potential is None or is_bundled(potential):
        return potential
    path = Path(potential)
    existing = _find_existing(path)
    return potential if existing is None or existing == path else str(_announce(path, existing))


def _announce(path: Path, actual: Path) -> Path:
    if actual != path:
        print(f"omatg-ray: in this job {path} is {actual} on {socket.gethostname()}", file=sys.stderr, flush=True)
    return actual


def _find_existing(path: Path) -> Path | None:
    """Return the path itself if it does not concern a copy, else where its file is, or None if it is nowhere."""
    below, copy = _below_copy(path), copy_of(Path.cwd())
    if below is None or copy is None or (not path.is_absolute() and path.exists()):
        return path
    return next((candidate for candidate in (copy[0] / below, _home() / below) if candidate.exists()), None)


def _below_copy(path: Path) -> Path | None:
    """Return the relative part of a path that is relative or leads into a copy (also an earlier job's), else None."""
    if not path.is_absolute():
        return Path(os.path.normpath(path))
    inside = copy_of(path)
    return None if inside is None else inside[1]


def copy_of(path: Path) -> tuple[Path, Path] | None:
    """Split a path into the copy of a working directory and the rest; None if it leads elsewhere."""
    parts = path.parts
    for start in range(len(parts) - len(COPIES)):
        end = start + len(COPIES)
        if parts[start:end] == COPIES:
            return Path(*parts[: end + 1]), Path(*parts[end + 1 :])
    return None


def _home() -> Path:
    own = home()
    if own is None:
        raise ConfigError(
            "a job without a home directory cannot resolve relative paths; give absolute ones, or set HOME"
        )
    return own / FOLDER
