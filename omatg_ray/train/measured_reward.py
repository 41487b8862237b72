"""A reward to measure crystals with, which another run was, or will be, rewarded by."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch

from omatg_ray.config import Config
from omatg_ray.crystal.dataset import CrystalDataset
from omatg_ray.crystal.settings import DataSettings
from omatg_ray.errors import ConfigError, DataError, RewardError
from omatg_ray.evaluate.cases import dataset_fingerprint
from omatg_ray.reward.build import build_scorers, fingerprint
from omatg_ray.reward.energy import MatGLEnergy
from omatg_ray.reward.potential import load_potential
from omatg_ray.reward.second_potential import SecondPotential
from omatg_ray.reward.weighted import Weighted
from omatg_ray.run.location import Location
from omatg_ray.run.location_keys import locations
from omatg_ray.train.splits import base_run_data, load_splits, read
from omatg_ray.train.unknown import drop_unknown, known_to, unknown_elements


@dataclass(frozen=True)
class MeasuredReward:
    """A reward to measure crystals with.

    Attributes:
        place: Where its settings were read.
        reward: The reward.
        key: Hash of all that decides it: its settings, files, potentials and known crystals.
        crystals: The crystals to measure, all of which it can score.
        energies: Those of its potential and of the second one, as far as it uses them.
    """

    place: Path
    reward: Weighted
    key: str
    crystals: CrystalDataset
    energies: tuple[MatGLEnergy, ...]


def measured_reward(
    place: Path,
    config: Config,
    crystals: CrystalDataset,
    device: torch.device | str,
    energy: MatGLEnergy | None = None,
    potential: str | None = None,
    progress: bool = False,
    *,
    generated: bool = False,
    unknown_from: Location | None = None,
) -> MeasuredReward:
    """Build the reward of a configuration, with what it knows.

    References of its parts (the hull, known polymorphs, the second potential's) are the training crystals of the run,
    or those that the configuration names, else `crystals`. Compositions that have no reference are compared with
    `crystals` too.

    Args:
        place: The file, or the folder of a run, that the configuration was read from (`reward_config`).
        config: The configuration.
        crystals: The references of an evaluation; or, if `generated`, the crystals to measure, which are no references.
        device: Device of the potentials.
        energy: Energies that are measured too; if they are of the same potential, these are computed once.
        potential: Potential of the reward if its settings name none.
        progress: Show progress.
        generated: Whether `crystals` are those to measure.
        unknown_from: If crystals with elements that the reward does not know are left out: where they come from, for
            the warning that counts them. None refuses them.

    Raises:
        ConfigError: Energies are needed, but no potential is named; or a part needs references and has none.
        PotentialError: A potential cannot be loaded or does not know an element of the known crystals.
        RewardError: As `build_scorers`; or crystals hold elements that a part with a weight does not know.
        DataError: Known crystals cannot be read, or no crystal is left.
    """
    settings = config.reward
    if settings.potential is None and potential not in (None, "none"):
        settings = settings.model_copy(update={"potential": potential})
    loaded = None if settings.potential is None else load_potential(settings.potential, device)
    if loaded is not None and energy is not None and loaded.fingerprint == energy.potential.fingerprint:
        loaded = energy.potential
    data = _data(place, config)
    # What the potential does not know is found before training crystals are read, which may take minutes. Without
    # these, the crystals are known ones themselves, which a potential without a weight has to know too.
    needed = any(settings.weighted[name] and options.needs_potential for name, options in settings.built_in.items())
    if loaded is not None and (needed or (data is None and unknown_from is not None)):
        crystals = _scorable(crystals, f"potential {loaded.name}", loaded.elements, place, unknown_from)
    known = crystals
    if data is not None and data.train is not None:
        known = read(data.train, progress, data.on_error)
    elif data is not None:
        known = load_splits(data, progress, known_to(loaded) if data.drop_unknown else None).train
    elif generated:
        for name, options in settings.built_in.items():
            if options.needs_references and not locations(options):
                raise ConfigError(
                    f"reward.{name}: {place} names no crystals that could be its references; name a run's folder, or "
                    f"set data or a file below reward.{name}"
                )
    scorers = build_scorers(settings, known, () if generated else [crystals], device, loaded)
    assert scorers.reward is not None
    try:
        crystals = _scorable(crystals, f"reward {place}", scorers.reward.elements, place, unknown_from)
    except (DataError, RewardError):
        scorers.reward.close()
        raise
    decided = [
        settings.model_dump_json(exclude={"workers"}),
        fingerprint(settings),
        None if loaded is None else loaded.fingerprint,
        scorers.second_fingerprint,
        dataset_fingerprint(known),
    ]
    key = hashlib.sha256(repr(decided).encode()).hexdigest()[:16]
    second = (part.energy for _, part in scorers.reward.parts.values() if isinstance(part, SecondPotential))
    energies = (scorers.energy, *second) if scorers.energy is not None and settings.needs_potential else ()
    return MeasuredReward(place, scorers.reward, key, crystals, energies)


def _scorable(
    crystals: CrystalDataset, who: str, known: frozenset[int] | None, place: Path, unknown_from: Location | None
) -> CrystalDataset:
    """Refuse or leave out crystals with elements that `who` does not know; None knows all."""
    if known is None:
        return crystals
    if unknown_from is not None:
        return drop_unknown(crystals, {who: known}, unknown_from)
    if unknown := unknown_elements(crystals, known):
        counts = ", ".join(f"{element} ({count})" for element, count in unknown.items())
        raise RewardError(
            f"the reward of {place} cannot score crystals with {counts}; leave them out (evaluate: --drop-unknown), or "
            "give its parts that do not know them the weight 0"
        )
    return crystals


def _data(place: Path, config: Config) -> DataSettings | None:
    """Return where the training crystals are: in the folder of the run, or where the configuration says."""
    folder = place if place.is_dir() else place.parent
    if (folder / "data").is_dir() and (place.is_dir() or place.name == "config.yaml"):
        return base_run_data(folder)
    named = config.data.file is not None or config.data.train is not None
    return config.data if named else None
