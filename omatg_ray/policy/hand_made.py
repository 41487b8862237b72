"""Hand-made annealing: slopes of velocities, or steps of unequal sizes; one class per kind."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from omatg_ray.deferred import Deferred
from omatg_ray.errors import ModelError
from omatg_ray.policy.grid import time_grid
from omatg_ray.settings import FieldName, Settings

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from omatg_ray.crystal.batch import CrystalBatch
else:
    torch = Deferred("torch")


class HandMadeSchedule(Settings):
    """s(t) = slope · shape(t) for each field, with a shape that is 1 at t = 1.

    What is left of a linear path at time t takes 1 − t. A step dt that (1 + s) makes longer than that passes the
    crystal it leads to, which `limit` prevents: 1 + s is at most limit · (1 − t) / dt, and at least 1.
    """

    kind: str
    pos: float = Field(0.0, ge=-1.0, description="s at t = 1 for positions")
    cell: float = Field(0.0, ge=-1.0, description="s at t = 1 for lattices")
    limit: float | None = Field(
        None,
        gt=0,
        le=1,
        # Omitted when null, as in files written before this key existed.
        exclude_if=lambda limit: limit is None,
        description="largest share of what is left of a linear path that a lengthened step may take, so that few steps "
        "do not overshoot; null: no limit, as in OMatG",
    )

    @property
    def depends_on_step(self) -> bool:
        """Return whether s depends on the length of the step."""
        return self.limit is not None

    @abstractmethod
    def shape(self, t: Tensor) -> Tensor:
        """Return the shape of s at times t; it is 1 at t = 1."""

    def factor(
        self, field: FieldName, t: Tensor, crystals: CrystalBatch | None = None, dt: Tensor | None = None
    ) -> Tensor:
        """Return 1 + s(t) at times t (any shape).

        Raises:
            ModelError: There is a limit, but dt is not given.
        """
        factor = 1.0 + getattr(self, field) * self.shape(t)
        if self.limit is None:
            return factor
        if dt is None:
            raise ModelError("the schedule depends on the length of the steps, so it needs Euler steps")
        most = (self.limit * (1.0 - t) / dt.to(t)).clamp_min(1.0)
        return torch.minimum(factor, most)

    def times(self, steps: int) -> Tensor:
        """Return a grid of equal steps."""
        return time_grid(steps)


class LinearSchedule(HandMadeSchedule):
    """s(t) = slope · t for each field. On MP-20, slopes near 10 (positions) and 1.8 (lattices) are known to help."""

    kind: Literal["linear"] = "linear"

    def shape(self, t: Tensor) -> Tensor:
        return t


class QuadraticSchedule(HandMadeSchedule):
    """s(t) = slope · t²."""

    kind: Literal["quadratic"] = "quadratic"

    def shape(self, t: Tensor) -> Tensor:
        return t.square()


class CosineSchedule(HandMadeSchedule):
    """s(t) = slope · (1 − cos π t) / 2."""

    kind: Literal["cosine"] = "cosine"

    def shape(self, t: Tensor) -> Tensor:
        return 0.5 * (1.0 - torch.cos(math.pi * t))


class ConstantSchedule(HandMadeSchedule):
    """s(t) = slope at all times."""

    kind: Literal["constant"] = "constant"

    def shape(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)


class StepSizes(Settings):
    """s = 0 on a grid of unequal steps: a schedule of step sizes instead of a scale of velocities."""

    kind: Literal["steps"] = "steps"
    power: float = Field(1.0, gt=0, description="exponent of `time_grid`; above 1: smaller steps near the crystal")

    depends_on_step: ClassVar[bool] = False

    def factor(
        self, field: FieldName, t: Tensor, crystals: CrystalBatch | None = None, dt: Tensor | None = None
    ) -> Tensor:
        """Return 1 at times t (any shape)."""
        return torch.ones_like(t)

    def times(self, steps: int) -> Tensor:
        """Return a grid whose steps grow or shrink with the power."""
        return time_grid(steps, self.power)


HAND_MADE = (LinearSchedule, QuadraticSchedule, CosineSchedule, ConstantSchedule, StepSizes)
