"""Whether a folder holds a run, which one is free for the next, and what a run that failed leaves."""

from __future__ import annotations

from itertools import chain, count
from pathlib import Path

from omatg_ray.run.folder import RunFolder, taken_error
from omatg_ray.run.location import Location, is_remote


def free_run(run: Location) -> Location:
    """The run folder itself or, where it holds a run already, the first of `run-2`, `run-3`, ... that holds none.

    A URL is not looked at.
    """
    if isinstance(run, str):
        return run
    names = (run.with_name(f"{run.name}-{number}") for number in count(2))
    return next(path for path in chain([run], names) if not RunFolder(path).holds_run())


def refuse_taken(place: Location) -> None:
    """Refuses a folder for a new run that holds one already; a URL is not asked.

    Raises:
        ConfigError: It does.
    """
    if not is_remote(place) and RunFolder(Path(place)).holds_run():
        raise taken_error(place)


def kept(folder: RunFolder) -> str:
    """What a failed run leaves, in words."""
    last = folder.pointed_at("last")
    return (
        f"The run ends; its last checkpoint is {folder.named(folder.checkpoints / last)}"
        if last
        else "No checkpoint was written"
    )
