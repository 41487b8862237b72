"""The user's own reward in evaluations: its weighted sum, the parts, and the values behind them, row by row.

One quantity has one name, wherever it is reported: `weighted sum`, `<part>`, or `<part>.<value>`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor

from omatg_ray.evaluate.metrics import REWARD
from omatg_ray.reward.protocol import RewardResult
from omatg_ray.rl.scoring import columns

SUM = "weighted sum"
"""Name of the sum; no part can have it, because names of parts have no spaces."""
COLUMN = "reward"
"""Column of the sum among the values of every crystal; the others are `reward.<name>`."""
ELSEWHERE = "valid"
"""Value that every evaluation reports anyway, as `invalid_share`."""


def reward_rows(results: Sequence[RewardResult]) -> dict[str, Tensor]:
    """Return the sum, parts and values of all crystals of some batches by name (n,), NaN where failed or undefined."""
    found = columns([RewardResult(result.reward, {SUM: result.reward, **result.values}) for result in results])
    return {name: rows.where(rows.isfinite(), math.nan) for name, rows in found.items() if name != ELSEWHERE}


def column_of(name: str) -> str:
    """Return the column of a quantity in `per_structure` and in metrics by composition."""
    return COLUMN if name == SUM else f"{COLUMN}.{name}"


def is_column(name: str) -> bool:
    """Return whether a column is that of a quantity."""
    return name == COLUMN or name.startswith(f"{COLUMN}.")


def names_in(found: Iterable[str]) -> list[str]:
    """Return the names of the quantities among columns, in their order."""
    return [SUM if name == COLUMN else name.removeprefix(f"{COLUMN}.") for name in found if is_column(name)]


def metric_of(name: str) -> str:
    """Return the name of a quantity's mean in `metrics.jsonl`, the same for iterations and validations."""
    return REWARD if name == SUM else f"{COLUMN}_{name}_mean"


def rewards_cells(
    labels: Sequence[str], rewards: Sequence[Mapping[str, Mapping[str, Any]]], formatted: Any
) -> list[list[str]]:
    """Return the cells of a table with a line per quantity and a column per evaluation, its head first.

    Args:
        labels: Names of the evaluations.
        rewards: `rewards` of every evaluation, as in `Evaluation.as_dict`.
        formatted: Formats a mean with its interval, given as in `interval_dict`, and a number format.

    Returns:
        Nothing if no evaluation has a reward.
    """
    names = dict.fromkeys(name for one in rewards for name in one)
    rows = [[name, *(formatted(one.get(name) or {}, "{:.3f}") for one in rewards)] for name in names]
    return [["reward", *labels], *rows] if rows else []
