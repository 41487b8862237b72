"""Relaxation of crystals under a potential, in Python; `omatg-ray relax` ranks them too (`rank`)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from omatg_ray.commands.ranked import AS_GENERATED, RELAXED, UNFINISHED
from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.crystal.given import as_dataset
from omatg_ray.evaluate.relaxation import relax_all
from omatg_ray.reward.energy import MatGLEnergy
from omatg_ray.reward.potential import Potential
from omatg_ray.run.location import BUNDLED
from omatg_ray.train.device import choose_device

if TYPE_CHECKING:
    from omatg_ray.crystal.given import Given


@dataclass(frozen=True)
class RelaxedCrystals:
    """Relaxed crystals, in the order in which they were given.

    Attributes:
        crystals: The B crystals, float64; `to_structures` converts them to pymatgen.
        ids: Id of each (`as_dataset`).
        energy_per_atom: eV/atom (B,), float64; NaN where invalid (atoms overlap) or where
            the potential failed, and then as given.
        steps: Steps taken (B,), int64.
        converged: Whether forces and stress vanished within `CONVERGED` (B,), bool.
        drop_per_atom: eV/atom by which the energy fell (B,), likewise.
        potential: Name of the potential.
    """

    crystals: CrystalBatch
    ids: list[str]
    energy_per_atom: Tensor
    steps: Tensor
    converged: Tensor
    drop_per_atom: Tensor
    potential: str

    @property
    def properties(self) -> list[dict[str, Any]]:
        """Return a row for each crystal, for `write_crystals`."""
        columns = (self.energy_per_atom, self.steps, self.converged, self.drop_per_atom)
        return [
            {
                "material_id": ident,
                "energy_per_atom": energy,
                "relaxation": relaxation(energy, converged),
                "relax_steps": steps,
                "relax_drop": drop,
                "potential": self.potential,
            }
            for ident, energy, steps, converged, drop in zip(
                self.ids, *(column.tolist() for column in columns), strict=True
            )
        ]


def relax(
    structures: Given,
    potential: str | Path | Potential = BUNDLED,
    steps: int = 100,
    *,
    device: str = "auto",
    progress: bool = False,
) -> RelaxedCrystals:
    """Relax cells and positions of one's own crystals.

    Args:
        structures: A file or folder of crystals (or its URL), pymatgen Structures, ASE Atoms, or a `CrystalBatch`.
        potential: Name or folder of a MatGL potential, "bundled", or one that is loaded.
        steps: Most steps for each; 0 computes energies only.
        device: auto, cpu, cuda or cuda:N.
        progress: Show progress.

    Raises:
        DataError: As `as_dataset`.
        PotentialError: The potential cannot be loaded, or does not know an element.
        ConfigError: The device does not exist here.

    Example:
        >>> done = relax("mine.cif", steps=200)                       # doctest: +SKIP
        >>> done.energy_per_atom, done.converged                      # doctest: +SKIP
    """
    dataset = as_dataset(structures, progress)
    energy = MatGLEnergy(potential, device=choose_device(device))
    energy.require_elements(dataset.elements)
    done = relax_all(dataset.crystals, energy, steps, progress=progress)
    n_atoms = done.crystals.n_atoms
    return RelaxedCrystals(
        done.crystals,
        dataset.ids,
        done.energy / n_atoms,
        done.steps,
        done.converged,
        done.drop / n_atoms,
        energy.potential.name,
    )


def relaxation(energy: float, converged: bool) -> str:
    """Return the property `relaxation` of a crystal with this energy; NaN: the potential could not take it."""
    if energy != energy:
        return AS_GENERATED
    return RELAXED if converged else UNFINISHED
