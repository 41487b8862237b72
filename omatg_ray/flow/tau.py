"""τ(t), the weight of the data in variance-preserving paths, from the noise schedules of score-based diffusion.

Source: the noise schedules β(s) of Song et al. (2021) and Nichol and Dhariwal (2021) in the time of stochastic
interpolants, t = exp(−s); OMatG (Höllmer et al., 2025).
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from omatg_ray.deferred import Deferred
from omatg_ray.settings import Kinds, Settings

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = Deferred("torch")


class Tau(Settings):
    """τ(t), from 0 to 1, for t of any shape inside (0, 1)."""

    kind: str = Field(description="constant, linear or cosine")

    @abstractmethod
    def value(self, t: Tensor) -> Tensor:
        """Return τ(t)."""

    @abstractmethod
    def derivative(self, t: Tensor) -> Tensor:
        """Return dτ/dt."""


class ConstantTau(Tau):
    """τ = t: a constant β."""

    kind: Literal["constant"] = "constant"

    def value(self, t: Tensor) -> Tensor:
        return t

    def derivative(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)


class LinearTau(Tau):
    """τ = exp(β_min / 2 ln t − (β_max − β_min) / 4 ln² t): β grows linearly from β_min to β_max."""

    kind: Literal["linear"] = "linear"
    beta_min: float = Field(gt=0, description="β at the data")
    beta_max: float = Field(gt=0, description="β at the noise")

    @model_validator(mode="after")
    def _check_order(self) -> LinearTau:
        if self.beta_max <= self.beta_min:
            raise ValueError(f"beta_max must be larger than beta_min = {self.beta_min}, not {self.beta_max}")
        return self

    def value(self, t: Tensor) -> Tensor:
        log_t = t.log()
        return torch.exp(0.5 * self.beta_min * log_t - 0.25 * (self.beta_max - self.beta_min) * log_t.square())

    def derivative(self, t: Tensor) -> Tensor:
        rate = 0.5 * self.beta_min - 0.5 * (self.beta_max - self.beta_min) * t.log()
        return self.value(t) * rate / t


class CosineTau(Tau):
    """τ = sin(q (1 + ln t)) / sin(q) with q = π / (2 + 2 d) for t > 1/e, and 0 before."""

    kind: Literal["cosine"] = "cosine"
    offset: float = Field(ge=0, description="d, which keeps β finite at the noise")

    @property
    def _q(self) -> float:
        return math.pi / (2.0 + 2.0 * self.offset)

    def value(self, t: Tensor) -> Tensor:
        late = torch.sin(self._q * (1.0 + t.log())) / math.sin(self._q)
        return torch.where(t > math.exp(-1.0), late, 0.0)

    def derivative(self, t: Tensor) -> Tensor:
        late = self._q * torch.cos(self._q * (1.0 + t.log())) / (math.sin(self._q) * t)
        return torch.where(t > math.exp(-1.0), late, 0.0)


TauSettings = Annotated[Tau, Kinds(ConstantTau, LinearTau, CosineTau)]
"""τ. In a file: `constant`, or `{kind: linear, beta_min: 0.1, beta_max: 20}`."""
