"""Solution of the noise-free flow as an ordinary differential equation, by torchdiffeq, for both fields together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.crystal.fields import Fields
from omatg_ray.crystal.lattice import wrap
from omatg_ray.errors import ModelError

FixedStepMethod = Literal[
    "euler", "midpoint", "heun2", "heun3", "rk4", "explicit_adams", "implicit_adams", "fixed_adams"
]
AdaptiveMethod = Literal["dopri5", "dopri8", "bosh3", "fehlberg2", "adaptive_heun", "scipy_solver"]
Method = FixedStepMethod | AdaptiveMethod
METHODS: tuple[str, ...] = get_args(FixedStepMethod) + get_args(AdaptiveMethod)
Velocity = Callable[[CrystalBatch, Tensor], Fields]
"""d pos/dt (sum N, 3) and d cell/dt (B, 3, 3) of crystals with wrapped positions, at one time ()."""


@torch.no_grad()
def solve(
    velocity: Velocity,
    x_0: CrystalBatch,
    times: Tensor,
    method: Method = "dopri5",
    rtol: float = 1e-5,
    atol: float = 1e-5,
) -> CrystalBatch:
    """Return the state at times[-1] of the flow that is in x_0 at times[0].

    Positions are not wrapped inside the solver; those passed to `velocity` and those of the result are.

    Args:
        velocity: Right-hand side.
        x_0: State at times[0].
        times: Grid (T,), increasing. Fixed-step methods step from point to point; adaptive ones use only its ends.
        method: Name of a solver of torchdiffeq (`scipy_solver` is SciPy's LSODA, on the CPU).
        rtol: Relative tolerance of adaptive methods.
        atol: Absolute tolerance, in fractional units and Å. An adaptive step must meet both in every component of every
            structure. The whole batch takes the same step, so a structure depends on the others within the tolerances.

    Raises:
        ModelError: The method is unknown, the grid has fewer than two points, or the tolerances cannot be met.
    """
    from torchdiffeq import odeint  # type: ignore[import-untyped]

    if method not in METHODS:
        raise ModelError(f"unknown ODE method {method!r}; one of {', '.join(METHODS)}")
    if len(times) < 2:
        raise ModelError(f"{len(times)} times: an integration needs at least 2 grid points")
    times = times.to(x_0.device, x_0.dtype)

    def right_hand_side(t: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        pos, cell = state
        rates = velocity(x_0.replace(wrap(pos), cell), t)
        return rates["pos"], rates["cell"]

    options: dict[str, Any] = {} if method == "scipy_solver" else {"norm": _largest}
    if method in get_args(FixedStepMethod):
        # Step along the grid without storing the states in between.
        options = {"grid_constructor": lambda function, state, ends: times}
    try:
        pos, cell = odeint(
            right_hand_side, (x_0.pos, x_0.cell), times[[0, -1]], rtol=rtol, atol=atol, method=method, options=options
        )
    except AssertionError as error:
        raise ModelError(
            f"the ODE solver {method} gave up at rtol={rtol:g}, atol={atol:g} ({error}); "
            "use larger tolerances or a fixed-step method such as midpoint"
        ) from error
    return x_0.replace(wrap(pos[-1]), cell[-1])


def _largest(error: tuple[Tensor, Tensor]) -> Tensor:
    """Return the largest component; a mean would hide one structure among many."""
    return torch.stack([part.abs().max() for part in error]).max()
