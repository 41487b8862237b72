"""State of run folders: taken or free, and what a failed run leaves."""

from __future__ import annotations

from itertools import chain, count
from pathlib import Path

from omatg_ray.run.folder import RunFolder, taken_error
from omatg_ray.run.location import Location, is_remote


def free_run(run: Location) -> Location:
    """Return the run folder itself or, if it already holds a run, the first of `run-2`, `run-3`, ... that does not.

    A URL is returned unchecked.
    """
    if isinstance(run, str):
        return run
    names = (run.with_name(f"{run.name}-{number}") for number in count(2))
    return next(path for path in chain([run], names) if not RunFolder(path).holds_run())


def refuse_taken(place: Location) -> None:
    """Refuse a folder for a new run if it already holds one; a URL is not checked.

    Raises:
        ConfigError: The folder holds a run.
    """
    if not is_remote(place) and RunFolder(Path(place)).holds_run():
        raise taken_error(place)


def describe_kept(folder: RunFolder) -> str:
    """Describe what a failed run leaves."""
    last = folder.pointed_at("last")
    return (
        f"The run ends; its last checkpoint is {folder.named(folder.checkpoints / last)}"
        if last
        else "No checkpoint was written"
    )
