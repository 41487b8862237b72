"""Results of an ablation of schedules (none, hand-made, learned), for every number of grid points."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from omatg_ray.evaluate.cases import CaseResult
from omatg_ray.evaluate.compositions import ByComposition, Totals, interval_dicts
from omatg_ray.evaluate.settings import BEST, TuningSettings
from omatg_ray.evaluate.tuning import Tuned, best_kind
from omatg_ray.model.schedule import NONE, brief

SHOWN = ("crmse", "match_rate", "rmse", "relative_energy_mean_capped", "invalid_share")


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
