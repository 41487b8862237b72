"""Where files lie when a command runs as a Ray job.

`ray job submit --working-dir` runs a command in a copy of a folder. Ray deletes this copy when it likes, and jobs that
upload the same files share it. So nothing that shall last may be written there: relative paths are taken from
`~/omatg_ray` on the node where the command runs, and so are files to read that the copy does not hold. Outside of such
a copy every path stays as it is, and a URL everywhere.
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

# Ray unpacks every upload into a folder of its own below this.
COPIES = ("runtime_resources", "working_dir_files")


def lasting(path: Path) -> Path:
    """Where a job writes a file or folder: in `~/omatg_ray`, if the path is relative or leads into the copy.

    Prints the place where it is another than the path says, as all functions here do.

    Raises:
        ConfigError: The user has no home.
    """
    below = None if copy_of(Path.cwd()) is None else _below_copy(path)
    return path if below is None else _told(path, _home() / below)


def found(path: Path, key: str) -> Path:
    """Where a job finds a file or folder: in its working directory, else in `~/omatg_ray`.

    Args:
        path: The path; one that leads into the copy of an earlier job is looked for in that of this one.
        key: What the message calls it: the key or option that names it.

    Raises:
        ConfigError: It is in neither.
    """
    place = _existing(path)
    if place is None:
        raise ConfigError(
            f"{key}: {path} is neither in the working directory of this job nor in {_home()} on "
            f"{socket.gethostname()}; put it there, or give an absolute path on that node (an upload leaves out what "
            ".gitignore and .rayignore name)"
        )
    return _told(path, place)


def found_or_named(potential: str | None) -> str | None:
    """The same for a potential, which may be a name instead of a folder and then stays as it is."""
    if potential is None or is_bundled(potential):
        return potential
    path = Path(potential)
    place = _existing(path)
    return potential if place is None or place == path else str(_told(path, place))


def _told(path: Path, place: Path) -> Path:
    if place != path:
        print(f"omatg-ray: in this job {path} is {place} on {socket.gethostname()}", file=sys.stderr, flush=True)
    return place


def _existing(path: Path) -> Path | None:
    """The path itself if it has nothing to do with a copy, else where its file is; None if it is nowhere."""
    below, copy = _below_copy(path), copy_of(Path.cwd())
    if below is None or copy is None or (not path.is_absolute() and path.exists()):
        return path
    return next((place for place in (copy[0] / below, _home() / below) if place.exists()), None)


def _below_copy(path: Path) -> Path | None:
    """The relative part of a path that is relative or leads into a copy, this or an earlier job's; None of others."""
    if not path.is_absolute():
        return Path(os.path.normpath(path))
    inside = copy_of(path)
    return None if inside is None else inside[1]


def copy_of(path: Path) -> tuple[Path, Path] | None:
    """The copy of a working directory that a path leads into, and the rest of the path; None if it leads elsewhere."""
    parts = path.parts
    for start in range(len(parts) - len(COPIES)):
        end = start + len(COPIES)
        if parts[start:end] == COPIES:
            return Path(*parts[: end + 1]), Path(*parts[end + 1 :])
    return None


def _home() -> Path:
    own = home()
    if own is None:
        raise ConfigError("a job without a home directory cannot keep relative paths; give absolute ones, or set HOME")
    return own / FOLDER
