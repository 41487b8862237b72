"""What an ablation of schedules found: without, made by hand, learned; for every number of grid points."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from html import escape
from pathlib import Path
from typing import Any, Final

import numpy as np

from omatg_ray.evaluate.cases import CaseResult
from omatg_ray.evaluate.comparison import plus_minus
from omatg_ray.evaluate.compositions import ByComposition, Totals, interval_dict
from omatg_ray.evaluate.metrics import COLUMNS, Interval
from omatg_ray.evaluate.page import card, formatted, html_table, page
from omatg_ray.evaluate.plots import Point, banded_lines
from omatg_ray.evaluate.schedules import draw_schedules
from omatg_ray.evaluate.settings import BEST, ways_of
from omatg_ray.evaluate.text import aligned
from omatg_ray.evaluate.tuning import Tuned
from omatg_ray.policy.annealing import LearnedAnnealing, curves
from omatg_ray.run.atomic import write_json, write_text
from omatg_ray.schedule import NONE, brief

FORMAT: Final = "omatg_ray.ablation.1"
JSON, REPORT = "ablation.json", "report.html"
SHOWN = ("crmse", "match_rate", "rmse", "relative_energy_mean_capped", "invalid_share")
YLABELS = ("cRMSE", "match rate", "RMSE of what matches", "relative energy, capped mean (eV/atom)", "invalid share")
NOTE = (
    "Best hand-made: of all kinds and slopes the one that was best on validation crystals, at this number of grid "
    "points unless it says another. Learned: where there are several seeds, the mean over these, with the lowest and "
    "highest. In brackets: 95 % intervals, from a bootstrap that draws whole compositions, for the seeds that there "
    "are; those of differences draw the same for both."
)


@dataclass(frozen=True)
class Learned:
    """A learned schedule, in one version for each seed.

    Attributes:
        name: What tables call it.
        schedules: One for each seed.
    """

    name: str
    schedules: list[LearnedAnnealing]

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


def write_ablation(folder: Path, sets: Mapping[str, Ablated], by: str) -> Path:
    """Writes `ablation.json` and `report.html`.

    Args:
        folder: Where.
        sets: Results by the names of the sets.
        by: Metric that hand-made schedules were tuned by.

    Returns:
        The path of the report.
    """
    write_json(folder / JSON, {"format": FORMAT, "tuned_by": by, "sets": {n: _as_dict(one) for n, one in sets.items()}})
    sections = [(escape(name), _section(one, folder)) for name, one in sets.items()]
    summary = f'<p class="soft">Hand-made schedules tuned by {escape(by)} on validation crystals. {escape(NOTE)}</p>'
    write_text(folder / REPORT, page(folder.resolve().name, summary, sections))
    return folder / REPORT


def _as_dict(one: Ablated) -> dict[str, Any]:
    return {
        "rows": [
            {
                "way": row.way,
                "steps": row.steps,
                "schedule": row.text,
                "metrics": {name: interval_dict(found) for name, found in row.intervals.items()},
                "less_best_hand_made": {name: interval_dict(found) for name, found in row.less_best.items()},
                "less_none_at_most_steps": {name: interval_dict(found) for name, found in row.less_none.items()},
                "seeds": {name: list(limits) for name, limits in row.seeds.items()},
                "generation_seconds_per_1000": row.seconds_per_1000,
            }
            for row in one.rows
        ],
        "tuned": [
            {
                "steps": steps,
                "kind": kind,
                "schedule": brief(best.schedule),
                "value": best.value,
                "tuned_at": best.steps,
                "at_border": list(best.at_border),
                "tried": [{"schedule": brief(tried), "value": _finite(value)} for tried, value in best.tried],
            }
            for steps, kinds in one.tuned.items()
            for kind, best in kinds.items()
        ],
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def ablation_table(one: Ablated) -> str:
    """One line for each way and number of grid points, with half the width of 95 % intervals, for terminals."""
    keys = [key for key in SHOWN if any(key in row.intervals for row in one.rows)]
    lines = [["steps", "schedule", *(COLUMNS[key].short for key in keys), "s/1000"]]
    for row in one.rows:
        way = f"{row.way} ({row.text})" if row.text else row.way
        cells = [plus_minus(interval_dict(row.intervals[key]), COLUMNS[key].form) for key in keys]
        lines.append([str(row.steps), way, *cells, f"{row.seconds_per_1000:.1f}"])
    return aligned(lines, left=[1])


def _section(one: Ablated, folder: Path) -> str:
    pictures = []
    for key, label in zip(SHOWN, YLABELS, strict=True):
        lines: dict[str, list[Point]] = {}
        for row in one.rows:
            if (found := row.intervals.get(key)) is not None:
                lines.setdefault(row.way, []).append(Point(row.steps, found.mean, found.low, found.high))
        figure = banded_lines(lines, "grid points", label, key == "invalid_share", log=True)
        if figure is not None:
            pictures.append(card("", figure))
    learned = {way: curves(s) for of in one.learned for way, s in zip(of.ways, of.schedules, strict=True)}
    drawn = card("", draw_schedules(learned), "Learned schedules; dotted: 1 + slope t.") if learned else ""
    link = escape(one.report.relative_to(folder).as_posix())
    return (
        f'{_table(one)}<div class="grid">{"".join(pictures)}</div>{drawn}{_tuned_table(one)}'
        f'<p class="soft"><a href="{link}">All cases</a></p>'
    )


def _table(one: Ablated) -> str:
    keys = [key for key in SHOWN if any(key in row.intervals for row in one.rows)]
    less = ["cRMSE less best hand-made", f"cRMSE less none at {max(one.tuned)}"]
    head = ["steps", "schedule", *(COLUMNS[key].title for key in keys), *less, "s/1000"]
    rows = []
    for row in one.rows:
        cells = [_cell(row.intervals.get(key), COLUMNS[key].form, row.seeds.get(key)) for key in keys]
        cells += [_cell(found.get("crmse"), "{:+.3f}") for found in (row.less_best, row.less_none)]
        way = f"{row.way}\n{row.text}" if row.text else row.way
        rows.append([str(row.steps), way, *cells, f"{row.seconds_per_1000:.1f}"])
    return f'<div class="wide">{html_table(head, rows)}</div>'


def _cell(found: Interval | None, form: str, seeds: tuple[float, float] | None = None) -> str:
    if found is None or math.isnan(found.mean):
        return "–"
    lines = [formatted(found.mean, form)]
    if not math.isnan(found.low):
        lines.append(f"[{formatted(found.low, form)}, {formatted(found.high, form)}]")
    if seeds is not None:
        lines.append(f"seeds {formatted(seeds[0], form)} to {formatted(seeds[1], form)}")
    return "\n".join(lines)


def _tuned_table(one: Ablated) -> str:
    rows = [
        [str(steps), str(best.steps), kind, brief(best.schedule), f"{best.value:.4f}", str(len(best.tried))]
        for steps, kinds in sorted(one.tuned.items())
        for kind, best in kinds.items()
    ]
    table = html_table(["steps", "tuned at", "kind", "best on validation crystals", "value", "tried"], rows)
    return f'<details class="wide"><summary>Tuned by hand</summary>{table}</details>' if rows else ""
