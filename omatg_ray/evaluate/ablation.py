"""Results of an ablation of schedules (none, hand-made, learned), for every number of grid points."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from omatg_ray.evaluate.cases import CaseResult
from omatg_ray.evaluate.compositions import ByComposition, Totals
from omatg_ray.evaluate.metrics import Interval
from omatg_ray.evaluate.settings import BEST, ways_of
from omatg_ray.evaluate.tuning import Tuned
from omatg_ray.model.schedule import NONE, brief
from omatg_ray.policy.schedule import LearnedSchedule

SHOWN = ("crmse", "match_rate", "rmse", "relative_energy_mean_capped", "invalid_share")


@dataclass(frozen=True)
class Learned:
    """A learned schedule, in one version per seed.

    Attributes:
        name: Name in tables.
        schedules: One per seed.
    """

    name: str
    schedules: list[LearnedSchedule]

    @property
    def ways(self) -> list[str]:
        """Names of the versions of all seeds."""
        return ways_of(self.name, len(self.schedules))


@dataclass(frozen=True)
class Row:
    """Metrics of one way to anneal at one number of grid points.

    Attributes:
        way: none, best hand-made, or the name of a learned schedule.
        steps: Grid points.
        intervals: Metrics with their intervals.
        less_best: Metrics minus those of the best hand-made schedule at these grid points.
        less_none: Metrics minus those without annealing at the largest number of grid points.
        seeds: Lowest and highest value of each metric over the seeds of a learned schedule.
        text: The chosen schedule, if there was a choice.
        seconds_per_1000: Seconds that one process or actor needs to generate 1,000 crystals.
    """

    way: str
    steps: int
    intervals: dict[str, Interval]
    less_best: dict[str, Interval]
    less_none: dict[str, Interval]
    seeds: dict[str, tuple[float, float]]
    text: str
    seconds_per_1000: float


@dataclass(frozen=True)
class Ablated:
    """Results of an ablation on one set of crystals.

    Attributes:
        results: Results of all schedules at all numbers of grid points.
        tuned: The best hand-made schedule of every kind, by grid points.
        highest: Whether high values of the deciding metric are good.
        learned: Learned schedules.
        report: Path of the report on all cases.
    """

    results: list[CaseResult]
    tuned: dict[int, dict[str, Tuned]]
    highest: bool
    learned: list[Learned]
    report: Path

    @cached_property
    def rows(self) -> list[Row]:
        """Rows without annealing, of the best hand-made schedule and of the learned ones, by grid points."""
        ways = [NONE, *([BEST] if any(self.tuned.values()) else []), *(each.name for each in self.learned)]
        return [self._row(way, steps) for steps in sorted(self.tuned) for way in ways]

    def _row(self, way: str, steps: int) -> Row:
        results = self._results(way, steps)
        values = {key: [result.metrics[key] for result in results] for key in SHOWN}
        return Row(
            way=way,
            steps=steps,
            intervals=self._pool(way, steps).intervals(),
            less_best=self.less(way, steps, BEST, steps) if self.tuned[steps] and way != BEST else {},
            less_none=self.less(way, steps, NONE, max(self.tuned)),
            seeds={key: (min(v), max(v)) for key, v in values.items() if len(v) > 1 and None not in v},
            text=self._describe_best(steps) if way == BEST else "",
            seconds_per_1000=sum(result.seconds_per_1000 for result in results) / len(results),
        )

    def best(self, steps: int) -> tuple[str, Tuned]:
        """Return kind and settings of the hand-made schedule that was best on validation crystals."""
        return best_of(self.tuned[steps], self.highest)

    def _describe_best(self, steps: int) -> str:
        """Describe the best hand-made schedule and how it was chosen."""
        best = self.best(steps)[1]
        notes = [f"tuned at {best.steps}"] if best.steps != steps else []
        notes += [f"largest {key} tried" for key in best.at_border]
        return brief(best.schedule) + (f" ({', '.join(notes)})" if notes else "")

    def less(self, way: str, steps: int, other: str, other_steps: int) -> dict[str, Interval]:
        """Subtract the metrics of another way from those of one, at the same or at other grid points."""
        return self._pool(way, steps).differences(self._pool(other, other_steps))

    def _results(self, way: str, steps: int) -> list[CaseResult]:
        names = {each.name: each.ways for each in self.learned}
        wanted = [self.best(steps)[0]] if way == BEST else names.get(way, [way])
        by_way = {result.way: result for result in self.results if result.steps == steps}
        return [by_way[name] for name in wanted]

    def _pool(self, way: str, steps: int) -> ByComposition:
        return pooled([result.by_composition for result in self._results(way, steps)])


def best_of(kinds: Mapping[str, Tuned], highest: bool) -> tuple[str, Tuned]:
    """Return the kind and the result of the best tuned schedule."""
    return min(kinds.items(), key=lambda item: -item[1].value if highest else item[1].value)


def pooled(several: Sequence[ByComposition]) -> ByComposition:
    """Combine evaluations of the same references into one, with all their rows."""
    first = several[0]
    totals = {
        name: Totals(
            np.sum([each.totals[name].sums for each in several], axis=0),
            np.sum([each.totals[name].counts for each in several], axis=0),
        )
        for name in first.totals
        if all(name in each.totals for each in several)
    }
    # Medians of several evaluations cannot be combined.
    medians = first.medians if len(several) == 1 else [math.nan] * len(first.medians)
    return replace(first, totals=totals, medians=medians)
