"""File locations of a run inside a Ray job, and the models published by OMatG."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel

from omatg_ray.run.job_paths import found, found_or_named, lasting
from omatg_ray.run.location import Location, is_bundled, is_remote
from omatg_ray.run.location_keys import Kind, relocated

S = TypeVar("S", bound=BaseModel)


def anchored(settings: S) -> S:
    """Return the settings with every location as the job sees it. Outside of jobs local locations stay as they are.

    A published model of OMatG is fetched.

    Raises:
        ModelError: A published model cannot be fetched or imported.
        ConfigError: A file or folder to read is neither in the job's working directory nor in `~/omatg_ray`.
    """
    return relocated(settings, _in_job)


def _in_job(key: str, location: Location, kind: Kind) -> Location:
    if kind == "potential":
        return found_or_named(str(location)) or location
    if kind == "model":
        return found_or_bundled(location, key)
    if isinstance(location, str):
        return location
    return lasting(location) if kind == "run" else found(location, key)


def found_or_bundled(name: Location, key: str) -> Location:
    """Return where a job finds a model or crystals; the bundled ones, and URLs, stay as they are.

    Raises:
        ModelError: The name is that of a published model of OMatG, which cannot be fetched or imported.
        ConfigError: As `found`.
    """
    return name if is_bundled(name) or is_remote(name) else found(fetched(Path(name)), key)


def fetched(path: Path) -> Path:
    """Fetch a published model of OMatG if the path is its name (OMatG/REPOSITORY/FOLDER); return the folder.

    Any other path is returned unchanged.

    Raises:
        ModelError: It cannot be fetched or imported.
    """
    from omatg_ray.omatg.hub import fetch, is_hub_name

    return fetch(path) if is_hub_name(path) else path
