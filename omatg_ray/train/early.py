"""Checks for missing names and locations, made before PyTorch, pymatgen and MatGL are imported, which takes seconds.

The code that reads these locations also refuses missing ones; these checks only do so earlier.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from omatg_ray.assets import model_named, require
from omatg_ray.config import Config
from omatg_ray.crystal.settings import UNNAMED_DATA
from omatg_ray.errors import ConfigError, DataError
from omatg_ray.model.schedule import require_schedule
from omatg_ray.reward.options import UNNAMED_POTENTIAL
from omatg_ray.reward.settings import potential_folder
from omatg_ray.run.checkpoints import model_folder
from omatg_ray.run.location import Location, bundled_set, is_bundled, is_remote
from omatg_ray.run.location_keys import locations
from omatg_ray.run.state import refuse_taken
from omatg_ray.settings import Settings
from omatg_ray.tree import parse


def refuse_pretrain(config: Config, new: bool) -> None:
    """Refuse a pretraining run without crystals, or a new one in a folder that holds a run already.

    Args:
        config: The run.
        new: Whether the run is new, not resumed.

    Raises:
        ConfigError: No crystals are named, unknown elements are to be left out and no potential is named, or the folder
            holds a run.
        DataError: A file of crystals does not exist.
    """
    if config.data.file is None and config.data.train is None:
        raise ConfigError(UNNAMED_DATA)
    _require_locations(config.data)
    require_potential(potential_that_decides(config))
    if new:
        refuse_taken(config.run)


def potential_that_decides(config: Config) -> str | None:
    """Return the potential whose elements pretraining may use; None if it may use all.

    Raises:
        ConfigError: Crystals with unknown elements are to be left out, and no potential is named.
    """
    if not config.data.drop_unknown:
        return None
    if config.reward.potential is None:
        raise ConfigError(
            "data.drop_unknown: a base may be trained on any element; name the potential that will reward it "
            "(reward.potential=...), whose elements then decide, or leave it out"
        )
    return str(config.reward.potential)


def refuse_train(config: Config, new: bool) -> None:
    """Refuse a reinforcement run with missing inputs, or a new one in a folder that holds a run already.

    Args:
        config: The run.
        new: Whether the run is new, not resumed.

    Raises:
        ConfigError: `base` or `reward.potential` is not named, a schedule does not exist, or the folder holds a run.
        DataError: A file of crystals does not exist.
        ModelError: There is no model at `base`.
        PotentialError: There is no such potential.
    """
    refuse_unnamed(config)
    _require_locations(config)
    if new:
        refuse_taken(config.run)


def refuse_unnamed(config: Config) -> None:
    """Refuse a reinforcement run that names no model, or no potential if it needs one.

    Raises:
        ConfigError: Names the key.
    """
    if config.base is None:
        raise ConfigError(
            "base: name the model to reinforce (base=runs/..., base=bundled), or a config that names one, such as "
            "configs/quickstart.yaml"
        )
    if config.reward.potential is None and config.reward.needs_potential:
        raise ConfigError(UNNAMED_POTENTIAL)


def require_models(places: Iterable[Location]) -> None:
    """Check that there is a model at each of these locations. URLs are not checked.

    Raises:
        ModelError: Names the first location without a model.
        DataError: A bundled set has no model.
    """
    for location in places:
        if bundled_set(location):
            require(*model_named(str(location)))
        elif not is_remote(location):
            model_folder(Path(location))


def require_crystals(place: Location | None) -> None:
    """Check that a file of crystals exists. URLs are not checked.

    Raises:
        DataError: It does not exist, or a bundled set has none.
    """
    if is_bundled(place):
        require("crystals", place)
    elif place is not None and not is_remote(place) and not Path(place).exists():
        raise DataError(f"{place} does not exist")


def require_potential(name: str | None) -> None:
    """Check that a potential exists. Potentials that MatGL would fetch are not checked.

    Raises:
        PotentialError: There is no such folder, and the text is not a name either.
        DataError: A bundled set has none.
    """
    if is_bundled(name):
        require("potential", name)
    elif name is not None:
        potential_folder(name)


def _require_locations(settings: Settings) -> None:
    """Check that models, crystals, potentials and schedules exist, models first."""
    named = locations(settings).items()
    require_models(location for _, (location, kind) in named if kind == "model")
    for key, (location, kind) in named:
        if kind == "crystals":
            require_crystals(location)
        elif kind == "potential":
            require_potential(str(location))
        elif kind == "schedule":
            try:
                require_schedule(location)
            except ConfigError as error:
                raise ConfigError(f"{key}: {error}") from error


def reward_config(place: Path) -> Config:
    """Read the configuration of a reward: a YAML file with a section `reward`, or the folder of a run.

    Raises:
        ConfigError: There is no such file, it has no such section, or the section cannot be used.
        PotentialError: There is no such potential.
    """
    file = place / "config.yaml" if place.is_dir() else place
    if not file.is_file():
        what = "no run is in this folder (it has no config.yaml)" if place.is_dir() else "there is no such file"
        raise ConfigError(f"--reward {place}: {what}")
    tree = parse(file.read_text(encoding="utf-8"))
    if not isinstance(tree, dict) or not isinstance(tree.get("reward"), dict):
        raise ConfigError(f"--reward {place}: {file.name} has no section `reward`; see `omatg-ray config reward`")
    config = Config.load(file)
    require_potential(config.reward.potential)
    return config
