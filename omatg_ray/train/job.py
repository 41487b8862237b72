"""File locations of a run inside a Ray job, and the models published by OMatG."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel

from omatg_ray.run.job_paths import find_file, find_potential, path_to_keep
from omatg_ray.run.location import Location, bundled_set, is_remote
from omatg_ray.run.location_keys import Kind, relocate

S = TypeVar("S", bound=BaseModel)


def with_job_paths(settings: S) -> S:
    """Return the settings with every location as the job sees it. Outside of jobs local locations stay as they are.

    A published model of OMatG is fetched.

    Raises:
        ModelError: A published model cannot be fetched or imported.
        ConfigError: A file or folder to read is neither in the job's working directory nor in `~/omatg_ray`.
    """
    return relocate(settings, _in_job)


def _in_job(key: str, location: Location, kind: Kind) -> Location:
    if kind == "potential":
        return find_potential(str(location)) or location
    if kind == "model":
        return find_input(location, key)
    if isinstance(location, str):
        return location
    return path_to_keep(location) if kind == "run" else find_file(location, key)


def find_input(name: Location, key: str) -> Location:
    """Return where a job finds a model or crystals; the bundled ones, and URLs, stay as they are.

    Raises:
        ModelError: The name is that of a published model of OMatG, which cannot be fetched or imported.
        ConfigError: As `find_file`.
    """
    return name if bundled_set(name) or is_remote(name) else find_file(fetch_published(Path(name)), key)


def fetch_published(path: Path) -> Path:
    """Fetch a published model of OMatG if the path is its name (OMatG/REPOSITORY/FOLDER); return the folder.

    Any other path is returned unchanged.

    Raises:
        ModelError: It cannot be fetched or imported.
    """
    from omatg_ray.omatg.hub import fetch, is_hub_name

    return fetch(path) if is_hub_name(path) else path
