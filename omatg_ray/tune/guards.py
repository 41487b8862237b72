"""Guards of a sweep: detection of validations that improved by exploiting the reward instead of by better crystals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field

from omatg_ray.settings import Settings
from omatg_ray.train.callback import APART, Callback

HACKED = "hacked"
"""Metric of a validation: 1 if a guard objects, else 0."""
SHARES = ("invalid_share", "unique_share", "match_rate")
"""Metrics of validations that are compared with those of the first one."""


class GuardSettings(Settings):
    """Criteria for a validation to count as that of a policy that exploits its reward."""

    invalid_share: float | None = Field(
        0.1,
        ge=0,
        description="object if the share of invalid crystals exceeds that before training by more than this; null: off",
    )
    diversity: float | None = Field(
        0.5,
        ge=0,
        le=1,
        description="object if the mean distance between crystals of a group (metric `diversity`) is below this share "
        "of that in the first iteration; null: off",
    )
    unique_share: float | None = Field(
        0.5,
        ge=0,
        le=1,
        description="object if the share of unique crystals, when validations measure it (generated species), is "
        "below this share of that before training; null: off",
    )
    match_rate: float | None = Field(
        0.8,
        ge=0,
        le=1,
        description="object if the match rate is below this share of that before training; null: off",
    )
    second_potential: bool = Field(
        True, description="object if reward.second_potential and the rewarded one diverge (docs/rewards.md)"
    )


class Guards(Callback):
    """Checks of the validations of one run, in their order.

    Args:
        settings: What to object to.
        lines: Lines that the run has logged so far, from `read_metrics`; empty for a new run.
        period: Iterations after which grid points and noisy steps repeat; only every such iteration can be compared.

    Attributes:
        reasons: Objections to the last validation.
    """

    def __init__(self, settings: GuardSettings, lines: Sequence[Mapping[str, Any]] = (), period: int = 1) -> None:
        self._settings, self._period = settings, period
        self._first: dict[str, float] = {}
        self._diversity = math.nan
        self.reasons: list[str] = []
        for line in lines:
            if line["kind"] == "validation":
                for name in SHARES:
                    self._keep_first(name, line.get(name))
            else:
                self._keep_first("diversity", line.get("diversity"))

    def _keep_first(self, name: str, value: float | None) -> None:
        if value is not None and math.isfinite(value):
            self._first.setdefault(name, value)

    def iterated(self, iteration: int, metrics: Mapping[str, float]) -> None:
        if (iteration - 1) % self._period:
            return
        self._diversity = metrics.get("diversity", math.nan)
        self._keep_first("diversity", self._diversity)

    def validated(self, iteration: int, metrics: Mapping[str, float]) -> dict[str, float]:
        """Return whether a guard objects (`HACKED`)."""
        allowed, first, self.reasons = self._settings, self._first, []
        for name in SHARES:
            self._keep_first(name, metrics.get(name))
        rise = metrics["invalid_share"] - first["invalid_share"]
        if allowed.invalid_share is not None and rise > allowed.invalid_share:
            self.reasons.append(f"{rise:.1%} more crystals are invalid than before training")
        for name, least, value in (
            ("diversity", allowed.diversity, self._diversity),
            ("unique_share", allowed.unique_share, metrics.get("unique_share")),
            ("match_rate", allowed.match_rate, metrics.get("match_rate")),
        ):
            if least is None or value is None or name not in first:
                continue
            if value < least * first[name]:
                self.reasons.append(f"{name} fell from {first[name]:.3g} to {value:.3g}")
        if allowed.second_potential and metrics.get(APART):
            self.reasons.append("the second potential disagrees")
        return {HACKED: int(bool(self.reasons))}
