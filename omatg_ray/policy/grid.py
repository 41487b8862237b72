"""Time grids of the integration. They stay off the ends of [0, 1], where velocities may diverge."""

from __future__ import annotations

from typing import TYPE_CHECKING

from omatg_ray.deferred import Deferred
from omatg_ray.errors import ModelError

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = Deferred("torch")

T_MIN, T_MAX = 1e-3, 1.0 - 1e-3


def time_grid(steps: int, power: float = 1.0) -> Tensor:
    """Return `steps` grid points from 0.001 to 0.999, float32: steps − 1 Euler steps.

    Args:
        steps: Number of grid points.
        power: The fraction u of the grid lies at 1 − (1 − u)^power. 1 makes equal steps; a larger power makes them
            smaller towards the crystal, a smaller one at the start.

    Raises:
        ModelError: Fewer than 2 points.
    """
    if steps < 2:
        raise ModelError(f"steps = {steps}: an integration needs at least 2 grid points")
    if power == 1.0:
        return torch.linspace(T_MIN, T_MAX, steps)
    fraction = torch.linspace(0.0, 1.0, steps, dtype=torch.float64)
    return (T_MIN + (T_MAX - T_MIN) * (1.0 - (1.0 - fraction) ** power)).float()
