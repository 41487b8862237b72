"""Geometry of lattices and of the torus of fractional positions. Rows of a lattice are its vectors in Å."""

from __future__ import annotations

import torch
from torch import Tensor


def wrap(pos: Tensor) -> Tensor:
    """Wrap fractional positions into [0, 1). In float32 a tiny negative number wraps to exactly 1, so wrap twice."""
    return (pos % 1.0) % 1.0


def nearest_image(target: Tensor, origin: Tensor) -> Tensor:
    """Return the periodic image of `target` nearest to `origin`, component by component in fractional units.

    The difference lies in [-0.5, 0.5): a difference of exactly 0.5 becomes -0.5.
    """
    return origin + minimum_difference(target - origin)


def minimum_difference(difference: Tensor) -> Tensor:
    """Reduce fractional differences modulo 1 into [-0.5, 0.5)."""
    return (difference + 0.5) % 1.0 - 0.5


def cell_from_parameters(lengths: Tensor, angles: Tensor) -> Tensor:
    """Build lattices in standard orientation: a along x, b in the xy plane, c with positive z.

    Args:
        lengths: a, b, c in Å (..., 3).
        angles: alpha, beta, gamma in degrees (..., 3).

    Returns:
        Lattices (..., 3, 3). Angles that span no volume give a third vector with zero z component.
    """
    cos_alpha, cos_beta, cos_gamma = torch.cos(torch.deg2rad(angles)).unbind(-1)
    sin_gamma = torch.sin(torch.deg2rad(angles[..., 2]))
    a, b, c = lengths.unbind(-1)
    zero = torch.zeros_like(a)
    c_y = (cos_alpha - cos_beta * cos_gamma) / sin_gamma
    c_z = (1.0 - cos_beta**2 - c_y**2).clamp_min(0.0).sqrt()
    rows = [
        torch.stack([a, zero, zero], -1),
        torch.stack([b * cos_gamma, b * sin_gamma, zero], -1),
        torch.stack([c * cos_beta, c * c_y, c * c_z], -1),
    ]
    return torch.stack(rows, -2)


def cell_parameters(cell: Tensor) -> tuple[Tensor, Tensor]:
    """Return lengths a, b, c in Å and angles alpha, beta, gamma in degrees, each (..., 3), of lattices (..., 3, 3)."""
    lengths = cell.norm(dim=-1)
    unit = cell / lengths[..., None]
    cosines = torch.stack([(unit[..., (i + 1) % 3, :] * unit[..., (i + 2) % 3, :]).sum(-1) for i in range(3)], -1)
    return lengths, torch.rad2deg(torch.arccos(cosines.clamp(-1.0, 1.0)))


def volume(cell: Tensor) -> Tensor:
    """Return the volumes in Å³ (...,) of lattices (..., 3, 3); never negative."""
    return torch.linalg.det(cell).abs()


def polar_sine(cell: Tensor) -> Tensor:
    """Return the volume divided by the product of the lengths (...,): 1 for orthogonal vectors, 0 for coplanar ones."""
    return volume(cell) / cell.norm(dim=-1).prod(-1)
