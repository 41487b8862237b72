"""The Gaussian step policy: a drift and a noise level per field, and the integration that they define.

With the noise switched off it is the plain Euler sampler of the flow; with no active field it is the base model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.crystal.fields import FIELDS, FieldName, Fields, displace
from omatg_ray.errors import ModelError
from omatg_ray.policy.drift import Drift
from omatg_ray.policy.noise import NoiseSettings
from omatg_ray.seeding import generator

T_MIN, T_MAX = 1e-3, 1.0 - 1e-3


def time_grid(steps: int) -> Tensor:
    """`steps` grid points from 0.001 to 0.999, float32: steps − 1 Euler steps.

    Raises:
        ModelError: Fewer than 2 points.
    """
    if steps < 2:
        raise ModelError(f"steps = {steps}: an integration needs at least 2 grid points")
    return torch.linspace(T_MIN, T_MAX, steps)


def draw_noise(crystals: CrystalBatch, steps: int, seeds: Sequence[int], fields: Sequence[FieldName]) -> Fields:
    """Standard normal numbers for all Euler steps: pos (steps − 1, sum N, 3), cell (steps − 1, B, 3, 3).

    Those of structure i depend on seeds[i], its size and the number of steps alone.
    """
    noise: Fields = {}
    for field in fields:
        shapes = [(n, 3) if field == "pos" else (1, 3, 3) for n in crystals.layout.sizes]
        draws = [
            torch.randn(steps - 1, *shape, generator=generator(seed, "noise", field))
            for seed, shape in zip(seeds, shapes, strict=True)
        ]
        noise[field] = torch.cat(draws, dim=1).to(crystals.device)
    return noise


@dataclass(frozen=True)
class Step:
    """One Euler step. `base_rate` holds the base's drift of active fields where it was asked for."""

    displacement: Fields
    base_rate: Fields


class Policy:
    """Drift, noise and frozen base of a sampler.

    Args:
        drift: Drift of the active fields.
        base: Drift of the frozen fields, and the reference of the KL divergence.
        active: Fields that the policy acts on; the others follow the base without noise.
        noise: σ(t) of the active fields.

    Raises:
        ModelError: An active field has no noise schedule.
    """

    def __init__(
        self,
        drift: Drift,
        base: Drift,
        active: Sequence[FieldName],
        noise: Mapping[FieldName, NoiseSettings],
    ) -> None:
        missing = set(active) - set(noise)
        if missing:
            raise ModelError(f"active fields without a noise schedule: {', '.join(sorted(missing))}")
        self.drift, self.base = drift, base
        self.active = tuple(field for field in FIELDS if field in active)
        self.frozen = tuple(field for field in FIELDS if field not in active)
        self.noise = dict(noise)

    def rates(self, crystals: CrystalBatch, t: Tensor) -> Fields:
        """Drift of the active fields, which training differentiates; t as in `Drift`."""
        return self.drift(crystals, t, self.active)

    def step(self, crystals: CrystalBatch, t: Tensor, dt: Tensor, noise: Fields, with_base: bool = False) -> Step:
        """Displacement of both fields from t to t + dt; a field without an entry in `noise` moves by its mean.

        The base network runs only where a field is frozen or `with_base` asks for its drift of the active fields.
        """
        rates = self.rates(crystals, t) if self.active else {}
        base_fields = FIELDS if with_base else self.frozen
        base = self.base(crystals, t, base_fields) if base_fields else {}
        displacement: Fields = {}
        for field in FIELDS:
            if field in self.frozen:
                displacement[field] = base[field] * dt
                continue
            displacement[field] = rates[field] * dt
            if field in noise:
                displacement[field] = displacement[field] + self.noise[field].sigma(t) * dt.sqrt() * noise[field]
        return Step(displacement, {field: base[field] for field in self.active if field in base})

    @torch.no_grad()
    def integrate(
        self,
        x_0: CrystalBatch,
        times: Tensor,
        noise: Fields | None = None,
        with_base: bool = False,
        on_step: Callable[[Step], None] | None = None,
    ) -> CrystalBatch:
        """Final state of the trajectory from x_0 along a time grid (T,).

        Args:
            noise: Standard normal numbers per field, (T − 1, ...); fields without take no noise.
            with_base: Also evaluate the base's drift of the active fields.
            on_step: Called with every step, in order.
        """
        crystals, times = x_0, times.to(x_0.device, x_0.dtype)
        for k, dt in enumerate(times.diff()):
            step_noise: Fields = {field: values[k] for field, values in (noise or {}).items()}
            step = self.step(crystals, times[k], dt, step_noise, with_base)
            if on_step is not None:
                on_step(step)
            crystals = displace(crystals, step.displacement)
        return crystals
