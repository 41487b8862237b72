"""Changes between two evaluations of the same rows, in words: paired differences, their intervals, verdicts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from omatg_ray.evaluate.compositions import ByComposition, interval_dict
from omatg_ray.evaluate.metrics import Interval, match_rows
from omatg_ray.evaluate.rewards import column_of, is_column, names_in
from omatg_ray.evaluate.verdict import verdict
from omatg_ray.reward.matching import MatchSettings


@dataclass(frozen=True)
class Change:
    """The mean of a difference, after minus before.

    Attributes:
        what: Name of the quantity that differs.
        unit: Its unit, with a space before it; may be empty.
        interval: Difference of the means and its 95 % interval, from a paired bootstrap over compositions.
    """

    what: str
    unit: str
    interval: Interval

    @property
    def verdict(self) -> str:
        """lower, higher, no significant change, or too few to tell (`evaluate.verdict`)."""
        return verdict(interval_dict(self.interval))

    def __str__(self) -> str:
        interval = self.interval
        bounds = "" if math.isnan(interval.low) else f" [{interval.low:+.3f}, {interval.high:+.3f}]"
        return f"{self.what}: {interval.mean:+.3f}{bounds}{self.unit}: {self.verdict}"


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Change]:
    """Return the changes of the capped mean of the relative energy, the match rate, the cRMSE and the user's reward.

    What was not measured is left out. Rows without a value on one side are left out of the first three, as no pairs.
    Rewards are compared as they stand in tables: the difference of two means.

    Args:
        before: An evaluation as returned by `Evaluation.as_dict`.
        after: Another one of the same references from the same seed, so that rows form pairs.

    Returns:
        Nothing if the references differ.
    """
    rows = [evaluation.get("per_structure") or {} for evaluation in (before, after)]
    if rows[0].get("id") != rows[1].get("id"):
        return []
    compositions = _compositions(rows[0])
    found: dict[str, tuple[str, str, tuple[Tensor, Tensor]]] = {}
    for name, what, unit, column in (
        ("energy", "relative energy, capped mean", " eV/atom", "relative_energy_capped"),
        ("match_rate", "match rate", "", "rmse"),
        ("crmse", "cRMSE", "", "rmse"),
        *((column_of(name), f"reward, {name}", "", column_of(name)) for name in names_in(rows[0])),
    ):
        old, new = (_numbers(row.get(column) or []) for row in rows)
        if len(old) == len(new) == len(compositions) > 0:
            if column == "rmse":
                old, new = (match_rows(matches, MatchSettings().stol)[name] for matches in (old, new))
            if not is_column(column):
                unpaired = old.isnan() | new.isnan()
                old, new = (values.masked_fill(unpaired, math.nan) for values in (old, new))
            found[name] = (what, unit, (old, new))
    by_composition = ByComposition.of(compositions)
    old_means, new_means = (
        by_composition.with_rows({name: pair[side] for name, (_, _, pair) in found.items()}) for side in (0, 1)
    )
    intervals = new_means.differences(old_means)
    return [Change(found[name][0], found[name][1], interval) for name, interval in intervals.items() if interval.n]


def _compositions(rows: Mapping[str, Any]) -> list[str]:
    """Return the composition of every row. Evaluations of earlier versions have formulas of cells instead, or none."""
    return [str(one) for one in rows.get("composition") or rows.get("formula") or rows.get("id") or ()]


def _numbers(values: list[float | None]) -> Tensor:
    return torch.tensor([math.nan if value is None else value for value in values], dtype=torch.float64)
