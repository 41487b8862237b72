"""ε(t), the noise of a flow that is sampled as an SDE: dx = [b − (ε / γ) η] dt + √(2 ε) dW.

If b and η are exact, every ε gives the same distribution of states as the ODE dx = b dt. Source: Albergo et al. (2023).
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from omatg_ray.deferred import Deferred
from omatg_ray.settings import Kinds, Settings

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = Deferred("torch")


class Epsilon(Settings):
    """ε(t) for t of any shape. The noise level of the sampler is σ = √(2 ε)."""

    kind: str = Field(description="constant or vanishing")
    c: float = Field(1.0, gt=0, description="scale")

    @abstractmethod
    def value(self, t: Tensor) -> Tensor:
        """Return ε(t)."""


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
