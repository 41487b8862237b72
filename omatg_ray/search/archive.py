"""Every distinct relaxed crystal that a search has seen, and how often it was found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.reward.fingerprint import distances_between, fingerprints
from omatg_ray.rl.replay import SAME

SAME_ENERGY = 0.005
"""eV/atom within which crystals whose radial distribution functions are the same (`SAME`) count as one."""
COLUMNS = ("energy", "count", "first", "converged")


@dataclass(frozen=True)
class Distinct:
    """Distinct crystals of one cell, as they were first found.

    Attributes:
        crystals: N crystals, of the lowest energy among those that are the same.
        energy: Their energies (N,) in eV/atom, float64.
        count: How often each was found (N,), int64.
        first: Number of the sample of its formula, from 1, that found each first (N,), int64.
        converged: Whether its relaxation had converged (N,), bool.
        prints: Fingerprints (N, bins).
    """

    crystals: CrystalBatch
    energy: Tensor
    count: Tensor
    first: Tensor
    converged: Tensor
    prints: Tensor


class Archive:
    """Distinct crystals, cell by cell (the atoms of a unit cell); cells are told apart here, not reduced."""

    def __init__(self) -> None:
        self._of: dict[tuple[int, ...], Distinct] = {}

    def __len__(self) -> int:
        return sum(len(each.energy) for each in self._of.values())

    def add(self, crystals: CrystalBatch, energy: Tensor, converged: Tensor, samples: Sequence[int]) -> list[int]:
        """Take in valid crystals with their energies (B,) in eV/atom and the numbers of their samples.

        Returns:
            Rows of those that are new, or lower than one that is the same.
        """
        news = []
        for row, numbers in enumerate(crystals.atomic_numbers):
            crystal, key = crystals.select([row]), tuple(sorted(numbers))
            prints, number = fingerprints(crystal), torch.tensor([samples[row]])
            of_row = slice(row, row + 1)
            new = Distinct(crystal, energy[of_row].double(), torch.ones_like(number), number, converged[of_row], prints)
            old = self._of.get(key)
            self._of[key] = new if old is None else _merged(old, new)
            if old is None or self._of[key].crystals is not old.crystals:
                news.append(row)
        return news

    @property
    def all(self) -> Distinct:
        """Return the crystals of all cells, without fingerprints, whose lengths differ between cells.

        Raises:
            ValueError: There is none.
        """
        if not self._of:
            raise ValueError("nothing was found yet")
        each = list(self._of.values())
        return Distinct(
            CrystalBatch.cat(one.crystals for one in each),
            torch.cat([one.energy for one in each]),
            torch.cat([one.count for one in each]),
            torch.cat([one.first for one in each]),
            torch.cat([one.converged for one in each]),
            torch.empty(0),
        )

    def state_dict(self) -> dict[str, Tensor]:
        """Return what is kept, as tensors."""
        if not self._of:
            return {}
        kept = self.all
        state = {name: getattr(kept.crystals, name) for name in ("species", "pos", "cell", "n_atoms")}
        return state | {name: getattr(kept, name) for name in COLUMNS}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what `state_dict` returned."""
        self._of = {}
        if not state:
            return
        crystals = CrystalBatch(*(state[name] for name in ("species", "pos", "cell", "n_atoms")))
        rows: dict[tuple[int, ...], list[int]] = {}
        for row, numbers in enumerate(crystals.atomic_numbers):
            rows.setdefault(tuple(sorted(numbers)), []).append(row)
        for key, of in rows.items():
            energy, count, first, converged = (state[name][of] for name in COLUMNS)
            prints = fingerprints(crystals.select(of))
            self._of[key] = Distinct(crystals.select(of), energy, count, first, converged, prints)


def _merged(old: Distinct, new: Distinct) -> Distinct:
    """Return the crystals of a cell with another one (N = 1), which may be one of them."""
    near = distances_between(new.prints, old.prints)[0] < SAME
    near &= (old.energy - new.energy).abs() < SAME_ENERGY
    if not bool(near.any()):
        return Distinct(
            CrystalBatch.cat([old.crystals, new.crystals]),
            torch.cat([old.energy, new.energy]),
            torch.cat([old.count, new.count]),
            torch.cat([old.first, new.first]),
            torch.cat([old.converged, new.converged]),
            torch.cat([old.prints, new.prints]),
        )
    # The nearest in energy: crystals that a relaxation has not brought to rest yet may resemble several.
    row = int((old.energy - new.energy).abs().where(near, torch.inf).argmin())
    count = old.count.clone()
    count[row] += 1
    if float(new.energy) >= float(old.energy[row]):
        return replace(old, count=count)
    others = [index for index in range(len(count)) if index != row]
    order = [*others, row]
    return Distinct(
        CrystalBatch.cat([old.crystals.select(others), new.crystals]) if others else new.crystals,
        torch.cat([old.energy[others], new.energy]),
        count[order],
        old.first[order],
        torch.cat([old.converged[others], new.converged]),
        torch.cat([old.prints[others], new.prints]),
    )
