"""Competing phases: crystals into which what was found might decompose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from pymatgen.core import Element

from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.crystal.read import read_dataset
from omatg_ray.errors import ConfigError
from omatg_ray.reward.energy import MatGLEnergy
from omatg_ray.reward.hull import Entry, Hull, entries_of
from omatg_ray.reward.matching import Composition, compositions
from omatg_ray.run.home import cache_folder


@dataclass(frozen=True)
class Phases:
    """Competing phases with energies of one potential.

    Attributes:
        entries: Their compositions, and energies in eV/atom.
    """

    entries: Sequence[Entry]

    @classmethod
    def load(cls, path: str | Path, energy: MatGLEnergy, relax: int, elements: frozenset[int]) -> Self:
        """Read crystals, and relax those of these elements; energies that were computed before are in the cache.

        Args:
            path: Crystals in any format that is read.
            energy: The potential of the search.
            relax: Most relaxation steps of each.
            elements: Atomic numbers of what is searched.

        Raises:
            DataError: The file cannot be read.
            ConfigError: No valid crystal is one of an element alone; names these elements.
        """
        crystals = read_dataset(path).crystals
        rows = [row for row, numbers in enumerate(crystals.atomic_numbers) if elements.issuperset(numbers)]
        relaxing = MatGLEnergy(energy.potential, relax_steps=relax)
        entries = entries_of(crystals.select(rows), relaxing, cache_folder()) if rows else []
        if missing := sorted(elements - Hull(entries).elements):
            symbols = ", ".join(Element.from_Z(number).symbol for number in missing)
            raise ConfigError(
                f"--phases {path}: there is no valid crystal of {symbols} alone; add one of each element, since "
                "everything can decompose into the elements"
            )
        return cls(entries)

    def above_hull(self, crystals: CrystalBatch, energies: Sequence[float]) -> list[float]:
        """Return the energies of crystals above the hull of the phases and of the lowest of all other compositions.

        A negative one is lower than anything that the crystal could decompose into.

        Args:
            crystals: B crystals.
            energies: Their energies in eV/atom.
        """
        keys = compositions(crystals)
        lowest: dict[Composition, float] = {}
        for key, energy in zip(keys, energies, strict=True):
            lowest[key] = min(energy, lowest.get(key, energy))
        hulls = {
            key: Hull([*self.entries, *((other, energy) for other, energy in lowest.items() if other != key)])
            for key in lowest
        }
        return [energy - hulls[key].energy_per_atom(key) for key, energy in zip(keys, energies, strict=True)]
