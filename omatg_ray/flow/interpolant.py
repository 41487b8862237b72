"""Interpolants: the weights α(t) of the base and β(t) of the data in x_t = α x_0 + β x_1 [+ γ z], one class per family.

Source: Albergo et al., "Stochastic interpolants" (2023); OMatG (Höllmer et al., 2025) for crystals.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from omatg_ray.deferred import Deferred
from omatg_ray.flow.time_functions import EpsilonSettings, GammaSettings, TauSettings, phase
from omatg_ray.settings import Kinds, Settings

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = Deferred("torch")

FAMILIES = "linear, trigonometric, encoder_decoder or mirror; in imported models also vp or ve"


class FieldPath(Settings):
    """Path of one field from base to data: x_t = α x_0 + β x_1, and the noise that is added to it.

    Without γ the network learns the velocity b alone. With γ a Gaussian z is added, and the network also learns the
    denoiser η(t, x) = E[z | x_t = x]; the score is −η / γ. In a one-sided path x_0 is a standard Gaussian and takes the
    role of z, and α that of γ.
    """

    kind: str = Field(description=FAMILIES)
    gamma: GammaSettings = Field(None, description="weight of the added Gaussian; null: none, and no denoiser")
    epsilon: EpsilonSettings = Field(None, description="noise for sampling as an SDE; null: sample as an ODE")
    one_sided: bool = Field(
        False, description="x_0 is a standard Gaussian that the denoiser predicts; imported models only"
    )

    @model_validator(mode="after")
    def _one_denoiser(self) -> FieldPath:
        if self.one_sided and self.gamma is not None:
            raise ValueError("a one-sided path takes no gamma: its x_0 is the Gaussian; leave out one of the two")
        if self.epsilon is not None and not self.has_denoiser:
            raise ValueError("epsilon, for sampling as an SDE, needs a denoiser; set gamma too")
        return self

    @abstractmethod
    def weights(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return the weights α of x_0 and β of x_1 at times t of any shape."""

    @abstractmethod
    def rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return dα/dt and dβ/dt at times t of any shape."""

    @property
    def has_denoiser(self) -> bool:
        """Return whether a model of this path has a trained η."""
        return self.one_sided or self.gamma is not None

    def latent_scale(self, t: Tensor) -> Tensor:
        """Return the weight of the Gaussian that η predicts, if the path has a denoiser. The score is −η / weight.

        It is γ(t), or α(t) if the path is one-sided.
        """
        return self.weights(t)[0] if self.gamma is None else self.gamma.value(t)


class Linear(FieldPath):
    """α = 1 − t, β = t."""

    kind: Literal["linear"] = Field("linear", description=FAMILIES)

    def weights(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return 1.0 - t, t

    def rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return -torch.ones_like(t), torch.ones_like(t)


class Trigonometric(FieldPath):
    """α = cos(π t / 2), β = sin(π t / 2)."""

    kind: Literal["trigonometric"] = Field("trigonometric", description=FAMILIES)

    def weights(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.cos(0.5 * math.pi * t), torch.sin(0.5 * math.pi * t)

    def rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return -0.5 * math.pi * torch.sin(0.5 * math.pi * t), 0.5 * math.pi * torch.cos(0.5 * math.pi * t)


class EncoderDecoder(FieldPath):
    """α = cos²(π w(t)) up to the switch time, β = cos²(π w(t)) after it, with the phase w of `phase`.

    At the switch time both are zero: x_0 is forgotten, and without γ all paths meet in one point.
    """

    kind: Literal["encoder_decoder"] = Field("encoder_decoder", description=FAMILIES)
    switch_time: float = Field(0.5, gt=0, lt=1, description="time between forgetting x_0 and forming x_1")
    power: float = Field(1.0, ge=0.5, description="steepness; below 1/2 the velocity is unbounded")

    def weights(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return self._split(t, torch.cos(math.pi * phase(t, self.switch_time, self.power)[0]).square())

    def rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        w, rate = phase(t, self.switch_time, self.power)
        return self._split(t, -math.pi * torch.sin(2.0 * math.pi * w) * rate)

    def _split(self, t: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        return torch.where(t <= self.switch_time, values, 0.0), torch.where(t > self.switch_time, values, 0.0)


class Mirror(FieldPath):
    """α = 0, β = 1: x_1 at all times. Without γ nothing moves."""

    kind: Literal["mirror"] = Field("mirror", description=FAMILIES)

    def weights(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(t), torch.ones_like(t)

    def rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(t), torch.zeros_like(t)


class VariancePreserving(FieldPath):
    """α = √(1 − τ²), β = τ with a schedule τ(t): variance-preserving score-based diffusion, one-sided."""

    kind: Literal["vp"] = Field("vp", description=FAMILIES)
    one_sided: Literal[True] = Field(True, description="always")
    schedule: TauSettings = Field(description="τ(t)")

    def weights(self, t: Tensor) -> tuple[Tensor, Tensor]:
        tau = self.schedule.value(t)
        # Keeps digits near t = 1 that 1 − τ² would lose.
        return ((1.0 - tau) * (1.0 + tau)).sqrt(), tau

    def rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        (alpha, tau), tau_rate = self.weights(t), self.schedule.derivative(t)
        return -tau * tau_rate / alpha, tau_rate


class VarianceExploding(FieldPath):
    """α = √(σ(1 − t)² − σ(0)²), β = 1, σ(s) = σ_min (σ_max / σ_min)^s: variance-exploding diffusion, one-sided."""

    kind: Literal["ve"] = Field("ve", description=FAMILIES)
    one_sided: Literal[True] = Field(True, description="always")
    sigma_min: float = Field(gt=0, description="noise level at the data")
    sigma_max: float = Field(gt=0, description="noise level at the base")

    @model_validator(mode="after")
    def _check_order(self) -> VarianceExploding:
        if self.sigma_max <= self.sigma_min:
            raise ValueError(f"sigma_max must be larger than sigma_min = {self.sigma_min}, not {self.sigma_max}")
        return self

    def _sigma(self, t: Tensor) -> Tensor:
        return self.sigma_min * (self.sigma_max / self.sigma_min) ** (1.0 - t)

    def weights(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return (self._sigma(t).square() - self.sigma_min**2).sqrt(), torch.ones_like(t)

    def rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        alpha, _ = self.weights(t)
        return -math.log(self.sigma_max / self.sigma_min) * self._sigma(t).square() / alpha, torch.zeros_like(t)


AnyPath = Annotated[
    FieldPath,
    Kinds(Linear, Trigonometric, EncoderDecoder, Mirror, VariancePreserving, VarianceExploding, default=Linear),
]
"""Path of any family. In a file: `linear`, or `{kind: encoder_decoder, switch_time: 0.6, gamma: {...}}`."""
