"""The best hand-made schedule of a kind, found by trying slopes one field after the other."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pydantic import Field

from omatg_ray.policy.annealing import (
    ConstantAnnealing,
    CosineAnnealing,
    HandMadeAnnealing,
    LinearAnnealing,
    QuadraticAnnealing,
    StepSizes,
)
from omatg_ray.settings import Settings

HandMade = HandMadeAnnealing | StepSizes
SLOPED: dict[str, Callable[..., HandMadeAnnealing]] = {
    "linear": LinearAnnealing,
    "quadratic": QuadraticAnnealing,
    "cosine": CosineAnnealing,
    "constant": ConstantAnnealing,
}


class TriedSettings(Settings):
    """What is tried for hand-made schedules."""

    pos: list[float] = Field([0.0, 1.0, 2.0, 5.0, 10.0], min_length=1, description="slopes for positions")
    cell: list[float] = Field([0.0, 1.0, 2.0, 5.0], min_length=1, description="slopes for lattices")
    power: list[float] = Field([0.5, 0.75, 1.0, 1.5, 2.0], min_length=1, description="powers of unequal steps")


@dataclass(frozen=True)
class Tuned:
    """The best of what was tried.

    Attributes:
        schedule: It.
        score: Its score.
        tried: All schedules that were tried with their scores, in order.
    """

    schedule: HandMade
    score: float
    tried: list[tuple[HandMade, float]]


def tune(kind: str, tried: TriedSettings, score: Callable[[HandMade], float]) -> Tuned:
    """Tries slopes for positions without any for lattices, then for lattices with the best of these, then once more.

    Args:
        kind: linear, quadratic, cosine, constant, or steps, which has a power in place of slopes.
        tried: Values to try.
        score: Lower is better; NaN is worst. Asked once for each schedule.
    """
    scores: dict[str, tuple[HandMade, float]] = {}

    def best(schedules: Sequence[HandMade]) -> HandMade:
        for schedule in schedules:
            key = schedule.model_dump_json()
            if key not in scores:
                value = score(schedule)
                scores[key] = schedule, math.inf if math.isnan(value) else value
        return min(schedules, key=lambda schedule: scores[schedule.model_dump_json()][1])

    found: HandMade
    if kind == "steps":
        found = best([StepSizes(power=power) for power in tried.power])
    else:
        sloped, cell = SLOPED[kind], 0.0
        for _ in range(2):
            pos = best([sloped(pos=slope, cell=cell) for slope in tried.pos]).model_dump()["pos"]
            found = best([sloped(pos=pos, cell=slope) for slope in tried.cell])
            before, cell = cell, found.model_dump()["cell"]
            if cell == before:
                break
    return Tuned(*scores[found.model_dump_json()], list(scores.values()))
