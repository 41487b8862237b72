"""Tuning of hand-made schedules, by trying slopes one field after the other."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from omatg_ray.errors import ConfigError
from omatg_ray.evaluate.settings import TuningSettings
from omatg_ray.model.schedule import KINDS, brief
from omatg_ray.policy.hand_made import HAND_MADE, HandMadeSchedule, StepSizes

HandMade = HandMadeSchedule | StepSizes
MADE: dict[str, Callable[..., HandMade]] = dict(zip(KINDS, HAND_MADE, strict=True))


class Tuned(NamedTuple):
    """The best of the schedules tried.

    Attributes:
        schedule: The best schedule.
        value: Its value of the deciding metric.
        steps: Grid points that it was tried at.
        tried: All schedules tried with their values (NaN where not measured), in order.
        at_border: Keys whose best value is the largest one tried, so that a larger one might be better.
    """

    schedule: HandMade
    value: float
    steps: int
    tried: list[tuple[HandMade, float]]
    at_border: Sequence[str]

    def as_dict(self) -> dict[str, Any]:
        """Return a dictionary for JSON."""
        return {
            "schedule": brief(self.schedule),
            "value": self.value,
            "tuned_at": self.steps,
            "at_border": list(self.at_border),
            "tried": [
                {"schedule": brief(tried), "value": value if math.isfinite(value) else None}
                for tried, value in self.tried
            ],
        }


def tune(
    kind: str, tuning: TuningSettings, steps: int, measure: Callable[[Sequence[HandMade]], Sequence[float]]
) -> Tuned:
    """Try slopes for positions without any for lattices, then for lattices with the best of these, then once more.

    Args:
        kind: linear, quadratic, cosine, constant, or steps, which has a power instead of slopes.
        tuning: Values to try, and the metric that decides.
        steps: Grid points, for the record.
        measure: Returns values of the metric for some schedules, NaN where not measured; each schedule is measured
            once.

    Raises:
        ConfigError: Nothing was measured.
    """
    results: dict[HandMade, float] = {}
    chosen = {"power": 0.0} if kind == "steps" else {"pos": 0.0, "cell": 0.0}
    for key in [*chosen, *chosen]:
        schedules = [MADE[kind](**chosen | {key: value}) for value in getattr(tuning, key)]
        new = [schedule for schedule in schedules if schedule not in results]
        results |= zip(new, measure(new) if new else [], strict=True)
        best = min(schedules, key=lambda schedule: tuning.cost(results[schedule]))
        chosen[key] = getattr(best, key)
    if math.isnan(results[best]):
        raise ConfigError("tuning.by: that metric was not measured (energies need a potential); choose another one")
    border = [key for key, value in chosen.items() if value == max(getattr(tuning, key))]
    return Tuned(best, results[best], steps, list(results.items()), border)


def best_kind(kinds: Mapping[str, Tuned], tuning: TuningSettings) -> str:
    """Return the kind whose best schedule is best."""
    return min(kinds, key=lambda kind: tuning.cost(kinds[kind].value))
