"""Interpolants x_t = α(t) x_0 + β(t) x_1 on the torus of positions and in the space of lattices.

Source: Albergo et al., "Stochastic interpolants" (2023); OMatG (Höllmer et al., 2025) for crystals.
"""

from __future__ import annotations

import math
from typing import Literal, Protocol

import torch
from torch import Tensor

from omatg_ray.crystal.batch import CrystalBatch, Layout
from omatg_ray.crystal.lattice import nearest_image, wrap

InterpolantName = Literal["linear", "trigonometric"]


class Interpolant(Protocol):
    """The weights of a path from x_0 to x_1 and their time derivatives, as functions of t of any shape."""

    def alpha(self, t: Tensor) -> Tensor: ...
    def beta(self, t: Tensor) -> Tensor: ...
    def alpha_dot(self, t: Tensor) -> Tensor: ...
    def beta_dot(self, t: Tensor) -> Tensor: ...


class Linear:
    """α = 1 − t, β = t."""

    def alpha(self, t: Tensor) -> Tensor:
        return 1.0 - t

    def beta(self, t: Tensor) -> Tensor:
        return t

    def alpha_dot(self, t: Tensor) -> Tensor:
        return -torch.ones_like(t)

    def beta_dot(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)


class Trigonometric:
    """α = cos(π t / 2), β = sin(π t / 2)."""

    def alpha(self, t: Tensor) -> Tensor:
        return torch.cos(0.5 * math.pi * t)

    def beta(self, t: Tensor) -> Tensor:
        return torch.sin(0.5 * math.pi * t)

    def alpha_dot(self, t: Tensor) -> Tensor:
        return -0.5 * math.pi * torch.sin(0.5 * math.pi * t)

    def beta_dot(self, t: Tensor) -> Tensor:
        return 0.5 * math.pi * torch.cos(0.5 * math.pi * t)


INTERPOLANTS: dict[str, Interpolant] = {"linear": Linear(), "trigonometric": Trigonometric()}


def path(interpolant: Interpolant, x_0: Tensor, x_1: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """State x_t and velocity ∂_t x_t of a path in flat space; t broadcasts against the states."""
    state = interpolant.alpha(t) * x_0 + interpolant.beta(t) * x_1
    velocity = interpolant.alpha_dot(t) * x_0 + interpolant.beta_dot(t) * x_1
    return state, velocity


def torus_path(interpolant: Interpolant, x_0: Tensor, x_1: Tensor, t: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
    """Wrapped positions x_t and their velocity without centre-of-mass motion, each (sum N, 3).

    x_1 enters as its image nearest to x_0. The translation of a crystal as a whole carries no information, and for
    non-linear paths the velocity would depend on where the origin is: the mean over a structure's atoms is removed.

    Args:
        t: One time per atom (sum N, 1).
    """
    x_0 = wrap(x_0)
    state, velocity = path(interpolant, x_0, nearest_image(x_1, x_0), t)
    return wrap(state), velocity - layout.mean(velocity).index_select(0, layout.batch)


def interpolate(
    pos: Interpolant, cell: Interpolant, x_0: CrystalBatch, x_1: CrystalBatch, t: Tensor
) -> tuple[CrystalBatch, Tensor, Tensor]:
    """State at times t (B,), and the targets of the position (sum N, 3) and lattice velocity (B, 3, 3)."""
    layout = x_1.layout
    t_atom = t.index_select(0, layout.batch)[:, None]
    pos_t, pos_velocity = torus_path(pos, x_0.pos, x_1.pos, t_atom, layout)
    cell_t, cell_velocity = path(cell, x_0.cell, x_1.cell, t[:, None, None])
    return x_1.replace(pos_t, cell_t), pos_velocity, cell_velocity
