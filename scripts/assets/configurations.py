"""Inputs for a potential besides relaxed crystals: the same crystals strained, rattled or swapped, and noise."""

from __future__ import annotations

import torch
from torch import Tensor

from omatg_ray.crystal.base import BaseDistribution
from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.crystal.lattice import wrap

KINDS = ("relaxed", "strained", "rattled", "swapped", "random", "generated", "decorated")
COMPRESSION, EXPANSION = 0.3, 1.7  # volumes in units of the relaxed one
MOST_RATTLE = 0.5  # Å, standard deviation of a coordinate
CLOSEST = 0.5  # sums of covalent radii; closer, repulsion decides and no potential is reliable


def strained(crystals: CrystalBatch, rng: torch.Generator) -> CrystalBatch:
    """Change the volumes, and shear with a standard deviation of up to 0.05."""
    n = len(crystals)
    scale = (COMPRESSION * (EXPANSION / COMPRESSION) ** torch.rand(n, generator=rng)) ** (1 / 3)
    shear = 0.05 * torch.rand(n, 1, 1, generator=rng) * torch.randn(n, 3, 3, generator=rng)
    deformation = scale[:, None, None] * torch.eye(3) + 0.5 * (shear + shear.mT)
    return crystals.replace(cell=crystals.cell @ deformation)


def rattled(crystals: CrystalBatch, rng: torch.Generator, share: float = 1.0) -> CrystalBatch:
    """Displace atoms by up to a share of `MOST_RATTLE` (standard deviation, one per crystal), in strained cells."""
    strength = share * MOST_RATTLE * torch.rand(len(crystals), generator=rng)
    displacement = strength[crystals.batch, None] * torch.randn(crystals.pos.shape, generator=rng)
    inverse = torch.linalg.inv(crystals.cell)[crystals.batch]
    pos = wrap(crystals.pos + (displacement[:, None] @ inverse)[:, 0])
    shear = 0.06 * torch.randn(len(crystals), 3, 3, generator=rng) * strength[:, None, None] / MOST_RATTLE
    return crystals.replace(pos, crystals.cell @ (torch.eye(3) + 0.5 * (shear + shear.mT)))


def swapped(crystals: CrystalBatch, rng: torch.Generator) -> CrystalBatch:
    """Permute the atoms of every crystal over its sites and rattle them: disorder and wrong chemistry."""
    order = torch.cat([
        start + torch.randperm(size, generator=rng)
        for start, size in zip(crystals.ptr.tolist(), crystals.layout.sizes, strict=False)
    ])  # fmt: skip
    return rattled(crystals.replace(pos=crystals.pos[order]), rng)


def random(crystals: CrystalBatch, rng: torch.Generator) -> CrystalBatch:
    """Draw uniform positions in cells of the base distribution, scaled to 0.8 to 1.6 of the crystal's own volume."""
    pos, cell = BaseDistribution.fit(crystals).draw(crystals.species, crystals.layout, rng)
    volume = (0.8 + 0.8 * torch.rand(len(crystals), generator=rng)) * crystals.cell.det().abs()
    return crystals.replace(pos, cell * (volume / cell.det().abs()).pow(1 / 3)[:, None, None])


def decorated(crystals: CrystalBatch, rng: torch.Generator) -> CrystalBatch:
    """Shift the volumes of prototypes a little and rattle them slightly, as in the course of a relaxation."""
    scale = (0.85 * (1.2 / 0.85) ** torch.rand(len(crystals), generator=rng)) ** (1 / 3)
    return rattled(crystals.replace(cell=crystals.cell * scale[:, None, None]), rng, 0.5)


MAKERS = {"strained": strained, "rattled": rattled, "swapped": swapped, "random": random}


def usable(crystals: CrystalBatch) -> Tensor:
    """Return which crystals to ask a potential about (B,): valid, no pair below `CLOSEST` covalent bond lengths."""
    from ase.data import covalent_radii

    from omatg_ray.crystal.validity import check_validity
    from omatg_ray.reward.graph import neighbours

    valid = check_validity(crystals).valid
    radii = torch.tensor(covalent_radii)
    for b in valid.nonzero()[:, 0].tolist():
        one = crystals.select([b])
        reach = 2 * CLOSEST * float(radii[one.species].max())
        (source, target), offset = neighbours(one.pos.double().numpy(), one.cell[0].double().numpy(), reach)
        vectors = one.pos.double()[target] - one.pos.double()[source] + torch.from_numpy(offset).double()
        bonds = (radii[one.species[source]] + radii[one.species[target]]).double()
        valid[b] = bool(((vectors @ one.cell[0].double()).norm(dim=-1) >= CLOSEST * bonds).all())
    return valid
