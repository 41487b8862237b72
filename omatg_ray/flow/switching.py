"""Phase of paths that forget x_0 before they form x_1, common to encoder-decoder interpolants and γ."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def phase(t: Tensor, switch_time: float, power: float) -> Tensor:
    """Return w(t) = u / (u + v) with u = (t − s t)^p and v = (s − s t)^p, for t of any shape.

    w rises from 0 at t = 0 through 1/2 at t = s to 1 at t = 1.
    """
    u, v = _parts(t, switch_time, power)
    return u / (u + v)


def phase_rate(t: Tensor, switch_time: float, power: float) -> Tensor:
    """Return dw/dt = p u v / (t (1 − t) (u + v)²) for t inside (0, 1)."""
    u, v = _parts(t, switch_time, power)
    return power * u * v / (t * (1.0 - t) * (u + v).square())


def _parts(t: Tensor, switch_time: float, power: float) -> tuple[Tensor, Tensor]:
    return (t - switch_time * t) ** power, (switch_time - switch_time * t) ** power
