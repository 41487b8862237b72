"""Tuning of hand-made schedules, by trying slopes one field after the other."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from omatg_ray.errors import ConfigError
from omatg_ray.evaluate.settings import TriedSettings
from omatg_ray.policy.hand_made import (
    ConstantSchedule,
    CosineSchedule,
    HandMadeSchedule,
    LinearSchedule,
    QuadraticSchedule,
    StepSizes,
)

HandMade = HandMadeSchedule | StepSizes
SLOPED: dict[str, Callable[..., HandMadeSchedule]] = {
    "linear": LinearSchedule,
    "quadratic": QuadraticSchedule,
    "cosine": CosineSchedule,
    "constant": ConstantSchedule,
}


@dataclass(frozen=True)
class Tuned:
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


def tune(
    kind: str,
    tried: TriedSettings,
    steps: int,
    measure: Callable[[Sequence[HandMade]], Sequence[float]],
    highest: bool = False,
) -> Tuned:
    """Try slopes for positions without any for lattices, then for lattices with the best of these, then once more.

    Args:
        kind: linear, quadratic, cosine, constant, or steps, which has a power instead of slopes.
        tried: Values to try.
        steps: Grid points, for the record.
        measure: Returns values of the metric for some schedules; each schedule is measured once.
        highest: Whether high values are good; NaN is worst.

    Raises:
        ConfigError: Nothing was measured.
    """
    results: dict[str, tuple[HandMade, float]] = {}

    def best(schedules: Sequence[HandMade]) -> HandMade:
        new = [schedule for schedule in schedules if schedule.model_dump_json() not in results]
        for schedule, value in zip(new, measure(new) if new else [], strict=True):
            results[schedule.model_dump_json()] = schedule, value

        def badness(schedule: HandMade) -> float:
            value = results[schedule.model_dump_json()][1]
            return math.inf if math.isnan(value) else -value if highest else value

        return min(schedules, key=badness)

    chosen: HandMade
    if kind == "steps":
        chosen = best([StepSizes(power=power) for power in tried.power])
    else:
        sloped, cell = SLOPED[kind], 0.0
        for _ in range(2):
            pos = best([sloped(pos=slope, cell=cell) for slope in tried.pos]).model_dump()["pos"]
            chosen = best([sloped(pos=pos, cell=slope) for slope in tried.cell])
            before, cell = cell, chosen.model_dump()["cell"]
            if cell == before:
                break
    schedule, value = results[chosen.model_dump_json()]
    if math.isnan(value):
        raise ConfigError("tuning.by: that metric was not measured (energies need a potential); choose another one")
    values = schedule.model_dump()
    border = [key for key in ("pos", "cell", "power") if key in values and values[key] == max(getattr(tried, key))]
    return Tuned(schedule, value, steps, list(results.values()), border)
