"""The reward of a run, put together from its settings."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.machinery import PathFinder
from pathlib import Path

import torch

from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.crystal.dataset import CrystalDataset
from omatg_ray.crystal.read import read_dataset
from omatg_ray.errors import ConfigError, DataError
from omatg_ray.reward.crmse import PolymorphMatch
from omatg_ray.reward.custom import CustomReward
from omatg_ray.reward.energy import MatGLEnergy
from omatg_ray.reward.hull import EnergyAboveHull, Entry, Hull, entries_of, read_entries
from omatg_ray.reward.matching import MatchSettings, compositions
from omatg_ray.reward.protocol import Once, Reward
from omatg_ray.reward.second import SecondPotential
from omatg_ray.reward.settings import (
    CRMSE,
    DENSITY,
    ENERGY,
    HULL,
    NON_CENTROSYMMETRIC,
    NON_TRICLINIC,
    SECOND,
    VOLUME,
    CustomSettings,
    RewardSettings,
)
from omatg_ray.reward.sources import sources
from omatg_ray.reward.symmetry import NonCentrosymmetric, NonTriclinic
from omatg_ray.reward.target import TargetDensity, TargetVolume
from omatg_ray.reward.weighted import Part, Weighted
from omatg_ray.run.cache import cache_folder

TRIED = 2
"""Crystals that a custom reward is tried on before a run."""


@dataclass(frozen=True)
class Scorers:
    """The reward and the energy of a run; sent to another process together, they share a potential.

    Attributes:
        reward: The reward of the run; None where nothing is rewarded.
        energy: Energies for evaluations: of crystals as they are; None without a potential.
        second_fingerprint: That of the second potential; None without one.
    """

    reward: Weighted | None
    energy: MatGLEnergy | None
    second_fingerprint: str | None = None

    def to(self, device: torch.device | str) -> Scorers:
        """Both moved to a device, in place."""
        for one in (self.reward, self.energy):
            if one is not None:
                one.to(device)
        return self


def build_scorers(
    settings: RewardSettings,
    known: CrystalDataset,
    validation: CrystalDataset | None = None,
    device: torch.device | str = "cpu",
) -> Scorers:
    """The reward of a run.

    Args:
        settings: What to reward.
        known: Training crystals: the compositions to score, and the references where settings name no others.
        validation: Crystals whose compositions are scored too, never rewarded: references where there are no others.
        device: Of the potentials.

    Raises:
        ConfigError: Energies are asked for, and no potential is named.
        PotentialError: A potential cannot be loaded or does not know an element of the crystals.
        RewardError: References of an element or of a composition are missing, or a custom reward does not work.
        DataError: A file of references cannot be read.
    """
    energy = None
    if settings.potential is not None:
        energy = MatGLEnergy(
            settings.potential,
            invalid_energy=settings.invalid_energy,
            device=device,
            chunk_edges=settings.chunk_edges,
        )
        energy.require_elements(known.elements)
    elif settings.needs_potential:
        raise ConfigError("reward.potential: name a MatGL potential, the folder of one, or bundled")
    second = None
    if settings.second_potential is not None:
        second = MatGLEnergy(settings.second_potential, device=device, chunk_edges=settings.chunk_edges)
        second.require_elements(known.elements)
    parts = _parts(settings, energy, second, known)
    for part in parts:
        if isinstance(part.reward, PolymorphMatch) and validation is not None:
            part.reward.learn(validation.crystals)
    reward = Weighted(parts)
    return Scorers(reward, energy, None if second is None else second.potential.fingerprint)


def _parts(
    settings: RewardSettings, energy: MatGLEnergy | None, second: MatGLEnergy | None, known: CrystalDataset
) -> list[Part]:
    weights, crystals = settings.weighted, known.crystals
    parts: dict[str, Reward] = {}
    if energy is not None and settings.needs_potential:
        rewarded = MatGLEnergy(
            energy.potential,
            invalid_energy=settings.invalid_energy,
            chunk_edges=settings.chunk_edges,
            relax_steps=settings.relax_steps,
        )
        # First, and there even without a weight: hull and second potential need it.
        first = parts[ENERGY] = Once(rewarded)
        if HULL in weights:
            parts[HULL] = EnergyAboveHull(first, _hull(settings, rewarded, known), settings.hull.invalid_energy)
    if CRMSE in weights:
        parts[CRMSE] = _polymorphs(settings, crystals)
    if {NON_TRICLINIC, NON_CENTROSYMMETRIC} & weights.keys():
        symmetry = Once(NonTriclinic(settings.symprec, workers=settings.workers, timeout=settings.timeout))
        both: dict[str, Reward] = {NON_TRICLINIC: symmetry, NON_CENTROSYMMETRIC: NonCentrosymmetric(symmetry)}
        parts |= {name: reward for name, reward in both.items() if name in weights}
    if DENSITY in weights and settings.density.target is not None:
        parts[DENSITY] = TargetDensity(settings.density.target, settings.density.scale)
    if VOLUME in weights and settings.volume.target is not None:
        parts[VOLUME] = TargetVolume(settings.volume.target, settings.volume.scale)
    for name, custom in settings.custom.items():
        reward = CustomReward(name, custom.class_, custom.invalid, custom.options, custom.path, custom.timeout)
        reward.try_out(crystals.select(range(min(TRIED, len(crystals)))))
        parts[name] = reward
    if energy is not None and second is not None:
        parts[SECOND] = SecondPotential(second, first, energy, crystals)
    return [Part(name, weights.get(name, 0.0), reward) for name, reward in parts.items()]


def _hull(settings: RewardSettings, energy: MatGLEnergy, known: CrystalDataset) -> Hull:
    if settings.hull.entries is not None:
        entries = read_entries(settings.hull.entries)
    else:
        file = settings.hull.crystals
        references = known if file is None else read_dataset(file)
        energy.require_elements(references.elements)
        # Before minutes of energies: what is missing now will be missing then.
        Hull(Entry(key, 0.0) for key in compositions(references.crystals)).require_elements(known.elements)
        entries = entries_of(references.crystals, energy, cache_folder())
    hull = Hull(entries)
    hull.require_elements(known.elements)
    return hull


def _polymorphs(settings: RewardSettings, crystals: CrystalBatch) -> PolymorphMatch:
    chosen = settings.crmse
    references = crystals if chosen.references is None else read_dataset(chosen.references).crystals
    tolerances = MatchSettings(chosen.ltol, chosen.stol, chosen.angle_tol)
    reward = PolymorphMatch(references, tolerances, workers=settings.workers, timeout=settings.timeout)
    reward.require(crystals)
    return reward


def fingerprint(settings: RewardSettings) -> str | None:
    """Short hash of the files that the reward depends on; None if there are none.

    These are files of references, and of every custom reward the source files that `sources` finds in its folder; where
    its module lies elsewhere, as one that is installed, the file of the module alone. Nothing is imported.

    Raises:
        DataError: A file cannot be read.
    """
    files = {HULL: settings.hull.entries or settings.hull.crystals, CRMSE: settings.crmse.references}
    used = [path for name, path in files.items() if path is not None and name in settings.weighted]
    digest = hashlib.sha256()
    try:
        for custom in settings.custom.values():
            used += _code(custom)
        for path in used:
            for file in sorted(path.iterdir()) if path.is_dir() else [path]:
                digest.update(file.read_bytes())
    except OSError as error:
        raise DataError(f"cannot read {error.filename}: {error.strerror}") from error
    return digest.hexdigest()[:12] if used else None


def _code(custom: CustomSettings) -> list[Path]:
    """Source files of a custom reward, where Python would find them; none where its module is no file."""
    module, _, _ = custom.class_.partition(":")
    folder = custom.path or Path.cwd()
    found = sources(module, folder)
    if found:
        return found
    places: Sequence[str] | None = [str(folder), *sys.path]
    spec, name = None, ""
    for part in module.split("."):
        name = f"{name}.{part}" if name else part
        spec = None if places is None else PathFinder.find_spec(name, places)
        places = None if spec is None else spec.submodule_search_locations
    return [] if spec is None or spec.origin is None or not spec.has_location else [Path(spec.origin)]
