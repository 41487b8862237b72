"""Reward of minus the energy above the convex hull of reference entries."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from pydantic import Field, model_validator

from omatg_ray.reward import options
from omatg_ray.run.location_keys import LocalFile

if TYPE_CHECKING:
    from omatg_ray.reward.energy import MatGLEnergy
    from omatg_ray.reward.protocol import Reward


class Options(options.Options):
    """Energy above the hull."""

    entries: LocalFile | None = Field(
        None,
        description="entries with energies of the same potential: JSON of pymatgen's entries, or CSV with the columns "
        "formula and energy_per_atom",
    )
    crystals: LocalFile | None = Field(
        None,
        description="instead of entries, a data set whose energies are computed, after `relax_steps` of relaxation; "
        "null: the training split",
    )
    invalid_energy: float = Field(
        3.0, description="eV/atom above the hull of an invalid structure; valid ones are squeezed below it"
    )

    needs_potential = True
    has_gradient = True
    needs_references = True

    @model_validator(mode="after")
    def _one_source(self) -> Options:
        if self.entries is not None and self.crystals is not None:
            raise ValueError("give either `entries` or `crystals`, not both")
        return self

    def build(self, materials: options.Materials) -> Reward:
        from omatg_ray.crystal.read import read_dataset
        from omatg_ray.reward.hull import EnergyAboveHull, Hull, entries_of, read_entries
        from omatg_ray.reward.matching import compositions
        from omatg_ray.run.home import cache_folder

        energy, known = materials.energy, materials.known
        if self.entries is not None:
            entries = read_entries(self.entries)
        else:
            potential = cast("MatGLEnergy", energy.reward)
            references = known if self.crystals is None else read_dataset(self.crystals)
            potential.require_elements(references.elements)
            # Find missing elements now, before minutes are spent on energies.
            Hull((key, 0.0) for key in compositions(references.crystals)).require_elements(known.elements)
            entries = entries_of(references.crystals, potential, cache_folder())
        hull = Hull(entries)
        hull.require_elements(known.elements)
        return EnergyAboveHull(energy, hull, self.invalid_energy)
