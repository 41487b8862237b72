"""Second, independent potential, which is monitored but never rewarded: does it see the same gain?"""

from __future__ import annotations

import math
from collections import defaultdict

import torch

from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.reward.energy import MatGLEnergy
from omatg_ray.reward.matching import Composition, compositions
from omatg_ray.reward.protocol import Reward, RewardResult, common_elements, pass_on


class SecondPotential:
    """Energies of the same crystals from another potential.

    Two potentials differ at least by a constant per composition. So their difference is also given relative to that on
    known crystals of the same reduced composition:

        shift = [E₂ − E₁](x) − mean over known crystals k of the composition of [E₂ − E₁](k)

    A positive shift means that the first potential, which is rewarded, rates the crystal better than the second does.

    Args:
        energy: The second potential.
        first: The first, with the values of `MatGLEnergy`. For relaxed crystals, the energy before relaxation counts.
        unrelaxed: The first without relaxation, for the known crystals.
        known: Known crystals. Their energies are computed when their composition first occurs.
    """

    name = "second"

    def __init__(self, energy: MatGLEnergy, first: Reward, unrelaxed: Reward, known: CrystalBatch) -> None:
        self.energy, self._first, self._unrelaxed, self._known = energy, first, unrelaxed, known
        self.elements = common_elements([energy, first])
        self._rows: dict[Composition, list[int]] = defaultdict(list)
        for row, key in enumerate(compositions(known)):
            self._rows[key].append(row)
        self._offset: dict[Composition, float] = {}

    def __call__(self, crystals: CrystalBatch) -> RewardResult:
        """Return the rewards of B structures, as `MatGLEnergy` does, with values in eV/atom; NaN if invalid or failed.

        - energy_per_atom: E₂.
        - difference: E₂ − E₁.
        - shift: As above; NaN for a composition without known crystals.
        """
        second, difference = self._compare(crystals, self._first)
        keys = compositions(crystals)
        self._learn_offsets(set(keys))
        offset = torch.tensor([self._offset[key] for key in keys], dtype=torch.float64)
        energy = second.values["energy_per_atom"]
        values = {"energy_per_atom": energy, "difference": difference, "shift": difference - offset}
        return RewardResult(second.reward, values)

    def to(self, device: torch.device | str) -> SecondPotential:
        """Move both potentials to a device."""
        self.energy.to(device)
        for first in (self._first, self._unrelaxed):
            pass_on(first, "to", device)
        return self

    def _compare(self, crystals: CrystalBatch, first: Reward) -> tuple[RewardResult, torch.Tensor]:
        second, values = self.energy(crystals), first(crystals).values
        before = values["energy_per_atom"] + values.get("relax_drop", 0.0)
        return second, second.values["energy_per_atom"] - before

    def _learn_offsets(self, keys: set[Composition]) -> None:
        new = sorted(keys - self._offset.keys())
        rows = [row for key in new for row in self._rows.get(key, [])]
        differences = iter(self._compare(self._known.select(rows), self._unrelaxed)[1].tolist() if rows else [])
        for key in new:
            known = [value for value in (next(differences) for _ in self._rows.get(key, [])) if math.isfinite(value)]
            self._offset[key] = sum(known) / len(known) if known else math.nan
