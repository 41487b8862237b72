"""Construction of the reward of a run from its settings."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.machinery import PathFinder
from pathlib import Path

import torch

from omatg_ray.crystal.dataset import CrystalDataset
from omatg_ray.errors import ConfigError, DataError, RewardError
from omatg_ray.reward.crmse import PolymorphMatch
from omatg_ray.reward.custom import CustomReward
from omatg_ray.reward.energy import MatGLEnergy
from omatg_ray.reward.options import UNNAMED_POTENTIAL, Materials
from omatg_ray.reward.potential import Potential
from omatg_ray.reward.protocol import Once, Reward, has_gradient
from omatg_ray.reward.second_potential import SecondPotential
from omatg_ray.reward.settings import ENERGY, SECOND, CustomSettings, RewardSettings
from omatg_ray.reward.sources import sources
from omatg_ray.reward.weighted import Weighted
from omatg_ray.run.location_keys import locations

TRIED = 2
"""Number of crystals on which a custom reward is tried before a run."""


@dataclass(frozen=True)
class Scorers:
    """Reward and energy of a run. Sent to another process together, they share a potential.

    Attributes:
        reward: The reward of the run; None if nothing is rewarded.
        energy: Energies for evaluations, of unrelaxed crystals; None without a potential.
        second_fingerprint: Fingerprint of the second potential; None without one.
    """

    reward: Weighted | None
    energy: MatGLEnergy | None
    second_fingerprint: str | None = None

    def to(self, device: torch.device | str) -> Scorers:
        """Move both to a device, in place."""
        for scorer in (self.reward, self.energy):
            if scorer is not None:
                scorer.to(device)
        return self


def build_scorers(
    settings: RewardSettings,
    known: CrystalDataset,
    evaluated: Sequence[CrystalDataset] = (),
    device: torch.device | str = "cpu",
    potential: Potential | None = None,
) -> Scorers:
    """Build the reward of a run.

    Args:
        settings: Settings of the reward.
        known: Training crystals: the compositions to score, and the references unless the settings name others.
        evaluated: Crystals whose compositions are scored too but never rewarded, such as those of the validation and
            the test; references where there are no others.
        device: Device of the potentials.
        potential: The potential of the settings, if it is loaded already.

    Raises:
        ConfigError: Energies are needed, but no potential is named.
        PotentialError: A potential cannot be loaded or does not know an element of the crystals.
        RewardError: References of an element or of a composition are missing, or a custom reward does not work.
        DataError: A file of references cannot be read.
    """
    energy = None
    if settings.potential is not None:
        energy = MatGLEnergy(
            potential or settings.potential,
            invalid_energy=settings.invalid_energy,
            device=device,
            chunk_edges=settings.chunk_edges,
        )
        energy.require_elements(known.elements)
    elif settings.needs_potential:
        raise ConfigError(UNNAMED_POTENTIAL)
    second = None
    if settings.second_potential is not None:
        second = MatGLEnergy(settings.second_potential, device=device, chunk_edges=settings.chunk_edges)
        second.require_elements(known.elements)
    materials, parts = Materials(settings, known), dict[str, Reward]()
    if energy is not None and settings.needs_potential:
        relaxed = MatGLEnergy(
            energy.potential,
            invalid_energy=settings.invalid_energy,
            chunk_edges=settings.chunk_edges,
            relax_steps=settings.relax_steps,
        )
        # First, and present even without a weight, because rewards made of energies need it.
        materials.shared[ENERGY] = parts[ENERGY] = Once(relaxed)
    parts |= {name: options.build(materials) for name, options in settings.built_in.items()}
    for name, custom in settings.custom.items():
        reward = CustomReward(name, custom.class_, custom.invalid, custom.options, custom.path, custom.timeout)
        reward.try_out(known.crystals.select(range(min(TRIED, len(known)))))
        parts[name] = reward
    if energy is not None and second is not None:
        parts[SECOND] = SecondPotential(second, materials.shared[ENERGY], energy, known.crystals)
    for part in parts.values():
        if isinstance(part, PolymorphMatch):
            for dataset in evaluated:
                part.learn(dataset.crystals)
    for name, expected in settings.differentiable.items():
        if has_gradient(parts[name]) != expected:
            raise RewardError(
                f"reward {name}: `Options.has_gradient` is {expected}, but the reward that it builds "
                f"{'offers none' if expected else 'offers one'} (`with_gradient`); make them agree"
            )
    weighted = Weighted({name: (settings.weighted.get(name, 0.0), part) for name, part in parts.items()})
    return Scorers(weighted, energy, None if second is None else second.potential.fingerprint)


def fingerprint(settings: RewardSettings) -> str | None:
    """Return a short hash of the files that the reward depends on; None if there are none.

    These are the files of references and, for every custom reward, the source files that `sources` finds in its folder.
    If its module lies elsewhere, such as an installed one, only the file of the module counts. Nothing is imported.

    Raises:
        DataError: A file cannot be read.
    """
    used = [Path(path) for options in settings.built_in.values() for path, _ in locations(options).values()]
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
    """Return the source files of a custom reward, where Python would find them; none if its module is not a file."""
    module, _, _ = custom.class_.partition(":")
    folder = custom.path or Path.cwd()
    files = sources(module, folder)
    if files:
        return files
    search_path: Sequence[str] | None = [str(folder), *sys.path]
    spec, name = None, ""
    for part in module.split("."):
        name = f"{name}.{part}" if name else part
        spec = None if search_path is None else PathFinder.find_spec(name, search_path)
        search_path = None if spec is None else spec.submodule_search_locations
    return [] if spec is None or spec.origin is None or not spec.has_location else [Path(spec.origin)]
