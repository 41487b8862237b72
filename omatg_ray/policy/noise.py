"""Noise schedules σ(t): the standard deviation per unit of time of the policy's Gaussian steps."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from omatg_ray.settings import Settings


class NoiseSettings(Settings):
    """σ(t) of one field, in fractional units (positions) or Å (lattices)."""

    kind: Literal["constant", "sqrt"] = Field("sqrt", description="constant: σ = a · sqrt: σ = a √((1 − t) / t)")
    a: float = Field(0.1668, gt=0, description="scale of the noise")

    def sigma(self, t: Tensor) -> Tensor:
        """σ at times t (any shape) in (0, 1)."""
        if self.kind == "constant":
            return torch.full_like(t, self.a)
        return self.a * ((1.0 - t) / t).sqrt()
