"""What an ablation of schedules found: without, made by hand, learned; for every number of grid points."""

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
    """A learned schedule, in one version for each seed.

    Attributes:
        name: What tables call it.
        schedules: One for each seed.
    """

    name: str
    schedules: list[LearnedSchedule]

    @property
    def ways(self) -> list[str]:
        """What the version of each seed is called."""
        return ways_of(self.name, len(self.schedules))


@dataclass(frozen=True)
class Row:
    """Metrics of a way to anneal at a number of grid points.

    Attributes:
        way: none, best hand-made, or the name of a learned schedule.
        steps: Grid points.
        intervals: Metrics with their intervals.
        less_best: Metrics less those of the best hand-made schedule at these grid points.
        less_none: Metrics less those without annealing at the most grid points.
        seeds: Lowest and highest value of each metric over the seeds of a learned schedule.
        text: What was chosen, where something was.
        seconds_per_1000: In which one process or actor generates 1,000 crystals.
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
    """Results on one set of crystals.

    Attributes:
        results: Of all schedules at all numbers of grid points.
        tuned: The best hand-made schedule of every kind, by grid points.
        highest: Whether high values of the metric that decided are good.
        learned: Learned ones.
        report: Of all cases.
    """

    results: list[CaseResult]
    tuned: dict[int, dict[str, Tuned]]
    highest: bool
    learned: list[Learned]
    report: Path

    @cached_property
    def rows(self) -> list[Row]:
        """None, the best hand-made and the learned ones, by grid points."""
        ways = [NONE, *([BEST] if any(self.tuned.values()) else []), *(one.name for one in self.learned)]
        return [self._row(way, steps) for steps in sorted(self.tuned) for way in ways]

    def _row(self, way: str, steps: int) -> Row:
        results = self._results(way, steps)
        values = {key: [one.metrics[key] for one in results] for key in SHOWN}
        return Row(
            way=way,
            steps=steps,
            intervals=self._pooled(way, steps).intervals(),
            less_best=self.less(way, steps, BEST, steps) if self.tuned[steps] and way != BEST else {},
            less_none=self.less(way, steps, NONE, max(self.tuned)),
            seeds={key: (min(v), max(v)) for key, v in values.items() if len(v) > 1 and None not in v},
            text=self._chosen(steps) if way == BEST else "",
            seconds_per_1000=sum(one.seconds_per_1000 for one in results) / len(results),
        )

    def best(self, steps: int) -> tuple[str, Tuned]:
        """The hand-made schedule that was best on validation crystals, after its kind."""
        return best_of(self.tuned[steps], self.highest)

    def _chosen(self, steps: int) -> str:
        """The best hand-made schedule, and what is to be known of how it was chosen."""
        best = self.best(steps)[1]
        notes = [f"tuned at {best.steps}"] if best.steps != steps else []
        notes += [f"largest {key} tried" for key in best.at_border]
        return brief(best.schedule) + (f" ({', '.join(notes)})" if notes else "")

    def less(self, way: str, steps: int, other: str, other_steps: int) -> dict[str, Interval]:
        """By how much the metrics of one way are above those of another, at the same or at other grid points."""
        return self._pooled(way, steps).differences(self._pooled(other, other_steps))

    def _results(self, way: str, steps: int) -> list[CaseResult]:
        names = {one.name: one.ways for one in self.learned}
        wanted = [self.best(steps)[0]] if way == BEST else names.get(way, [way])
        found = {one.way: one for one in self.results if one.steps == steps}
        return [found[name] for name in wanted]

    def _pooled(self, way: str, steps: int) -> ByComposition:
        return pooled([one.by_composition for one in self._results(way, steps)])


def best_of(kinds: Mapping[str, Tuned], highest: bool) -> tuple[str, Tuned]:
    """The best of what was tuned, after its kind."""
    return min(kinds.items(), key=lambda item: -item[1].value if highest else item[1].value)


def pooled(several: Sequence[ByComposition]) -> ByComposition:
    """Evaluations of the same references as one, with all their rows."""
    first = several[0]
    totals = {
        name: Totals(
            np.sum([one.totals[name].sums for one in several], axis=0),
            np.sum([one.totals[name].counts for one in several], axis=0),
        )
        for name in first.totals
        if all(name in one.totals for one in several)
    }
    # Of several evaluations there is no one median.
    medians = first.medians if len(several) == 1 else [math.nan] * len(first.medians)
    return replace(first, totals=totals, medians=medians)
