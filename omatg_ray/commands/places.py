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
from typing import TYPE_CHECKING

from omatg_ray.errors import ConfigError
from omatg_ray.run.home import home
from omatg_ray.run.location import is_bundled, is_remote

if TYPE_CHECKING:
    from omatg_ray.config import Config

FOLDER = "omatg_ray"
"""Folder in the user's home where jobs keep their files."""

# Ray unpacks every upload into a folder of its own below this.
COPIES = ("runtime_resources", "working_dir_files")


def anchored(config: Config) -> Config:
    """The configuration with the run folder, the base, the crystals and what rewards need where a job has them.

    A base that OMatG has published is fetched.

    Raises:
        ModelError: A published base cannot be fetched or imported.
        ConfigError: `base`, a file of `data`, or a file or folder of `reward` lies neither in the job's working
            directory nor in `~/omatg_ray`.
    """
    if isinstance(config.base, Path):
        config = config.model_copy(update={"base": fetched(config.base)})
    if _copy(Path.cwd()) is None:
        return config
    data = {name: getattr(config.data, name) for name in ("file", "train", "val", "test")}
    files = {name: _located(place, f"data.{name}") for name, place in data.items() if place is not None}
    annealing = config.policy.annealing_from
    return config.model_copy(
        update={
            "run": config.run if isinstance(config.run, str) else lasting(config.run),
            "base": None if config.base is None else found_or_bundled(config.base, "base"),
            "data": config.data.model_copy(update=files),
            "policy": config.policy.model_copy(
                update={} if annealing is None else {"annealing_from": _located(annealing, "policy.annealing_from")}
            ),
            "reward": config.reward.placed(found_or_named, found),
        }
    )


def lasting(path: Path) -> Path:
    """Where a job writes a file or folder: in `~/omatg_ray`, if the path is relative or leads into the copy.

    Prints the place where it is another than the path says, as all functions here do.

    Raises:
        ConfigError: The user has no home.
    """
    below = None if _copy(Path.cwd()) is None else _below_copy(path)
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


def found_or_bundled(name: str | Path, key: str) -> str | Path:
    """The same for a model or crystals, which may be the bundled ones, or a URL; these stay as they are.

    Raises:
        ModelError: It is the name of a model that OMatG has published, which cannot be fetched or imported.
    """
    return name if is_bundled(name) or is_remote(name) else found(fetched(Path(name)), key)


def fetched(path: Path) -> Path:
    """The folder of a model that OMatG has published, if the path is the name of one (OMatG/REPOSITORY/FOLDER).

    Raises:
        ModelError: It cannot be fetched or imported.
    """
    from omatg_ray.omatg.hub import fetch, is_hub_name

    return fetch(path) if is_hub_name(path) else path


def found_or_named(potential: str | None) -> str | None:
    """The same for a potential, which may be a name instead of a folder and then stays as it is."""
    if potential is None or is_bundled(potential):
        return potential
    path = Path(potential)
    place = _existing(path)
    return potential if place is None or place == path else str(_told(path, place))


def _located(place: Path | str, key: str) -> Path | str:
    return place if isinstance(place, str) else found(place, key)


def _told(path: Path, place: Path) -> Path:
    if place != path:
        print(f"omatg-ray: in this job {path} is {place} on {socket.gethostname()}", file=sys.stderr, flush=True)
    return place


def _existing(path: Path) -> Path | None:
    """The path itself if it has nothing to do with a copy, else where its file is; None if it is nowhere."""
    below, copy = _below_copy(path), _copy(Path.cwd())
    if below is None or copy is None or (not path.is_absolute() and path.exists()):
        return path
    return next((place for place in (copy[0] / below, _home() / below) if place.exists()), None)


def _below_copy(path: Path) -> Path | None:
    """The relative part of a path that is relative or leads into a copy, this or an earlier job's; None of others."""
    if not path.is_absolute():
        return Path(os.path.normpath(path))
    inside = _copy(path)
    return None if inside is None else inside[1]


def _copy(path: Path) -> tuple[Path, Path] | None:
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
