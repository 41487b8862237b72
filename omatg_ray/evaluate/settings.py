"""Settings of evaluations."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field

from omatg_ray.settings import Settings

BLOCK = 256
"""Crystals generated, matched and weighed together, unless the caller says otherwise.

The last bits of sums depend on it, so it does not depend on the number of workers.
"""
BEST = "best hand-made"


class TuningSettings(Settings):
    """Tuning of hand-made schedules."""

    pos: list[float] = Field([0.0, 1.0, 2.0, 5.0, 10.0], min_length=1, description="slopes for positions")
    cell: list[float] = Field([0.0, 1.0, 2.0, 5.0], min_length=1, description="slopes for lattices")
    limits: list[float | None] = Field(
        [None],
        min_length=1,
        description="limits of these, for linear paths: how much of what is left of a path a lengthened step may take",
    )
    power: list[float] = Field([0.5, 0.75, 1.0, 1.5, 2.0], min_length=1, description="powers of unequal steps")
    by: Literal["crmse", "match_rate", "relative_energy_mean_capped"] = Field(
        "crmse", description="metric that decides"
    )
    limit: int | None = Field(128, ge=1, description="validation crystals, spread over the file; null: all")
    most_steps: int = Field(
        100,
        ge=2,
        description="most grid points to tune at; more use the best schedules of the largest tuned number",
    )

    def cost(self, value: float) -> float:
        """Return a value of the metric that decides so that less is better; NaN is worst."""
        return math.inf if math.isnan(value) else -value if self.by == "match_rate" else value


def ways_of(name: str, count: int) -> list[str]:
    """Return the names of the versions of a learned schedule."""
    return [name] if count == 1 else [f"{name} {number}" for number in range(count)]
