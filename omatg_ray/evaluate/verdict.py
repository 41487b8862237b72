"""When a change counts as more than chance: one rule for terminals, reports and tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from omatg_ray.run.text import counted

FEWEST = 10
"""Compositions needed for a verdict: a bootstrap over fewer says too little."""
RULE = (
    f"*: a significant change: the interval does not contain 0, and at least {FEWEST} compositions are behind it; "
    "fewer are too few to tell."
)


def significant(change: Mapping[str, Any]) -> bool:
    """Return whether a change, as in `interval_dict`, has an interval without 0 and enough compositions behind it."""
    low, high = change.get("low"), change.get("high")
    enough = (change.get("compositions") or 0) >= FEWEST
    return enough and low is not None and high is not None and (low > 0 or high < 0)


def verdict(change: Mapping[str, Any]) -> str:
    """Say of a change, as in `interval_dict`, that it is higher, lower, not significant, or based on too little."""
    compositions = change.get("compositions") or 0
    if compositions < FEWEST:
        return f"too few to tell ({counted(compositions, 'composition')})"
    if not significant(change):
        return "no significant change"
    return "higher" if change["low"] > 0 else "lower"
