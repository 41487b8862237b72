"""Where the files of a run are when it runs as a Ray job, and the models that OMatG has published."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from omatg_ray.run.job_paths import copy_of, found, found_or_named, lasting
from omatg_ray.run.location import is_bundled, is_remote

if TYPE_CHECKING:
    from omatg_ray.config import Config


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
    if copy_of(Path.cwd()) is None:
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


def _located(place: Path | str, key: str) -> Path | str:
    return place if isinstance(place, str) else found(place, key)
