"""Changes between two evaluations of the same rows, in words: paired differences, their intervals, verdicts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from omatg_ray.evaluate.metrics import Interval, match_rows, paired_interval
from omatg_ray.reward.matching import MatchSettings

FEWEST = 20
"""Pairs needed for a verdict: a bootstrap of fewer says too little."""


@dataclass(frozen=True)
class Change:
    """The mean of a difference, after minus before.

    Attributes:
        what: Name of the quantity that differs.
        unit: Its unit, with a space before it; may be empty.
        interval: Mean over the pairs and its 95 % interval, from a paired bootstrap.
    """

    what: str
    unit: str
    interval: Interval

    @property
    def verdict(self) -> str:
        """lower, higher or no significant change, depending on whether the interval contains 0."""
        if self.interval.n < FEWEST:
            return f"too few structures ({self.interval.n}) to tell"
        if self.interval.low > 0:
            return "higher"
        return "lower" if self.interval.high < 0 else "no significant change"

    def __str__(self) -> str:
        interval = self.interval
        bounds = "" if interval.n < 2 else f" [{interval.low:+.3f}, {interval.high:+.3f}]"
        return f"{self.what}: {interval.mean:+.3f}{bounds}{self.unit}: {self.verdict}"


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Change]:
    """Return the changes of the capped mean of the relative energy, the match rate and the cRMSE, where measured.

    Args:
        before: An evaluation as returned by `Evaluation.as_dict`.
        after: Another one of the same references from the same seed, so that rows form pairs.

    Returns:
        Nothing if the references differ.
    """
    rows = [evaluation.get("per_structure") or {} for evaluation in (before, after)]
    if rows[0].get("id") != rows[1].get("id"):
        return []
    differences = []
    for what, unit, column, of_matches in (
        ("relative energy, capped mean", " eV/atom", "relative_energy_capped", None),
        ("match rate", "", "rmse", "match_rate"),
        ("cRMSE", "", "rmse", "crmse"),
    ):
        old, new = (_numbers(row.get(column) or []) for row in rows)
        if len(old) and len(old) == len(new):
            if of_matches is not None:
                old, new = (match_rows(matches, MatchSettings().stol)[of_matches] for matches in (old, new))
            interval = paired_interval(new, old)
            if interval.n:
                differences.append(Change(what, unit, interval))
    return differences


def _numbers(values: list[float | None]) -> Tensor:
    return torch.tensor([float("nan") if value is None else value for value in values], dtype=torch.float64)
