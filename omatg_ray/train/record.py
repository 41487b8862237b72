"""Run folder metadata (configuration, versions, crystals), and the keys that a resumed run may change."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from omatg_ray.config import Config
from omatg_ray.crystal.split import Split
from omatg_ray.errors import ConfigError
from omatg_ray.run.atomic import write_json, write_text
from omatg_ray.run.folder import RunFolder
from omatg_ray.run.location_keys import locations
from omatg_ray.run.tracking import Tracking
from omatg_ray.run.versions import versions
from omatg_ray.train.splits import write_splits
from omatg_ray.tree import flatten

# A resumed run may change how long and where it runs, how often it validates and saves, how it is
# tested, and where its files are now.
MAY_CHANGE = (
    "iterations", "run", "device", "threads", "workers", "ray", "checkpoint", "validation", "test", "tracking",
    "base", "data.file", "data.train", "data.val", "data.test", "data.on_error", "reward.potential",
    "reward.second_potential", "reward.workers",
)  # fmt: skip
# What the best score so far was measured by.
MUST_STAY = ("validation.best",)


def describe_run(folder: RunFolder, config: Config, split: Split) -> None:
    """Write the run's metadata: configuration, versions, splits.

    A resumed run keeps its original versions and splits. Its configuration is rewritten, so that overrides such as
    `iterations` still apply the next time it is resumed.

    Raises:
        ConfigError: The run was started with another value of a key that decides what it computes.
    """
    refuse_changes(folder, config)
    write_description(folder, config, split)


def write_description(folder: RunFolder, config: Config, split: Split) -> None:
    """Write the same metadata without checking what the folder already says."""
    write_text(folder.config_path, config.resolved().to_yaml())
    if not folder.versions_path.exists():
        write_splits(folder, split)
        write_json(folder.versions_path, versions())


def refuse_changes(folder: RunFolder, config: Config) -> None:
    """Refuse to resume a run that was started with another value of a key that decides what it computes.

    Raises:
        ConfigError: Names the key.
    """
    if not folder.config_path.exists():
        return
    old = flatten(Config.load(folder.config_path).model_dump(mode="json"))
    new = flatten(config.resolved().model_dump(mode="json"))
    # The content of a reward's files decides, not where they are; `reward.build.fingerprint` compares it.
    files = {key for key, (_, kind) in locations(config).items() if kind == "file"}
    for key in sorted(old.keys() | new.keys()):
        may = key not in MUST_STAY and (key.startswith(MAY_CHANGE) or key in files)
        if old.get(key) != new.get(key) and not may:
            raise ConfigError(
                f"{key}: the run was started with {old.get(key)}, not {new.get(key)}, and resuming "
                f"cannot change that; start a new run for it (a resumed one may change {', '.join(MAY_CHANGE)})"
            )


def tracking_of(config: Config) -> Tracking:
    """Return the trackers that receive the metrics of a run.

    Raises:
        ConfigError: The package of a tracker is not installed.
    """
    settings = flatten(config.resolved().model_dump(mode="json"))
    tracking = Tracking(tuple(config.tracking), Path(config.run).name, settings)
    tracking.require()
    return tracking


def actors_writer(path: Path, actors: Callable[[], list[dict[str, Any]]]) -> Callable[[], None]:
    """Return a function that writes `actors.json` if actors came, went or were replaced since its last call.

    Args:
        path: Path of the file. It is not written while there are no actors.
        actors: Returns what is known of the present actors.
    """
    written: list[dict[str, Any]] = []

    def write() -> None:
        nonlocal written
        if (present := actors()) and present != written:
            write_json(path, present)
            written = present

    return write
