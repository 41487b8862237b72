"""Competing phases: crystals into which what was found might decompose."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from pymatgen.core import Element

from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.crystal.read import read_dataset
from omatg_ray.crystal.validity import check_validity
from omatg_ray.errors import ConfigError
from omatg_ray.evaluate.relaxation import relax_all
from omatg_ray.reward.energy import MatGLEnergy
from omatg_ray.reward.hull import Entry, Hull
from omatg_ray.reward.matching import Composition, compositions
from omatg_ray.run.location import Location

STEPS = 500
"""Most relaxation steps of a phase."""


@dataclass(frozen=True)
class Phases:
    """Competing phases with energies of one potential.

    Attributes:
        entries: Their compositions, and energies in eV/atom.
    """

    entries: Sequence[Entry]

    @classmethod
    def load(cls, path: Location, energy: MatGLEnergy, elements: frozenset[int], progress: bool = False) -> Self:
        """Read crystals, and relax those of these elements; warn of those that do not come to rest.

        Args:
            path: Crystals in any format that is read.
            energy: The potential of the search.
            elements: Atomic numbers of what is searched.
            progress: Show progress.

        Raises:
            DataError: The file cannot be read.
            ConfigError: No valid crystal is one of an element alone; names these elements.
        """
        crystals = read_dataset(path).crystals
        rows = [row for row, numbers in enumerate(crystals.atomic_numbers) if elements.issuperset(numbers)]
        crystals = crystals.select(rows)
        _require_elements(path, elements, crystals.select(check_validity(crystals).valid))
        relaxed = relax_all(crystals, energy, STEPS, progress=progress)
        known = relaxed.energy.isfinite()
        _require_elements(path, elements, crystals.select(known))
        if moving := sorted(set(crystals.select(known & ~relaxed.converged).formulas())):
            warnings.warn(
                f"--phases {path}: after {STEPS} relaxation steps, {', '.join(moving)} still moved: their energies are "
                "too high, so what is found seems more stable than it is. Give relaxed crystals",
                stacklevel=2,
            )
        energies = (relaxed.energy / relaxed.crystals.n_atoms)[known].tolist()
        return cls(list(zip(compositions(crystals.select(known)), energies, strict=True)))

    def above_hull(self, crystals: CrystalBatch, energies: Sequence[float]) -> list[float]:
        """Return the energies of crystals above the hull of the phases and of the lowest of all other compositions.

        A negative one is lower than what other compositions, and the crystals of the file, can make of its atoms.

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


def _require_elements(path: Location, elements: frozenset[int], crystals: CrystalBatch) -> None:
    alone = {numbers[0] for numbers in crystals.atomic_numbers if len(set(numbers)) == 1}
    if missing := sorted(elements - alone):
        symbols = ", ".join(Element.from_Z(number).symbol for number in missing)
        raise ConfigError(
            f"--phases {path}: there is no valid crystal of {symbols} alone; add one of each element, since "
            "everything can decompose into the elements"
        )
