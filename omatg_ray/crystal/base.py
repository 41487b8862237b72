"""The base distribution x_0 of the flow: uniform positions, informed lattices.

Source: Miller et al., "FlowMM" (ICML 2024): log-normal lengths fitted to the training set, angles uniform in
[60°, 120°], which are the angles that Niggli-reduced cells can have.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor

from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.crystal.lattice import cell_from_parameters, cell_parameters
from omatg_ray.seeding import generator
from omatg_ray.settings import Settings

ANGLE_RANGE = (60.0, 120.0)
# Fitted to equal lengths a log-normal has no width; the flow needs a base with some.
MIN_LOG_STD = 1e-3


class BaseDistribution(Settings):
    """Distribution of x_0 for crystals with given species.

    Lattices come in standard orientation. The positions of the atoms of a structure are independent and uniform.
    """

    log_length_mean: tuple[float, float, float] = Field(description="mean of ln(length / Å) of a, b, c")
    log_length_std: tuple[float, float, float] = Field(description="standard deviation of ln(length / Å) of a, b, c")

    @classmethod
    def fit(cls, cell: Tensor) -> BaseDistribution:
        """Fits the length distribution to lattices (B, 3, 3) by maximum likelihood."""
        log_lengths = cell_parameters(cell.double())[0].log()
        mean = log_lengths.mean(0)
        std = log_lengths.std(0, unbiased=False).clamp_min(MIN_LOG_STD)
        return cls(log_length_mean=tuple(mean.tolist()), log_length_std=tuple(std.tolist()))

    def draw(self, n_structures: int, n_positions: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Positions (n_positions, 3) and lattices (n_structures, 3, 3), float32, on the CPU."""
        pos = torch.rand(n_positions, 3, generator=rng)
        mean, std = (torch.tensor(v, dtype=torch.float64) for v in (self.log_length_mean, self.log_length_std))
        lengths = torch.exp(mean + std * torch.randn(n_structures, 3, generator=rng, dtype=torch.float64))
        low, high = ANGLE_RANGE
        angles = low + (high - low) * torch.rand(n_structures, 3, generator=rng, dtype=torch.float64)
        return pos, cell_from_parameters(lengths, angles).float()

    def sample(self, species: Sequence[Sequence[int]], seeds: Sequence[int]) -> CrystalBatch:
        """x_0 for each list of atomic numbers; structure i depends on seeds[i] alone, not on its neighbours."""
        draws = [self.draw(1, len(z), generator(seed, "x_0")) for z, seed in zip(species, seeds, strict=True)]
        return CrystalBatch(
            torch.tensor([z for structure in species for z in structure], dtype=torch.long),
            torch.cat([pos for pos, _ in draws]),
            torch.cat([cell for _, cell in draws]),
            torch.tensor([len(z) for z in species], dtype=torch.long),
        )
