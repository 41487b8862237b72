"""What a run folder says of its run: configuration, versions, crystals; and what a resumed run may change of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from omatg_ray.config import Config
from omatg_ray.crystal.split import Split
from omatg_ray.errors import ConfigError
from omatg_ray.run.atomic import write_json, write_text
from omatg_ray.run.folder import RunFolder
from omatg_ray.run.tracking import Tracking
from omatg_ray.run.versions import versions
from omatg_ray.train.splits import write_splits
from omatg_ray.tree import flat

# What a resumed run may change: how long and where it runs, how often it looks, and where its files lie by now.
MAY_CHANGE = (
    "iterations", "run", "device", "threads", "workers", "ray", "checkpoint", "validation", "tracking", "base",
    "data.file", "data.train", "data.val", "data.test", "data.on_error", "reward.potential", "reward.second_potential",
    "reward.workers",
    "reward.hull.entries", "reward.hull.crystals", "reward.crmse.references",
)  # fmt: skip


def describe_run(folder: RunFolder, config: Config, split: Split) -> None:
    """Writes what the run is made of: configuration, versions, splits.

    A resumed run keeps the versions and splits that it started with; its configuration is written anew, because
    overrides such as `iterations` go on counting when it is resumed once more.

    Raises:
        ConfigError: The run was started with another value of a key that decides what it computes.
    """
    refuse_changes(folder, config)
    write_description(folder, config, split)


def write_description(folder: RunFolder, config: Config, split: Split) -> None:
    """The same without a look at what the folder says already."""
    write_text(folder.config_path, config.resolved().to_yaml())
    if not folder.versions_path.exists():
        write_splits(folder, split)
        write_json(folder.versions_path, versions())


def refuse_changes(folder: RunFolder, config: Config) -> None:
    """Refuses to go on with a run that was started with another value of a key that decides what it computes.

    Raises:
        ConfigError: Names the key.
    """
    if not folder.config_path.exists():
        return
    old = flat(Config.load(folder.config_path).model_dump(mode="json"))
    new = flat(config.resolved().model_dump(mode="json"))
    for key in sorted(old.keys() | new.keys()):
        moved_code = key.startswith("reward.custom.") and key.endswith(".path")
        if old.get(key) != new.get(key) and not (key.startswith(MAY_CHANGE) or moved_code):
            raise ConfigError(
                f"{key}: the run was started with {old.get(key)}, not {new.get(key)}, and goes on exactly; start a new "
                f"run for that (a resumed one may change {', '.join(MAY_CHANGE)})"
            )


def tracking_of(config: Config) -> Tracking:
    """Who is sent the metrics of a run.

    Raises:
        ConfigError: The package of one is not installed.
    """
    settings = flat(config.resolved().model_dump(mode="json"))
    tracking = Tracking(tuple(config.tracking), Path(config.run).name, settings)
    tracking.require()
    return tracking


class ActorsFile:
    """Keeps `actors.json` at who is there: actors are replaced, come and go.

    Args:
        path: Of the file; without any actors there is none.
        actors: What is known of those that are there.
    """

    def __init__(self, path: Path, actors: Callable[[], list[dict[str, Any]]]) -> None:
        self._path, self._actors = path, actors
        self._written: list[dict[str, Any]] = []

    def __call__(self) -> None:
        """Writes it if anything has changed."""
        if (found := self._actors()) and found != self._written:
            write_json(self._path, found)
            self._written = found
