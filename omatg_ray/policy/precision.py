"""Effect of a lower precision of a policy's networks on its actions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.crystal.fields import FieldName, Fields, displace
from omatg_ray.flow.settings import Precision
from omatg_ray.flow.species import draw_jumps
from omatg_ray.policy.drift import of_rows
from omatg_ray.policy.policy import Policy, draw_noise

FAST_ON_CPU = ("avx512_bf16", "amx_bf16")
"""CPU instructions that multiply in bfloat16, as `torch.cpu.get_capabilities` names them. ARM was not measured."""

COMPARED = 10
"""Number of steps of a trajectory that are compared, evenly spaced, including the last."""


@dataclass(frozen=True)
class Shift:
    """Distance by which a precision moves the mean of an action, in units of the action's standard deviation.

    Attributes:
        rms: Root mean square over components and steps. At 0.1, errors add 1 % to the variance of the noise.
        worst: Root mean square over the components of the worst step.
        t: Time of the worst step.
    """

    rms: float
    worst: float
    t: float


def has_bfloat16(device: torch.device) -> bool:
    """Return whether a device is known to multiply matrices faster in bfloat16 than in float32."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return device.type == "cpu" and any(torch.cpu.get_capabilities().get(name) for name in FAST_ON_CPU)


@torch.no_grad()
def shifts(
    policy: Policy, precision: Precision, x_0: CrystalBatch, steps: int, seeds: Sequence[int]
) -> dict[FieldName, Shift]:
    """Return the shifts of the active fields, along trajectories in the policy's own precision.

    Frozen fields and steps without noise are not covered, because they have no standard deviation to compare with.

    Args:
        policy: The policy.
        precision: The precision to check.
        x_0: Initial states of B trajectories.
        steps: Number of grid points.
        seeds: Seeds of the noise (B,).
    """
    other, times = policy.at(precision), policy.times(steps).to(x_0.device)
    noise = draw_noise(x_0, steps, seeds, policy.active, policy.drift.per_structure)
    jumps = None if policy.species is None else draw_jumps(x_0, steps, seeds)
    last = steps - 2
    compared = {round(last * index / (COMPARED - 1)) for index in range(COMPARED)}
    squares: dict[FieldName, dict[float, float]] = {field: {} for field in policy.active}
    state = x_0
    for k, dt in enumerate(times.diff()):
        t = times[k]
        drawn: Fields = {field: values[k] for field, values in noise.items()}
        step_jumps = None if jumps is None else jumps[k]
        exact = policy.step(state, t, dt, drawn, jumps=step_jumps, last=k == last)
        if k in compared:
            coarse = other.step(state, t, dt, drawn, jumps=step_jumps, last=k == last)
            for field in policy.active:
                error = coarse.displacement[field] - exact.displacement[field]
                variance = (policy.noise[field].sigma(t).square() * dt).expand_as(error)
                if field in exact.action:
                    # An action that scales the base's velocity moves the crystal by its noise times that velocity.
                    action = of_rows(exact.action[field], field, state)
                    variance = variance * (exact.displacement[field] / action).square()
                squares[field][float(t)] = float(error.square().sum() / variance.sum())
        state = displace(state, exact.displacement)
        if exact.species is not None:
            state = state.replace(species=exact.species)

    def shift(of_steps: dict[float, float]) -> Shift:
        worst = max(of_steps, key=lambda t: of_steps[t])
        return Shift((sum(of_steps.values()) / len(of_steps)) ** 0.5, of_steps[worst] ** 0.5, worst)

    return {field: shift(of_steps) for field, of_steps in squares.items()}
