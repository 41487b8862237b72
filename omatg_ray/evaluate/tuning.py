"""The best hand-made schedule of a kind, found by trying slopes one field after the other."""

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
    """The best of what was tried.

    Attributes:
        schedule: It.
        value: Of the metric that decided.
        steps: Grid points that it was tried at.
        tried: All schedules that were tried with their values (NaN where not measured), in order.
        at_border: Keys whose best value is the largest that was tried, so that a larger one might be better.
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
    """Tries slopes for positions without any for lattices, then for lattices with the best of these, then once more.

    Args:
        kind: linear, quadratic, cosine, constant, or steps, which has a power in place of slopes.
        tried: Values to try.
        steps: Grid points, for the record.
        measure: Values of the metric of some schedules; each schedule is asked for once.
        highest: Whether high values are good; NaN is worst.

    Raises:
        ConfigError: Nothing was measured.
    """
    found: dict[str, tuple[HandMade, float]] = {}

    def best(schedules: Sequence[HandMade]) -> HandMade:
        new = [one for one in schedules if one.model_dump_json() not in found]
        for one, value in zip(new, measure(new) if new else [], strict=True):
            found[one.model_dump_json()] = one, value

        def badness(one: HandMade) -> float:
            value = found[one.model_dump_json()][1]
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
    schedule, value = found[chosen.model_dump_json()]
    if math.isnan(value):
        raise ConfigError("tuning.by: that metric was not measured (energies need a potential); name another one")
    values = schedule.model_dump()
    border = [key for key in ("pos", "cell", "power") if key in values and values[key] == max(getattr(tried, key))]
    return Tuned(schedule, value, steps, list(found.values()), border)
