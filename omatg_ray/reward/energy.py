"""Reward for a low energy per atom."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.crystal.validity import check_validity
from omatg_ray.errors import OmatgRayError, RewardError
from omatg_ray.reward.gradient import Gradient
from omatg_ray.reward.potential import Potential, load_potential
from omatg_ray.reward.protocol import REWARD, RewardResult

if TYPE_CHECKING:
    from omatg_ray.reward.relax import Relaxed

logger = logging.getLogger(__name__)


SQUEEZE_WIDTH = 1.0
OUTCOMES = ("energy", "steps", "drop", "converged")
"""What is computed of every valid structure: energy and its drop in eV, steps, and whether it rests (1 or 0)."""


def squeeze(energy: Tensor, bound: float) -> Tensor:
    """Keep energies below a bound without changing their order; any shape, in eV/atom.

    Energies more than w = 1 eV/atom below the bound are unchanged. Others become bound − w² / (w + E − (bound − w)),
    which continues with slope 1 and reaches the bound at infinity. A flat cap would not tell a policy which of two bad
    structures is the better one.
    """
    knee = bound - SQUEEZE_WIDTH
    above = bound - SQUEEZE_WIDTH**2 / (SQUEEZE_WIDTH + (energy - knee).clamp_min(0.0))
    return torch.where(energy > knee, above, energy)


def squeeze_slope(energy: Tensor, bound: float) -> Tensor:
    """Return the derivative of `squeeze`, between 0 and 1: 1 below the knee, (w / (w + E − (bound − w)))² above."""
    above = (energy - (bound - SQUEEZE_WIDTH)).clamp_min(0.0)
    return (SQUEEZE_WIDTH / (SQUEEZE_WIDTH + above)).square()


class MatGLEnergy:
    """Minus the energy per atom in eV, from a MatGL potential, after the checks of `check_validity`.

    An invalid structure gets -`invalid_energy` and is never passed to the potential. A valid one gets -E/N, squeezed
    where E/N comes within 1 eV/atom of `invalid_energy` (`squeeze`). It is always above an invalid one, and the lower
    of two energies is always above the higher. If the energy of a valid structure is not finite, or the potential fails
    on it, its reward has failed (NaN).

    Args:
        potential: A loaded potential, or the name or folder of one (`load_potential`).
        invalid_energy: Energy of an invalid structure, and the bound of valid ones, in eV/atom.
        cap: Whether valid energies are bounded. Unbounded (the published reward), a valid structure can score below an
            invalid one.
        own_images: Whether the distance of a site to its own periodic images is checked; see `check_validity`.
        repulsion: Whether overlapping atoms get the repulsion of `omatg_ray.reward.repulsion`. Without it (MatGL's own
            energies), most potentials have holes there, which a policy finds.
        device: Device of the potential if it is loaded here.
        chunk_edges: See `Potential.energies`.
        relax_steps: Steps of relaxation before the energy (`omatg_ray.reward.relax`); the crystals are not changed.

    Raises:
        PotentialError: The potential cannot be loaded.

    Example:
        >>> rewards = MatGLEnergy("TensorNet-PES-MatPES-PBE-2025.2")    # doctest: +SKIP
        >>> rewards(crystals).values["energy_per_atom"]                 # doctest: +SKIP
    """

    name = "energy"

    def __init__(
        self,
        potential: str | Path | Potential,
        *,
        invalid_energy: float = 3.0,
        cap: bool = True,
        own_images: bool = True,
        repulsion: bool = True,
        device: torch.device | str = "cpu",
        chunk_edges: int | None = None,
        relax_steps: int = 0,
    ) -> None:
        self.potential = load_potential(potential, device) if isinstance(potential, str | Path) else potential
        self.invalid_energy, self.cap, self.own_images = invalid_energy, cap, own_images
        self.repulsion, self.chunk_edges, self.relax_steps = repulsion, chunk_edges, relax_steps

    def to(self, device: torch.device | str) -> MatGLEnergy:
        """Move its potential to a device, in place."""
        self.potential.to(device)
        return self

    def energies_like(self, other: MatGLEnergy) -> bool:
        """Return whether another instance has the same energies, bit for bit, whatever its rewards."""
        decides = ("chunk_edges", "repulsion", "own_images", "relax_steps")
        return self.potential is other.potential and all(getattr(self, n) == getattr(other, n) for n in decides)

    @property
    def elements(self) -> frozenset[int]:
        """Return the atomic numbers that the potential knows."""
        return self.potential.elements

    def require_elements(self, elements: Iterable[int]) -> None:
        """Refuse atomic numbers that the potential does not know.

        Raises:
            PotentialError: Some are unknown; the message lists them by symbol.
        """
        self.potential.require_elements(elements)

    def __call__(self, crystals: CrystalBatch) -> RewardResult:
        """Return the rewards of B structures, with their values.

        - energy_per_atom: E/N in eV/atom, with the repulsion of overlapping atoms unless `repulsion` is off, not
          capped; NaN where invalid or failed.
        - valid: 1 or 0.
        - min_distance: In Å, as in `Validity`.
        - volume_per_atom: In Å³.
        - relax_steps, relax_drop: With relaxation only: steps taken, and eV/atom by which they lowered the energy; NaN
          where invalid or failed.

        Raises:
            PotentialError: A valid structure holds an element that the potential does not know.
        """
        return self._score(crystals, gradient=False)

    @property
    def has_gradient(self) -> bool:
        """Return whether the reward is the energy of the crystals as they are, not after a relaxation."""
        return not self.relax_steps

    def with_gradient(self, crystals: CrystalBatch) -> RewardResult:
        """Return the same with the gradients of the reward and of energy_per_atom.

        That of the reward has the slope of the squeeze in it. Takes about three times as long as a call.

        Raises:
            RewardError: It relaxes the crystals first, and so has no gradient.
        """
        if not self.has_gradient:
            raise RewardError("the energy after a relaxation has no gradient; set relax_steps to 0")
        return self._score(crystals, gradient=True)

    def relaxed(self, crystals: CrystalBatch, steps: int) -> Relaxed:
        """Relax B valid crystals (`omatg_ray.reward.relax`), whatever `relax_steps` is.

        A crystal on which the potential fails stays as it is, without an energy (NaN) and steps.

        Raises:
            PotentialError: A structure holds an element that the potential does not know.
        """
        from omatg_ray.reward.relax import Relaxed

        now = crystals.to("cpu", torch.float64)
        results, pos, cell = self._evaluate(partial(self._relax, steps=steps), crystals, list(range(len(crystals))))
        energy, taken, drop, converged = results.T
        failed = cell.isnan().any((1, 2))
        kept = now.replace(now.pos.where(failed[now.batch, None], pos), now.cell.where(failed[:, None, None], cell))
        return Relaxed(kept, energy, taken.nan_to_num(0.0).long(), drop, converged == 1.0)

    def _score(self, crystals: CrystalBatch, gradient: bool) -> RewardResult:
        crystals = crystals.to("cpu")
        validity = check_validity(crystals, self.own_images)
        results = torch.full((len(crystals), len(OUTCOMES)), torch.nan, dtype=torch.float64)
        by_energy = Gradient.zeros(crystals.layout) if gradient else None
        rows = validity.valid.nonzero()[:, 0]
        if len(rows):
            valid = crystals.select(rows)
            evaluate = self._derivatives if gradient else self._energies
            results[rows], *derivatives = self._evaluate(evaluate, valid, rows.tolist())
            if derivatives:
                forces, virial = derivatives
                per_atom = Gradient.of_energy(valid, forces, virial).times(1.0 / valid.n_atoms.double(), valid.layout)
                by_energy = per_atom.spread(rows, crystals.layout)
        energy, steps, drop, _ = results.T
        energy, drop = energy / crystals.n_atoms, drop / crystals.n_atoms
        energy[~energy.isfinite()] = torch.nan
        counted = squeeze(energy, self.invalid_energy) if self.cap else energy
        reward = -torch.where(validity.valid, counted, self.invalid_energy)
        values = {
            "energy_per_atom": energy,
            "valid": validity.valid.double(),
            "min_distance": validity.min_distance,
            "volume_per_atom": validity.volume / crystals.n_atoms,
        }
        if self.relax_steps:
            values |= {"relax_steps": steps, "relax_drop": drop}
        if by_energy is None:
            return RewardResult(reward, values)
        slope = squeeze_slope(energy, self.invalid_energy) if self.cap else torch.ones_like(energy)
        slope = slope.where(energy.isfinite(), 0.0)
        gradients = {
            REWARD: by_energy.times(-slope, crystals.layout),
            "energy_per_atom": by_energy.times(energy.isfinite().double(), crystals.layout),
        }
        return RewardResult(reward, values, gradients)

    def _energies(self, crystals: CrystalBatch) -> list[Tensor]:
        """Return the outcomes (b, outcomes)."""
        if self.relax_steps:
            return self._relax(crystals, self.relax_steps)[:1]
        return [_unrelaxed(self.potential.energies(crystals, self.chunk_edges, repulsion=self.repulsion).double())]

    def _derivatives(self, crystals: CrystalBatch) -> list[Tensor]:
        """Return the outcomes (b, outcomes), forces (sum n, 3) and strain derivatives (b, 3, 3)."""
        energy, forces, virial = self.potential.gradients(crystals, self.chunk_edges, repulsion=self.repulsion)
        return [_unrelaxed(energy), forces, virial]

    def _relax(self, crystals: CrystalBatch, steps: int) -> list[Tensor]:
        """Return the outcomes of a relaxation (b, outcomes), relaxed positions (sum n, 3) and cells (b, 3, 3)."""
        from omatg_ray.reward.relax import relax

        found = relax(self.potential, crystals, steps, self.chunk_edges, self.repulsion, self.own_images)
        columns = (found.energy, found.steps.double(), found.drop, found.converged.double())
        return [torch.stack(columns, dim=1), found.crystals.pos, found.crystals.cell]

    def _evaluate(
        self, evaluate: Callable[[CrystalBatch], list[Tensor]], crystals: CrystalBatch, indices: list[int]
    ) -> list[Tensor]:
        """Return what `evaluate` does, with NaN for structures on which the potential fails.

        The others of their chunk are kept.
        """
        try:
            return evaluate(crystals)
        except OmatgRayError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever goes wrong in the network or on the device (out of memory)
            if len(crystals) == 1:
                logger.warning(
                    "no energy for structure %d (%s): %s: %s",
                    indices[0], crystals.formulas()[0], type(error).__name__, error,
                )  # fmt: skip
                shapes = [(1, len(OUTCOMES)), (len(crystals.species), 3), (1, 3, 3)]
                failed = [torch.full(shape, torch.nan, dtype=torch.float64) for shape in shapes]
                return failed[:1] if evaluate == self._energies else failed
        # Halving finds the one that fails in few calls and needs less memory each time.
        half = len(crystals) // 2
        parts = (range(half), range(half, len(crystals)))
        results = [self._evaluate(evaluate, crystals.select(list(part)), [indices[i] for i in part]) for part in parts]
        return [torch.cat(both) for both in zip(*results, strict=True)]


def _unrelaxed(energy: Tensor) -> Tensor:
    """Return the outcomes (b, outcomes) of energies in eV (b,) without a relaxation."""
    return torch.stack([energy, *[torch.zeros_like(energy)] * (len(OUTCOMES) - 1)], dim=1)
