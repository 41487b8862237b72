"""Velocity annealing: the velocity of a field is multiplied by 1 + s(t) with a hand-made or learned schedule s.

Source: OMatG (Höllmer et al., 2025) for linear s; OMatG-IRL (arXiv 2602.00424) for learned s.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.crystal.fields import FIELDS, FieldName
from omatg_ray.errors import ModelError
from omatg_ray.flow.interpolant import Linear
from omatg_ray.flow.settings import PathSettings
from omatg_ray.policy.features import STEPS_SHOWN, examples, features_of
from omatg_ray.policy.grid import T_MAX, T_MIN, time_grid
from omatg_ray.policy.hand_made import HandMadeSchedule, StepSizes
from omatg_ray.policy.mlp import at_times, time_mlp, zero_output
from omatg_ray.policy.settings import Curve, LearnedScheduleSettings
from omatg_ray.settings import Settings

CURVE_POINTS = 51


class Schedule(Protocol):
    """s(t) of each field, and the time grid of the integration."""

    @property
    def depends_on_step(self) -> bool:
        """Return whether s depends on the length of the step."""
        ...

    def factor(
        self, field: FieldName, t: Tensor, crystals: CrystalBatch | None = None, dt: Tensor | None = None
    ) -> Tensor:
        """Return 1 + s(t).

        Args:
            field: Field.
            t: One time for all structures (), one for each (B,), or any shape if s depends on time alone.
            crystals: Structures, if s depends on them.
            dt: Length of the step at t, shaped as t or (), if s depends on it.
        """
        ...

    def times(self, steps: int) -> Tensor:
        """Return the grid (steps,) of an integration, float32."""
        ...


class LearnedSchedule(nn.Module):
    """s(t) of some fields, from networks of time and features; zero before training.

    Args:
        settings: Size, fields and features.
    """

    def __init__(self, settings: LearnedScheduleSettings) -> None:
        super().__init__()
        fields, inputs = settings.fields, 1 + len(settings.features)
        outputs = settings.hidden if settings.shared else 1
        if settings.shared:
            self.trunk = time_mlp(settings.hidden, settings.layers, outputs, inputs)
            self.heads = nn.ModuleDict({field: nn.Linear(outputs, 1) for field in fields})
        else:
            heads = {str(field): time_mlp(settings.hidden, settings.layers, inputs=inputs) for field in fields}
            self.heads = nn.ModuleDict(heads)
        self.settings = settings
        for head in self.heads.values():
            zero_output(head if settings.shared else head[-1])  # type: ignore[index]

    @property
    def depends_on_step(self) -> bool:
        """Return whether s depends on the length of the step."""
        return "steps" in self.settings.features

    def value_with(self, field: FieldName, t: Tensor, features: Tensor) -> Tensor:
        """Return s(t) (n,) at times (n,) with features (n, F)."""
        if field not in self.heads:
            return torch.zeros_like(t)
        return self._network(field)(torch.cat([t[..., None], features], dim=-1))[..., 0]

    def _network(self, field: FieldName) -> nn.Module:
        head = self.heads[field]
        return nn.Sequential(self.trunk, head) if self.settings.shared else head

    def factor(
        self, field: FieldName, t: Tensor, crystals: CrystalBatch | None = None, dt: Tensor | None = None
    ) -> Tensor:
        """Return 1 + s(t); the arguments are those of `Schedule.factor`.

        Raises:
            ModelError: s depends on crystals or on the step's length, but these are not given.
        """
        if field not in self.heads:
            return torch.ones_like(t)
        if not self.settings.features:
            return 1.0 + at_times(self._network(field), t)
        features = features_of(self.settings.features, t, crystals, dt)
        return 1.0 + self.value_with(field, t.expand(features.shape[:-1]), features)

    def times(self, steps: int) -> Tensor:
        """Return a grid of equal steps."""
        return time_grid(steps)


def describe(schedule: Schedule | None) -> dict[str, Any] | None:
    """Describe a schedule in JSON types; two descriptions are equal only if the schedules are.

    Learned weights enter as a checksum. All schedules that leave velocity and grid unchanged share one description.
    """
    if schedule is None:
        return None
    if isinstance(schedule, HandMadeSchedule) and schedule.pos == schedule.cell == 0.0:
        return {"kind": "none"}
    if isinstance(schedule, StepSizes) and schedule.power == 1.0:
        return {"kind": "none"}
    if isinstance(schedule, LearnedSchedule):
        digest = hashlib.sha256()
        for name, value in sorted(schedule.state_dict().items()):
            digest.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
        return schedule.settings.model_dump(mode="json") | {"weights_sha256": digest.hexdigest()}
    assert isinstance(schedule, Settings)
    return schedule.model_dump(mode="json")


def require_straight_paths(schedule: Schedule | None, paths: PathSettings) -> None:
    """Refuse a schedule with a limit if a field that it makes faster has a path for which the limit means nothing.

    Raises:
        ModelError: That path is not linear, or has γ; names it.
    """
    if not isinstance(schedule, HandMadeSchedule) or schedule.limit is None:
        return
    for field in FIELDS:
        path = paths.of(field)
        if getattr(schedule, field) > 0 and not (isinstance(path, Linear) and path.gamma is None):
            raise ModelError(
                "the limit of a schedule needs linear paths without gamma, of which 1 - t is left at time t; that of "
                f"{field} is {path.kind}{'' if path.gamma is None else ' with gamma'}. Leave out `limit`"
            )


@torch.no_grad()
def curves(schedule: Schedule, grids: Sequence[int] = STEPS_SHOWN) -> list[Curve]:
    """Return 1 + s(t) for pictures and files: several curves if s depends on more than time.

    Args:
        schedule: Schedule; a learned one with features gives curves of some examples.
        grids: Numbers of grid points to show if a hand-made one depends on the length of the steps.
    """
    t = torch.linspace(T_MIN, T_MAX, CURVE_POINTS)

    def curve(of: str, factors: dict[FieldName, Tensor]) -> Curve:
        return Curve(of=of, t=t.tolist(), **{field: factor.tolist() for field, factor in factors.items()})

    if isinstance(schedule, LearnedSchedule):
        t = t.to(next(schedule.parameters()))
        if schedule.settings.features:
            rows = {of: torch.tensor(row).to(t).expand(len(t), -1) for of, row in examples(schedule.settings.features)}
            return [
                curve(of, {field: 1.0 + schedule.value_with(field, t, row) for field in FIELDS})
                for of, row in rows.items()
            ]
    if not schedule.depends_on_step:
        return [curve("", {field: schedule.factor(field, t) for field in FIELDS})]
    steps = {n: schedule.times(n).diff()[0] for n in grids}
    return [
        curve(f"{n} steps", {field: schedule.factor(field, t, None, dt) for field in FIELDS}) for n, dt in steps.items()
    ]
