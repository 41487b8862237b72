"""What evaluating the networks of a policy in a lower precision does to its steps."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.crystal.fields import FieldName, Fields, displace
from omatg_ray.flow.network import Precision
from omatg_ray.policy.policy import Policy, draw_noise


@torch.no_grad()
def shifts(
    policy: Policy, precision: Precision, x_0: CrystalBatch, steps: int, seeds: Sequence[int]
) -> dict[FieldName, float]:
    """How far a precision moves the steps of a policy, in units of what their noise moves them.

    Root mean squares over all components of all steps of the trajectories that start at x_0. 0.1 means that errors add
    1 % to the variance of the noise. Says nothing of frozen fields, which have no noise to compare with.

    Args:
        policy: The policy, whose own precision is the reference.
        precision: The precision to judge.
        x_0: Starts of B trajectories.
        steps: Grid points.
        seeds: Of the noise (B,).
    """
    other, times = policy.at(precision), policy.times(steps).to(x_0.device)
    noise = draw_noise(x_0, steps, seeds, policy.active, policy.drift.per_structure)
    state, moved, noisy = x_0, dict.fromkeys(policy.active, 0.0), dict.fromkeys(policy.active, 0.0)
    for k, dt in enumerate(times.diff()):
        drawn: Fields = {field: values[k] for field, values in noise.items()}
        none: Fields = {field: torch.zeros_like(values) for field, values in drawn.items()}
        exact, coarse, quiet = (
            one.step(state, times[k], dt, added).displacement
            for one, added in ((policy, drawn), (other, drawn), (policy, none))
        )
        for field in policy.active:
            moved[field] += float((coarse[field] - exact[field]).square().sum())
            noisy[field] += float((exact[field] - quiet[field]).square().sum())
        state = displace(state, exact)
    return {field: (moved[field] / noisy[field]) ** 0.5 for field in policy.active}
