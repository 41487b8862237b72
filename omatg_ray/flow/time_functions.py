"""Functions of time of a path: the weight γ(t) of an added Gaussian, the noise ε(t) of an SDE, and τ(t) of diffusions.

Source: Albergo et al., "Stochastic interpolants" (2023), for γ and ε; for τ the noise schedules β(s) of Song et al.
(2021) and Nichol and Dhariwal (2021) in the time of stochastic interpolants, t = exp(−s); OMatG (Höllmer et al., 2025).
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from omatg_ray.deferred import Deferred
from omatg_ray.settings import Kinds, Settings

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = Deferred("torch")


def phase(t: Tensor, switch_time: float, power: float) -> tuple[Tensor, Tensor]:
    """Return the phase w(t) of paths that forget x_0 before they form x_1, and dw/dt, for t of any shape.

    w = u / (u + v) with u = (t − s t)^p and v = (s − s t)^p rises from 0 at t = 0 through 1/2 at t = s to 1 at t = 1.
    dw/dt = p u v / (t (1 − t) (u + v)²) holds for t inside (0, 1).
    """
    u, v = (t - switch_time * t) ** power, (switch_time - switch_time * t) ** power
    return u / (u + v), power * u * v / (t * (1.0 - t) * (u + v).square())


class SqrtGamma(Settings):
    """γ = √(a t (1 − t)), the variance of a Brownian bridge."""

    antithetic: ClassVar[bool] = True
    kind: Literal["sqrt"] = "sqrt"
    a: float = Field(gt=0, description="γ² at t = 1/2, times 4")

    def value(self, t: Tensor) -> Tensor:
        return (self.a * t * (1.0 - t)).sqrt()

    def derivative(self, t: Tensor) -> Tensor:
        return self.a * (1.0 - 2.0 * t) / (2.0 * self.value(t))


class EncoderDecoderGamma(Settings):
    """γ = √a sin²(π w(t)) with the phase w of `phase`; the maximum, √a, is at the switch time."""

    antithetic: ClassVar[bool] = False
    kind: Literal["encoder_decoder"] = "encoder_decoder"
    a: float = Field(1.0, gt=0, description="largest γ²")
    switch_time: float = Field(0.5, gt=0, lt=1, description="time at which γ is largest")
    power: float = Field(1.0, ge=0.5, description="steepness; below 1/2 the derivative is unbounded")

    def value(self, t: Tensor) -> Tensor:
        return math.sqrt(self.a) * torch.sin(math.pi * phase(t, self.switch_time, self.power)[0]).square()

    def derivative(self, t: Tensor) -> Tensor:
        w, rate = phase(t, self.switch_time, self.power)
        return math.sqrt(self.a) * math.pi * torch.sin(2.0 * math.pi * w) * rate


Gamma = SqrtGamma | EncoderDecoderGamma
"""γ(t) (`value`) for t of any shape, zero at both ends and positive between them; dγ/dt (`derivative`) inside (0, 1).

`antithetic` says whether γ' grows without bound towards the ends. The velocity's target contains γ' z, so training then
needs the states with z and −z together, in which the divergence cancels.
"""
GammaSettings = Annotated[Gamma | None, Kinds(SqrtGamma, EncoderDecoderGamma, optional=True)]
"""γ. In a file: `{kind: sqrt, a: 0.05}`, or null."""


class Epsilon(Settings):
    """ε(t), the noise of a flow that is sampled as an SDE: dx = [b − (ε / γ) η] dt + √(2 ε) dW.

    If b and η are exact, every ε gives the same distribution of states as the ODE dx = b dt.
    """

    kind: str = Field(description="constant or vanishing")
    c: float = Field(1.0, gt=0, description="scale")

    @abstractmethod
    def value(self, t: Tensor) -> Tensor:
        """Return ε(t) for t of any shape."""

    def sigma(self, t: Tensor) -> Tensor:
        """Return the noise level of the sampler, √(2 ε), at times t (any shape)."""
        return (2.0 * self.value(t)).sqrt()


class ConstantEpsilon(Epsilon):
    """ε = c."""

    kind: Literal["constant"] = "constant"

    def value(self, t: Tensor) -> Tensor:
        return torch.full_like(t, self.c)


class VanishingEpsilon(Epsilon):
    """ε = c f((t − μ) / w) f((1 − μ − t) / w) with the logistic function f: off near both ends, where γ vanishes."""

    kind: Literal["vanishing"] = "vanishing"
    mu: float = Field(0.075, description="distance from the ends at which ε is half of c")
    width: float = Field(0.01, gt=0, description="time over which it switches on and off")

    def value(self, t: Tensor) -> Tensor:
        on, off = torch.sigmoid((t - self.mu) / self.width), torch.sigmoid((1.0 - self.mu - t) / self.width)
        return self.c * on * off


EpsilonSettings = Annotated[Epsilon | None, Kinds(ConstantEpsilon, VanishingEpsilon, optional=True)]
"""ε. In a file: `{kind: vanishing, c: 2, mu: 0.2, width: 0.04}`, or null."""


class ConstantTau(Settings):
    """τ = t: a constant β."""

    kind: Literal["constant"] = "constant"

    def value(self, t: Tensor) -> Tensor:
        return t

    def derivative(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)


class LinearTau(Settings):
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


class CosineTau(Settings):
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


TauSettings = Annotated[ConstantTau | LinearTau | CosineTau, Kinds(ConstantTau, LinearTau, CosineTau)]
"""τ(t) (`value`), from 0 to 1, and dτ/dt (`derivative`), for t of any shape inside (0, 1).

In a file: `constant`, or `{kind: linear, beta_min: 0.1, beta_max: 20}`.
"""
