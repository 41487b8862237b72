"""Examples of flow matching: states on paths to known crystals, and the velocities there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from omatg_ray.crystal.base import BaseDistribution
from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.crystal.fields import FIELDS, Fields
from omatg_ray.flow.pairing import paired
from omatg_ray.flow.paths import TIME_MARGIN, interpolate
from omatg_ray.flow.settings import PathSettings
from omatg_ray.seeding import generator


@dataclass(frozen=True)
class Examples:
    """B examples for the regression of a velocity.

    Attributes:
        state: States x_t.
        t: Their times (B,).
        velocity: Target velocities ∂_t x_t: pos (sum N, 3) in fractional units, cell (B, 3, 3) in Å.
        weight: Weight of each in the loss: one over the number that were drawn together.
    """

    state: CrystalBatch
    t: Tensor
    velocity: Fields
    weight: float

    def __len__(self) -> int:
        return len(self.t)

    def select(self, rows: Tensor) -> Examples:
        """Return some examples, given by indices (b,) into 0 … B − 1."""
        atoms = self.state.layout.atoms_of(rows)
        velocity: Fields = {"pos": self.velocity["pos"][atoms], "cell": self.velocity["cell"][rows]}
        return Examples(self.state.select(rows), self.t[rows], velocity, self.weight)

    def to(self, device: torch.device | str) -> Examples:
        """Return the examples on a device."""
        velocity: Fields = {name: self.velocity[name].to(device) for name in FIELDS}
        return Examples(self.state.to(device), self.t.to(device), velocity, self.weight)


def draw_examples(
    crystals: CrystalBatch, seeds: Sequence[int], base: BaseDistribution, paths: PathSettings, earliest: float = 0.0
) -> Examples:
    """Draw an example for each crystal: x_0, a time, and the Gaussians of the path, if it has any.

    What is drawn for crystal i depends on seeds[i] alone. Where pretraining compares the velocity at two states, with z
    and with −z (`flow_loss`), there is one here, with z.

    Args:
        crystals: The ends of the paths x_1, on the CPU.
        seeds: A seed for each.
        base: Distribution of x_0.
        paths: Paths of the flow.
        earliest: Times are uniform from here to 1.
    """
    draws = [generator(seed, "time") for seed in seeds]
    t = torch.cat([torch.rand(1, generator=rng) for rng in draws])
    first, last = (max(earliest, TIME_MARGIN), 1.0 - TIME_MARGIN) if paths.open_ended else (earliest, 1.0)
    t = first + (last - first) * t
    state, velocity = draw_states(crystals, t, seeds, draws, base, paths)
    return Examples(state, t, velocity, 1.0 / len(t))


def draw_states(
    crystals: CrystalBatch,
    t: Tensor,
    seeds: Sequence[int],
    draws: Sequence[torch.Generator],
    base: BaseDistribution,
    paths: PathSettings,
) -> tuple[CrystalBatch, Fields]:
    """Draw a state x_t on a path to each crystal, and return the states with the velocities of the paths there.

    Args:
        crystals: The ends of the paths x_1, on the CPU.
        t: Times (B,).
        seeds: Seeds of x_0.
        draws: Random numbers of the Gaussians of each path, if it has any.
        base: Distribution of x_0.
        paths: Paths of the flow.
    """
    x_0 = paired(base.sample(crystals.atomic_numbers, seeds, crystals), crystals, paths.pairing)
    z: Fields = {}
    for field in paths.with_gamma:
        shapes = [(n, 3) if field == "pos" else (1, 3, 3) for n in crystals.layout.sizes]
        z[field] = torch.cat([torch.randn(shape, generator=rng) for rng, shape in zip(draws, shapes, strict=True)])
    return interpolate(paths, x_0, crystals, t, z)
