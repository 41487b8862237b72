"""Noise schedules σ(t): the standard deviation per unit of time of the policy's Gaussian steps."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from omatg_ray.policy.mlp import at_times, time_mlp, zero_output
from omatg_ray.settings import Settings


class Noise(Protocol):
    """σ(t) of one field, in fractional units (positions) or Å (lattices), or a number (annealing policies)."""

    def sigma(self, t: Tensor) -> Tensor:
        """σ at times t (any shape) in (0, 1)."""
        ...


class NoiseSettings(Settings):
    """σ(t) of one field, in fractional units (positions) or Å (lattices); of an annealing policy, a plain number."""

    kind: Literal["constant", "sqrt", "learned"] = Field(
        "sqrt",
        description="constant: σ = a · sqrt: σ = a √((1 − t) / t) · learned: σ = a + softplus(MLP(t)) − ln 2, first a",
    )
    a: float = Field(0.1668, gt=0, description="scale of the noise")
    hidden: int = Field(64, ge=1, description="width of the network of learned noise")
    layers: int = Field(2, ge=0, description="hidden layers of the network of learned noise")

    def sigma(self, t: Tensor) -> Tensor:
        """σ at times t (any shape) in (0, 1); of learned noise, what it starts from."""
        if self.kind == "sqrt":
            return self.a * ((1.0 - t) / t).sqrt()
        return torch.full_like(t, self.a)


class DiffusionNoise:
    """σ(t) = √(2 ε(t)) of the flow's own stochastic process.

    Args:
        epsilon: ε at times of any shape.
    """

    def __init__(self, epsilon: Callable[[Tensor], Tensor]) -> None:
        self.epsilon = epsilon

    def sigma(self, t: Tensor) -> Tensor:
        """σ at times t (any shape)."""
        return (2.0 * self.epsilon(t)).sqrt()


class LearnedNoise(nn.Module):
    """σ(t) = a + softplus(MLP(t)) − ln 2; an untrained one gives a.

    Args:
        settings: Its start and its size.
    """

    def __init__(self, settings: NoiseSettings) -> None:
        super().__init__()
        self.a = settings.a
        self.mlp = time_mlp(settings.hidden, settings.layers)
        zero_output(self.mlp[-1])

    def sigma(self, t: Tensor) -> Tensor:
        """σ at times t (any shape); training can drive it to zero or below if `a` is below ln 2."""
        return self.a + F.softplus(at_times(self.mlp, t)) - math.log(2.0)
