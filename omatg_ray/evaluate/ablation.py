"""Ablations of schedules (none, hand-made, learned): tuning of hand-made ones, and results."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from omatg_ray.errors import ConfigError
from omatg_ray.evaluate.cases import CaseResult
from omatg_ray.evaluate.compositions import ByComposition, Totals, interval_dicts
from omatg_ray.evaluate.settings import BEST, TuningSettings
from omatg_ray.model.schedule import KINDS, NONE, brief
from omatg_ray.policy.hand_made import HAND_MADE, HandMadeSchedule, StepSizes

SHOWN = ("crmse", "match_rate", "rmse", "relative_energy_mean_capped", "invalid_share")

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
    slopes: dict[str, Sequence[float | None]] = {"pos": tuning.pos, "cell": tuning.cell, "limit": tuning.limits}
    tried = {"power": tuning.power} if kind == "steps" else slopes
    chosen = {key: values[0] if key == "limit" else 0.0 for key, values in tried.items()}
    for key in [*chosen, *chosen]:
        schedules = [MADE[kind](**chosen | {key: value}) for value in tried[key]]
        new = [schedule for schedule in schedules if schedule not in results]
        results |= zip(new, measure(new) if new else [], strict=True)
        best = min(schedules, key=lambda schedule: tuning.cost(results[schedule]))
        chosen[key] = getattr(best, key)
    if math.isnan(results[best]):
        raise ConfigError("tuning.by: that metric was not measured (energies need a potential); choose another one")
    border = [key for key, value in chosen.items() if key != "limit" and value == max(tried[key])]  # type: ignore[type-var]
    return Tuned(best, results[best], steps, list(results.items()), border)


def best_kind(kinds: Mapping[str, Tuned], tuning: TuningSettings) -> str:
    """Return the kind whose best schedule is best."""
    return min(kinds, key=lambda kind: tuning.cost(kinds[kind].value))


def summarize(
    results: Sequence[CaseResult],
    tuned: Mapping[int, Mapping[str, Tuned]],
    learned: Mapping[str, Iterable[str]],
    tuning: TuningSettings,
) -> dict[str, Any]:
    """Sum up an ablation on one set of crystals as a dictionary for JSON; intervals are as in `interval_dict`.

    Args:
        results: Results of all schedules at all numbers of grid points.
        tuned: The best hand-made schedule of every kind, by grid points.
        learned: Names of the versions, one per seed, of each learned schedule.
        tuning: Says which hand-made schedule is best.

    Returns:
        `rows`, without annealing, of the best hand-made schedule and of the learned ones, by grid points: the way to
        anneal, grid points (`steps`), the chosen schedule if there was a choice, `metrics` with their intervals, the
        same minus those of the best hand-made schedule at these grid points and minus those without annealing at the
        largest number of grid points, the lowest and highest value of each metric over the `seeds` of a learned
        schedule, and the seconds that one process or actor needs to generate 1,000 crystals. `tuned`: the best of every
        kind, and all that were tried.
    """
    found = {(result.way, result.steps): result for result in results}
    best = {steps: best_kind(kinds, tuning) for steps, kinds in tuned.items() if kinds}
    members: dict[tuple[str, int], list[CaseResult]] = {}
    for steps in sorted(tuned):
        hand_made = {BEST: [best[steps]]} if best else {}
        for way, names in ({NONE: [NONE]} | hand_made | dict(learned)).items():
            members[way, steps] = [found[name, steps] for name in names]
    pools = {key: _pool([result.by_composition for result in group]) for key, group in members.items()}
    rows = []
    for (way, steps), group in members.items():
        pool, best_pool = pools[way, steps], pools.get((BEST, steps))
        less_best = {} if way == BEST or best_pool is None else pool.differences(best_pool)
        values = {key: [result.metrics[key] for result in group] for key in SHOWN}
        rows.append(
            {
                "way": way,
                "steps": steps,
                "schedule": _describe(tuned[steps][best[steps]], steps) if way == BEST else "",
                "metrics": interval_dicts(pool.intervals()),
                "less_best_hand_made": interval_dicts(less_best),
                "less_none_at_most_steps": interval_dicts(pool.differences(pools[NONE, max(tuned)])),
                "seeds": {key: [min(v), max(v)] for key, v in values.items() if len(v) > 1 and None not in v},
                "generation_seconds_per_1000": sum(result.seconds_per_1000 for result in group) / len(group),
            }
        )
    chosen = [(steps, kind, one) for steps, kinds in tuned.items() for kind, one in kinds.items()]
    return {"rows": rows, "tuned": [{"steps": steps, "kind": kind, **one.as_dict()} for steps, kind, one in chosen]}


def _describe(best: Tuned, steps: int) -> str:
    """Describe the best hand-made schedule and how it was chosen."""
    notes = [f"tuned at {best.steps}"] if best.steps != steps else []
    notes += [f"largest {key} tried" for key in best.at_border]
    return brief(best.schedule) + (f" ({', '.join(notes)})" if notes else "")


def _pool(several: Sequence[ByComposition]) -> ByComposition:
    """Combine the means of several evaluations of the same references into one, with all their rows."""
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
    return ByComposition(first.names, first.place, totals, [math.nan] * len(first.names))
