"""Tables of cases for terminals, without plotting libraries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import Any

from omatg_ray.evaluate.comparison import Comparison
from omatg_ray.evaluate.metrics import CAPPED, RELAXED, relaxed_label, was_relaxed
from omatg_ray.evaluate.rewards import rewards_cells
from omatg_ray.run.text import LINE, aligned

IN_TERMINALS = {
    "relative_energy_mean_capped": "E capped",
    "relative_energy_median": "E median",
    "invalid_share": "invalid",
    "match_rate": "match rate",
    "metre": "METRe",
    "coverage": "coverage",
    "rmse": "RMSE",
    "crmse": "cRMSE",
    "energy_mean": "energy",
    "unique_structures": "unique",
}
"""Metrics in terminal tables of cases, in order, with their titles."""
WITH_RELAXED = {"match_any": "any", "match_lowest": "lowest"}
"""Further ones where crystals were relaxed, which may change what these say most."""
LEGEND = """\
E: eV/atom over the reference; ±: half of the 95 % interval (bootstrap over compositions); unique: structures per
composition; in domain: references like what the case's model and the potential were trained on; s/1000: seconds for one
process or actor to generate 1,000 crystals"""

RELAXED_LEGEND = """\
relaxed: the line above, after every crystal was relaxed; with the mean number of steps taken; CPU s/sample: processor
seconds to generate and relax a crystal, all threads together"""

REWARDS_LEGEND = "part.value: a value behind that part; ±: half of the 95 % interval (bootstrap over compositions)"


def comparison_table(comparison: Comparison) -> str:
    """Format one line per case, with ± half the 95 % interval and times, and one for its relaxed crystals, if any."""
    measured, relaxed = comparison.columns, any(was_relaxed(result.metrics) for result in comparison.results)
    titles = IN_TERMINALS | (WITH_RELAXED if relaxed else {})
    columns = {key: measured[key] for key in titles if key in measured}
    names, times = comparison.names(), comparison.times()
    lines = [[*names, *(titles[key] for key in columns), "in domain", "n", *times]]
    for row, (result, inside) in enumerate(zip(comparison.results, comparison.in_domain(), strict=True)):
        own_names, spent = ([texts[row] for texts in found.values()] for found in (names, times))
        cells = [plus_minus(result.interval(key), column.form) for key, column in columns.items()]
        lines.append([*own_names, *cells, inside, str(result.metrics["n"]), *spent])
        if was_relaxed(result.metrics):
            cells = [plus_minus(result.interval(f"{RELAXED}{key}"), column.form) for key, column in columns.items()]
            label = [relaxed_label(result.metrics), *[""] * (len(names) - 1)]
            lines.append([*label, *cells, *[""] * (2 + len(times))])
    left = [index for index, name in enumerate(names) if name != "steps"]
    capped = f"\n{fill(CAPPED, LINE)}" if "relative_energy_mean_capped" in columns else ""
    return "\n".join([aligned(lines, left), LEGEND, *([RELAXED_LEGEND] if relaxed else [])]) + capped


def rewards_table(evaluations: Sequence[Mapping[str, Any]], labels: Sequence[str] = ()) -> str:
    """Format the user's own reward for terminals: a line per part and value; empty if it was not measured.

    Args:
        evaluations: As from `Evaluation.as_dict`.
        labels: Their names, if these are not their own labels.
    """
    titles = labels or [str(evaluation["label"]) for evaluation in evaluations]
    cells = rewards_cells(titles, [evaluation.get("rewards") or {} for evaluation in evaluations], plus_minus)
    return f"{aligned(cells, left=[0])}\n{REWARDS_LEGEND}" if cells else ""


def plus_minus(interval: Mapping[str, Any], form: str) -> str:
    """Format a mean with ± half its interval, both as in `interval_dict`, for terminals."""
    mean, low, high = (interval.get(name) for name in ("mean", "low", "high"))
    if mean is None:
        return "-"
    text = form.format(mean)
    return text if low is None or high is None else f"{text} ±{form.format((high - low) / 2).lstrip('+')}"
