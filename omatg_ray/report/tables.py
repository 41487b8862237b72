"""Tables of cases for terminals, without plotting libraries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from omatg_ray.evaluate.comparison import Comparison
from omatg_ray.run.text import aligned

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
    return f"{aligned(lines, left)}\n{LEGEND}"


def plus_minus(interval: Mapping[str, Any], form: str) -> str:
    """Format a mean with ± half its interval, both as in `interval_dict`, for terminals."""
    mean, low, high = (interval.get(name) for name in ("mean", "low", "high"))
    if mean is None:
        return "-"
    text = form.format(mean)
    return text if low is None or high is None else f"{text} ±{form.format((high - low) / 2).lstrip('+')}"
