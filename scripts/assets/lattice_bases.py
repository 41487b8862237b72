#!/usr/bin/env python
"""Compare the bases of lattices: how likely are the lengths of held-out crystals under each?

  python scripts/assets/lattice_bases.py --crystals runs/periodic/crystals

Prints the mean negative log-likelihood of ln(a, b, c), in nats.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from omatg_ray.crystal.base import BaseDistribution, CellByVolume, InformedCell
from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.crystal.lattice import cell_parameters
from omatg_ray.crystal.read import read_dataset


def main() -> None:
    """Fit to the training crystals and print for the validation crystals."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--crystals", type=Path, required=True, help="folder with train.extxyz and val.extxyz")
    folder = parser.parse_args().crystals
    train, val = (read_dataset(folder / f"{part}.extxyz", reduce=False).crystals for part in ("train", "val"))
    for kind in ("informed", "by_volume"):
        print(f"{kind:<10} {float(surprise(BaseDistribution.fit(train, kind), val).mean()):+.3f}")


def surprise(base: BaseDistribution, crystals: CrystalBatch) -> Tensor:
    """Return −ln p(ln a, ln b, ln c) of each crystal (B,)."""
    lengths = cell_parameters(crystals.cell.double())[0].log()
    cell = base.cell
    if isinstance(cell, CellByVolume):
        total = crystals.layout.sum(cell.volumes[crystals.species])
        mean = torch.tensor(cell.log_ratio_mean, dtype=torch.float64) + total.log()[:, None] / 3
        factor = torch.tensor(cell.log_ratio_factor, dtype=torch.float64)
    else:
        assert isinstance(cell, InformedCell)
        mean = torch.tensor(cell.log_length_mean, dtype=torch.float64)
        factor = torch.diag(torch.tensor(cell.log_length_std, dtype=torch.float64))
    return -MultivariateNormal(mean, scale_tril=factor).log_prob(lengths)


if __name__ == "__main__":
    main()
