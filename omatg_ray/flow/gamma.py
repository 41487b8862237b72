"""γ(t), the weight of the Gaussian z that a stochastic interpolant adds: x_t = α x_0 + β x_1 + γ z.

Source: Albergo et al., "Stochastic interpolants" (2023), section 3; OMatG (Höllmer et al., 2025).
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from omatg_ray.deferred import Deferred
from omatg_ray.flow.switching import phase, phase_rate
from omatg_ray.settings import Kinds, Settings

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = Deferred("torch")


class Gamma(Settings):
    """γ(t) for t of any shape, zero at both ends and positive between them.

    `antithetic` says whether γ' grows without bound towards the ends. The velocity's target contains γ' z, so training
    then needs the states with z and −z together, in which the divergence cancels.
    """

    kind: str = Field(description="sqrt or encoder_decoder")
    antithetic: ClassVar[bool]

    @abstractmethod
    def value(self, t: Tensor) -> Tensor:
        """Return γ(t)."""

    @abstractmethod
    def derivative(self, t: Tensor) -> Tensor:
        """Return dγ/dt for t inside (0, 1)."""


class SqrtGamma(Gamma):
    """γ = √(a t (1 − t)), the variance of a Brownian bridge."""

    antithetic: ClassVar[bool] = True
    kind: Literal["sqrt"] = "sqrt"
    a: float = Field(gt=0, description="γ² at t = 1/2, times 4")

    def value(self, t: Tensor) -> Tensor:
        return (self.a * t * (1.0 - t)).sqrt()

    def derivative(self, t: Tensor) -> Tensor:
        return self.a * (1.0 - 2.0 * t) / (2.0 * self.value(t))


class EncoderDecoderGamma(Gamma):
    """γ = √a sin²(π w(t)) with the phase w of `switching.phase`; the maximum, √a, is at the switch time."""

    antithetic: ClassVar[bool] = False
    kind: Literal["encoder_decoder"] = "encoder_decoder"
    a: float = Field(1.0, gt=0, description="largest γ²")
    switch_time: float = Field(0.5, gt=0, lt=1, description="time at which γ is largest")
    power: float = Field(1.0, ge=0.5, description="steepness; below 1/2 the derivative is unbounded")

    def value(self, t: Tensor) -> Tensor:
        return math.sqrt(self.a) * torch.sin(math.pi * phase(t, self.switch_time, self.power)).square()

    def derivative(self, t: Tensor) -> Tensor:
        angle = 2.0 * math.pi * phase(t, self.switch_time, self.power)
        return math.sqrt(self.a) * math.pi * torch.sin(angle) * phase_rate(t, self.switch_time, self.power)


GammaSettings = Annotated[Gamma | None, Kinds(SqrtGamma, EncoderDecoderGamma, optional=True)]
"""γ. In a file: `{kind: sqrt, a: 0.05}`, or null."""
