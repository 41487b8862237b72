"""Relaxation of many crystals, invalid ones among them, block by block."""

from __future__ import annotations

import torch

from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.crystal.validity import check_validity
from omatg_ray.errors import ConfigError
from omatg_ray.evaluate.settings import BLOCK
from omatg_ray.reward.energy import MatGLEnergy
from omatg_ray.reward.protocol import holds_only
from omatg_ray.reward.relax import Relaxed
from omatg_ray.run.progress import Progress


def require_relaxable(relax: int, energy: MatGLEnergy | None) -> None:
    """Refuse a relaxation in a negative number of steps or without a potential.

    Raises:
        ConfigError: It is one.
    """
    if relax < 0:
        raise ConfigError(f"relax: {relax} is no number of steps; give 0 or more")
    if relax and energy is None:
        raise ConfigError("relax: there is no potential to relax with; name one (--potential)")


def relax_all(
    crystals: CrystalBatch, energy: MatGLEnergy, steps: int, block: int = BLOCK, progress: bool = False
) -> Relaxed:
    """Relax crystals block by block, in this process.

    Invalid crystals, those with an element unknown to the potential, and those on which it fails stay as they are,
    without an energy.

    Args:
        crystals: B crystals.
        energy: The potential.
        steps: Most steps for each.
        block: Crystals relaxed together.
        progress: Show progress.
    """
    able = check_validity(crystals).valid & holds_only(energy.elements, crystals)
    rows, others = able.nonzero().squeeze(1), (~able).nonzero().squeeze(1)
    kept, nothing = crystals.select(others).to("cpu", torch.float64), torch.full((len(others),), torch.nan).double()
    rests = torch.zeros(len(others), dtype=torch.bool)
    done = [Relaxed(kept, nothing, rests.long(), nothing, rests)]
    with Progress(len(rows), "relax", shown=progress) as bar:
        for part in rows.split(block) if len(rows) else ():
            done.append(energy.relaxed(crystals.select(part), steps))
            bar.advance(steps=len(part))
    order = torch.cat([others, rows]).argsort()
    return Relaxed(
        CrystalBatch.cat(part.crystals for part in done).select(order),
        torch.cat([part.energy for part in done])[order],
        torch.cat([part.steps for part in done])[order],
        torch.cat([part.drop for part in done])[order],
        torch.cat([part.converged for part in done])[order],
    )
