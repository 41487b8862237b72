"""Noise schedules σ(t): the standard deviation per unit of time of the policy's Gaussian steps."""

from __future__ import annotations

import math
from typing import Protocol

import torch.nn.functional as F
from torch import Tensor, nn

from omatg_ray.policy.mlp import at_times, time_mlp, zero_output
from omatg_ray.policy.settings import NoiseSettings


class Noise(Protocol):
    """σ(t) of one field, in fractional units (positions) or Å (lattices), or a plain number (annealing policies)."""

    def sigma(self, t: Tensor) -> Tensor:
        """Return σ at times t (any shape) in (0, 1)."""
        ...


class LearnedNoise(nn.Module):
    """σ(t) = a + softplus(MLP(t)) − ln 2, which is a before training.

    Args:
        settings: Initial value a and size of the network.
    """

    def __init__(self, settings: NoiseSettings) -> None:
        super().__init__()
        self.a = settings.a
        self.mlp = time_mlp(settings.hidden, settings.layers)
        zero_output(self.mlp[-1])

    def sigma(self, t: Tensor) -> Tensor:
        """Return σ at times t (any shape). Training can drive it to zero or below if `a` is below ln 2."""
        return self.a + F.softplus(at_times(self.mlp, t)) - math.log(2.0)
