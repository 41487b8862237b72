"""Relaxation of positions and cells of many crystals together, in a bounded number of steps.

The method is FIRE (Bitzek et al., Phys. Rev. Lett. 97, 170201, 2006). Every crystal has its own velocity and time step.
Its degrees of freedom are the Cartesian positions and N ε, a symmetric strain times the number of atoms, which puts
both on one scale. They move under the forces and −dE/dε / N.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.crystal.lattice import wrap
from omatg_ray.crystal.validity import check_validity
from omatg_ray.reward.potential import Potential

CONVERGED = 0.05
"""A crystal has converged once no force exceeds this, in eV/Å, and no entry of dE/dε / N, in eV."""
LONGEST_STEP = 0.2
"""Longest step in Å of all atoms and the strain of a crystal together."""
# The constants of the paper.
FIRST_DT, MOST_DT, PATIENCE = 0.1, 1.0, 5
GROW, SHRINK, MIXING, LESS_MIXING = 1.1, 0.5, 0.1, 0.99


@dataclass(frozen=True)
class Relaxed:
    """Relaxed crystals.

    Attributes:
        crystals: States of lowest energy on the way, float64, on the CPU.
        energy: Their energies in eV (B,), float64.
        steps: Steps taken (B,), int64.
        drop: eV by which the energy fell (B,), never negative.
        converged: Whether these states rest within `CONVERGED` (B,), bool. The last state may rest, and yet one on the
            way be lower: then this is false.
    """

    crystals: CrystalBatch
    energy: Tensor
    steps: Tensor
    drop: Tensor
    converged: Tensor


def relax(
    potential: Potential,
    crystals: CrystalBatch,
    steps: int,
    chunk_edges: int | None = None,
    repulsion: bool = True,
    own_images: bool = True,
) -> Relaxed:
    """Relax crystals that passed `check_validity`; the input is not changed.

    A crystal stops when it has converged (`CONVERGED`), and when it would become invalid or its energy is not finite.

    Args:
        potential: Provides forces and strain derivatives.
        crystals: B crystals.
        steps: Largest number of steps; takes up to steps + 1 evaluations.
        chunk_edges: See `Potential.energies`.
        repulsion: See `Potential.energies`.
        own_images: See `check_validity`.

    Raises:
        PotentialError: An element is unknown.
    """
    now = crystals.to("cpu", torch.float64)
    layout, n_atoms = now.layout, now.n_atoms.double()
    start = torch.zeros(len(now), dtype=torch.float64)
    lowest, best, steps_taken = torch.full_like(start, torch.inf), now, torch.zeros(len(now), dtype=torch.long)
    velocity, stretch = torch.zeros_like(now.pos), torch.zeros_like(now.cell)
    dt, mixing = torch.full_like(start, FIRST_DT), torch.full_like(start, MIXING)
    downhill = torch.zeros(len(now), dtype=torch.long)
    moving, converged = torch.ones(len(now), dtype=torch.bool), torch.zeros(len(now), dtype=torch.bool)
    for step in range(steps + 1):
        energy = torch.full_like(start, torch.nan)
        force, pull = torch.zeros_like(now.pos), torch.zeros_like(now.cell)
        rows = moving.nonzero().squeeze(1)
        atoms = layout.atoms_of(rows)
        energy[rows], force[atoms], virial = potential.gradients(now.select(rows), chunk_edges, repulsion=repulsion)
        pull[rows] = -0.5 * (virial + virial.mT) / n_atoms[rows, None, None]
        if step == 0:
            start = energy
        better = energy < lowest
        lowest = energy.where(better, lowest)
        best = now.replace(
            now.pos.where(better[now.batch, None], best.pos), now.cell.where(better[:, None, None], best.cell)
        )
        largest = torch.zeros_like(start).scatter_reduce(0, now.batch, force.norm(dim=1), "amax")
        rests = (largest < CONVERGED) & (pull.abs().amax((1, 2)) < CONVERGED)
        converged = rests.where(better, converged)
        moving = moving & energy.isfinite() & ~rests
        if step == steps or not moving.any():
            break

        def dot(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> Tensor:
            return layout.sum((a[0] * b[0]).sum(1)) + (a[1] * b[1]).sum((1, 2))

        power = dot((force, pull), (velocity, stretch)) > 0
        size = dot((force, pull), (force, pull)).sqrt().clamp_min(1e-12)
        turn = mixing * dot((velocity, stretch), (velocity, stretch)).sqrt() / size
        keep = (1.0 - mixing) * power
        turn = turn * power
        downhill = torch.where(power, downhill + 1, 0)
        patient = downhill > PATIENCE
        longer = torch.where(patient, (dt * GROW).clamp_max(MOST_DT), dt)
        dt = torch.where(power, longer, dt * SHRINK) if step else dt
        mixing = torch.where(power, torch.where(patient, mixing * LESS_MIXING, mixing), MIXING)
        gain = (turn + dt) * moving
        keep = keep * moving
        velocity = keep[now.batch, None] * velocity + gain[now.batch, None] * force
        stretch = keep[:, None, None] * stretch + gain[:, None, None] * pull
        length = dt * dot((velocity, stretch), (velocity, stretch)).sqrt()
        scale = dt * (LONGEST_STEP / length.clamp_min(LONGEST_STEP))
        cell = now.cell @ (torch.eye(3, dtype=torch.float64) + scale[:, None, None] * stretch / n_atoms[:, None, None])
        shift = (scale[now.batch, None] * velocity)[:, None] @ torch.linalg.inv_ex(cell)[0][now.batch]
        moved = now.replace(wrap(now.pos + shift[:, 0]), cell)
        moving = moving & check_validity(moved, own_images).valid
        steps_taken = steps_taken + moving
        now = now.replace(
            moved.pos.where(moving[now.batch, None], now.pos), moved.cell.where(moving[:, None, None], now.cell)
        )
        if not moving.any():
            break
    lowest = lowest.where(lowest.isfinite(), torch.nan)
    return Relaxed(best, lowest, steps_taken, start - lowest, converged)
