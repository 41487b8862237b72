"""Table of the user's own reward in reports: a line for the sum, each part and each value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from omatg_ray.evaluate.compositions import interval_dicts
from omatg_ray.evaluate.metrics import Interval
from omatg_ray.evaluate.rewards import column_of, rewards_cells
from omatg_ray.evaluate.verdict import RULE
from omatg_ray.report.page import soft, table, with_interval

NOTE = (
    "Means over the generated structures, with 95 % intervals from a bootstrap over whole compositions. A line "
    "`part.value` is a value behind that part. Structures on which a part failed, or has no such value, are left out "
    "of its line."
)


def rewards_of(
    labels: Sequence[str],
    evaluations: Sequence[Mapping[str, Any]],
    differences: Sequence[Mapping[str, Interval]] = (),
) -> str:
    """Return a table of the rewards of evaluations; empty if none has any.

    Args:
        labels: Names of the evaluations.
        evaluations: As from `Evaluation.as_dict`.
        differences: Metrics of every evaluation minus those of the first, to show below their means.
    """
    rewards = [evaluation.get("rewards") or {} for evaluation in evaluations]
    cells = rewards_cells(labels, rewards, with_interval)
    if not cells:
        return ""
    changes = [interval_dicts(one) for one in differences][1:]
    head, rows = cells[0], cells[1:]
    for label, change in zip(labels[1:], changes, strict=False):
        head.append(f"{label}, less the first")
        for row in rows:
            row.append(with_interval(change.get(column_of(row[0]), {}), "{:+.3f}", " *"))
    return table(head, rows, soft(f"{NOTE} {RULE}" if changes else NOTE))
