"""Tables of cases for terminals, without plotting libraries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import Any

from omatg_ray.evaluate.comparison import Comparison
from omatg_ray.evaluate.metrics import CAPPED
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
LEGEND = """\
E: eV/atom over the reference; ±: half of the 95 % interval (bootstrap over compositions); unique: structures per
composition; in domain: references like what the case's model and the potential were trained on; s/1000: seconds for one
process or actor to generate 1,000 crystals"""

REWARDS_LEGEND = "part.value: a value behind that part; ±: half of the 95 % interval (bootstrap over compositions)"


def comparison_table(comparison: Comparison) -> str:
    """Format one line per case, with ± half the 95 % interval and the time of generation."""
    measured = comparison.columns
    columns = {key: measured[key] for key in IN_TERMINALS if key in measured}
    names = comparison.names()
    lines = [[*names, *(IN_TERMINALS[key] for key in columns), "in domain", "n", "s/1000"]]
    for result, inside, *own_names in zip(comparison.results, comparison.in_domain(), *names.values(), strict=True):
        cells = [plus_minus(result.interval(key), column.form) for key, column in columns.items()]
        lines.append([*own_names, *cells, inside, str(result.metrics["n"]), f"{result.seconds_per_1000:.1f}"])
    left = [index for index, name in enumerate(names) if name != "steps"]
    capped = f"\n{fill(CAPPED, LINE)}" if "relative_energy_mean_capped" in columns else ""
    return f"{aligned(lines, left)}\n{LEGEND}{capped}"


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
