"""Generated species: discrete flow matching over the elements, from a mask or from uniform species.

At time t an atom still has its species of x_0 with probability 1 − t, and already that of x_1 with probability t. The
network predicts x_1: its logits `species_b` at (x_t, t) give p(x_1 = Z | x_t), Z = 1 … S. A step from t to t + dt jumps
with the probabilities rate · dt of that prediction. η ≥ 0 adds jumps in detailed balance with the path. They keep its
distribution at every t and correct earlier errors.

Source: Campbell et al., "Generative flows on discrete state-spaces" (ICML 2024), sections 3 and 4, appendix F; used for
crystals by OMatG (Höllmer et al., 2025).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from omatg_ray.deferred import Deferred
from omatg_ray.seeding import generator
from omatg_ray.settings import Kinds, Settings

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from omatg_ray.crystal.batch import CrystalBatch
else:
    torch = Deferred("torch")

MASK = 0
"""Placeholder for an atomic number that is not known yet."""


class SpeciesPath(Settings):
    """Path of the species from base to data."""

    masked: ClassVar[bool]
    """Whether states hold masked atoms, which the network must support."""

    kind: str = Field(description="mask or uniform")
    noise: float = Field(0.0, ge=0, description="η: rate of additional jumps in detailed balance, per unit time")

    @abstractmethod
    def draw(self, n: int, elements: int, rng: torch.Generator) -> Tensor:
        """Draw the species (n,) of x_0, on the CPU, for a network that knows the elements 1 … `elements`."""

    @abstractmethod
    def probabilities(self, logits: Tensor, species: Tensor, t: Tensor, dt: Tensor, last: bool) -> Tensor:
        """Return the probabilities (n, S + 1), float64, of the species after a step.

        Column Z is for element Z, column 0 for the mask. Rows add up to 1. Where dt is too long for the rates, the
        probabilities saturate.

        Args:
            logits: Logits of x_1 given x_t, (n, S).
            species: Species at t (n,).
            t: Time, a tensor ().
            dt: Step, a tensor ().
            last: Whether the step ends the trajectory. The last step takes no noise, as nothing would correct it.
        """

    def start(self, crystals: CrystalBatch, seeds: Sequence[int], elements: int) -> CrystalBatch:
        """Return the crystals with the species of x_0; those of structure i depend only on seeds[i] and its size."""
        draws = [
            self.draw(n, elements, generator(seed, "species", "x_0"))
            for n, seed in zip(crystals.layout.sizes, seeds, strict=True)
        ]
        return crystals.replace(species=torch.cat(draws).to(crystals.device))

    def step(self, logits: Tensor, species: Tensor, t: Tensor, dt: Tensor, draws: Tensor, last: bool) -> Tensor:
        """Return the species (n,) after a step.

        Args:
            draws: Uniform numbers in [0, 1), float32 (n,), that choose among `probabilities`.
        """
        # The logits of an overflowed structure are NaN. It still gets valid species, and counts as failed later.
        bounds = self.probabilities(logits.nan_to_num(), species, t, dt, last).cumsum(-1)
        # A float32 below 1 stays below the total in float64, so no species of probability 0 is ever chosen.
        chosen = draws.double()[:, None] * bounds[:, -1:]
        return (bounds <= chosen).sum(-1)


class MaskedSpecies(SpeciesPath):
    """Path on which all atoms start masked.

    A masked atom becomes Z at the rate p(Z) (1 + η t) / (1 − t); any other is masked again at the rate η. The last step
    leaves no mask.
    """

    masked: ClassVar[bool] = True
    kind: Literal["mask"] = "mask"

    def draw(self, n: int, elements: int, rng: torch.Generator) -> Tensor:
        return torch.full((n,), MASK)

    def probabilities(self, logits: Tensor, species: Tensor, t: Tensor, dt: Tensor, last: bool) -> Tensor:
        t, dt = t.double(), dt.double()
        reveal = torch.ones_like(t) if last else (dt * (1.0 + self.noise * t) / (1.0 - t)).clamp_max(1.0)
        hide = torch.zeros_like(t) if last else (dt * self.noise).clamp_max(1.0)
        hidden = species == MASK
        out = torch.cat([torch.where(hidden, 0.0, hide)[:, None], reveal * logits.double().softmax(-1)], dim=1)
        out[:, 1:] *= hidden[:, None]
        return out.scatter(1, species[:, None], torch.where(hidden, 1.0 - reveal, 1.0 - hide)[:, None])


class UniformSpecies(SpeciesPath):
    """Path on which atoms start as any of the S elements, with equal probability.

    An atom jumps from Z' to Z ≠ Z' at the rate p(Z) [1 + η (S t + 1 − t)] / (1 − t) + η p(Z').
    """

    masked: ClassVar[bool] = False
    kind: Literal["uniform"] = "uniform"

    def draw(self, n: int, elements: int, rng: torch.Generator) -> Tensor:
        return torch.randint(1, elements + 1, (n,), generator=rng)

    def probabilities(self, logits: Tensor, species: Tensor, t: Tensor, dt: Tensor, last: bool) -> Tensor:
        t, dt = t.double(), dt.double()
        count, noise = logits.shape[-1], 0.0 if last else self.noise
        predicted, here = logits.double().softmax(-1), species[:, None] - 1
        # Given x_1: an atom that differs from it jumps there; one that has arrived jumps to any other.
        arrive = (dt * (1.0 + noise * (count * t + 1.0 - t)) / (1.0 - t)).clamp_max(1.0)
        leave = (dt * noise).clamp_max(1.0 / max(count - 1, 1))
        jumps = (arrive * predicted + leave * predicted.gather(1, here)).scatter(1, here, 0.0)
        out = jumps.scatter(1, here, (1.0 - jumps.sum(-1, keepdim=True)).clamp_min(0.0))
        return torch.cat([torch.zeros_like(out[:, :1]), out], dim=1)


AnySpeciesPath = Annotated[SpeciesPath | None, Kinds(MaskedSpecies, UniformSpecies, optional=True)]
"""Path of the species. In a file: `{kind: mask, noise: 0.2}`, or null."""


def draw_jumps(crystals: CrystalBatch, steps: int, seeds: Sequence[int]) -> Tensor:
    """Draw uniform numbers for the species of all Euler steps, float32 (steps − 1, sum N).

    Those of structure i depend only on seeds[i], its size and the number of steps.
    """
    draws = [
        torch.rand(steps - 1, n, generator=generator(seed, "species"))
        for n, seed in zip(crystals.layout.sizes, seeds, strict=True)
    ]
    return torch.cat(draws, dim=1).to(crystals.device)
