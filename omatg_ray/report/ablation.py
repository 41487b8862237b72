"""The report of an ablation of schedules, and its table for terminals."""

from __future__ import annotations

import math
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any, Final

from omatg_ray.evaluate.ablation import SHOWN, Ablated
from omatg_ray.evaluate.compositions import interval_dict
from omatg_ray.evaluate.metrics import COLUMNS, Interval
from omatg_ray.model.schedule import brief
from omatg_ray.policy.schedule import curves
from omatg_ray.report.page import card, formatted, html_table, page
from omatg_ray.report.plots import Point, banded_lines
from omatg_ray.report.schedules import draw_schedules
from omatg_ray.report.tables import plus_minus
from omatg_ray.run.atomic import write_json, write_text
from omatg_ray.run.text import aligned

FORMAT: Final = "omatg_ray.ablation.1"


JSON, REPORT = "ablation.json", "report.html"


YLABELS = ("cRMSE", "match rate", "RMSE of what matches", "relative energy, capped mean (eV/atom)", "invalid share")


NOTE = (
    "Best hand-made: of all kinds and slopes the one that was best on validation crystals, at this number of grid "
    "points unless it says another. Learned: where there are several seeds, the mean over these, with the lowest and "
    "highest. In brackets: 95 % intervals, from a bootstrap that draws whole compositions, for the seeds that there "
    "are; those of differences draw the same for both."
)


def write_ablation(folder: Path, sets: Mapping[str, Ablated], by: str) -> Path:
    """Writes `ablation.json` and `report.html`.

    Args:
        folder: Where.
        sets: Results by the names of the sets.
        by: Metric that hand-made schedules were tuned by.

    Returns:
        The path of the report.
    """
    write_json(folder / JSON, {"format": FORMAT, "tuned_by": by, "sets": {n: _as_dict(one) for n, one in sets.items()}})
    sections = [(escape(name), _section(one, folder)) for name, one in sets.items()]
    summary = f'<p class="soft">Hand-made schedules tuned by {escape(by)} on validation crystals. {escape(NOTE)}</p>'
    write_text(folder / REPORT, page(folder.resolve().name, summary, sections))
    return folder / REPORT


def _as_dict(one: Ablated) -> dict[str, Any]:
    return {
        "rows": [
            {
                "way": row.way,
                "steps": row.steps,
                "schedule": row.text,
                "metrics": {name: interval_dict(found) for name, found in row.intervals.items()},
                "less_best_hand_made": {name: interval_dict(found) for name, found in row.less_best.items()},
                "less_none_at_most_steps": {name: interval_dict(found) for name, found in row.less_none.items()},
                "seeds": {name: list(limits) for name, limits in row.seeds.items()},
                "generation_seconds_per_1000": row.seconds_per_1000,
            }
            for row in one.rows
        ],
        "tuned": [
            {
                "steps": steps,
                "kind": kind,
                "schedule": brief(best.schedule),
                "value": best.value,
                "tuned_at": best.steps,
                "at_border": list(best.at_border),
                "tried": [{"schedule": brief(tried), "value": _finite(value)} for tried, value in best.tried],
            }
            for steps, kinds in one.tuned.items()
            for kind, best in kinds.items()
        ],
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def ablation_table(one: Ablated) -> str:
    """One line for each way and number of grid points, with half the width of 95 % intervals, for terminals."""
    keys = [key for key in SHOWN if any(key in row.intervals for row in one.rows)]
    lines = [["steps", "schedule", *(COLUMNS[key].short for key in keys), "s/1000"]]
    for row in one.rows:
        way = f"{row.way} ({row.text})" if row.text else row.way
        found = [row.intervals.get(key) for key in keys]
        cells = [
            plus_minus(interval_dict(interval) if interval else {}, COLUMNS[key].form)
            for key, interval in zip(keys, found, strict=True)
        ]
        lines.append([str(row.steps), way, *cells, f"{row.seconds_per_1000:.1f}"])
    return aligned(lines, left=[1])


def _section(one: Ablated, folder: Path) -> str:
    pictures = []
    for key, label in zip(SHOWN, YLABELS, strict=True):
        lines: dict[str, list[Point]] = {}
        for row in one.rows:
            if (found := row.intervals.get(key)) is not None:
                lines.setdefault(row.way, []).append(Point(row.steps, found.mean, found.low, found.high))
        figure = banded_lines(lines, "grid points", label, key == "invalid_share", log=True)
        if figure is not None:
            pictures.append(card("", figure))
    learned = {way: curves(s) for of in one.learned for way, s in zip(of.ways, of.schedules, strict=True)}
    drawn = card("", draw_schedules(learned), "Learned schedules; dotted: 1 + slope t.") if learned else ""
    link = escape(one.report.relative_to(folder).as_posix())
    return (
        f'{_table(one)}<div class="grid">{"".join(pictures)}</div>{drawn}{_tuned_table(one)}'
        f'<p class="soft"><a href="{link}">All cases</a></p>'
    )


def _table(one: Ablated) -> str:
    keys = [key for key in SHOWN if any(key in row.intervals for row in one.rows)]
    less = ["cRMSE less best hand-made", f"cRMSE less none at {max(one.tuned)}"]
    head = ["steps", "schedule", *(COLUMNS[key].title for key in keys), *less, "s/1000"]
    rows = []
    for row in one.rows:
        cells = [_cell(row.intervals.get(key), COLUMNS[key].form, row.seeds.get(key)) for key in keys]
        cells += [_cell(found.get("crmse"), "{:+.3f}") for found in (row.less_best, row.less_none)]
        way = f"{row.way}\n{row.text}" if row.text else row.way
        rows.append([str(row.steps), way, *cells, f"{row.seconds_per_1000:.1f}"])
    return f'<div class="wide">{html_table(head, rows)}</div>'


def _cell(found: Interval | None, form: str, seeds: tuple[float, float] | None = None) -> str:
    if found is None or math.isnan(found.mean):
        return "–"
    lines = [formatted(found.mean, form)]
    if not math.isnan(found.low):
        lines.append(f"[{formatted(found.low, form)}, {formatted(found.high, form)}]")
    if seeds is not None:
        lines.append(f"seeds {formatted(seeds[0], form)} to {formatted(seeds[1], form)}")
    return "\n".join(lines)


def _tuned_table(one: Ablated) -> str:
    rows = [
        [str(steps), str(best.steps), kind, brief(best.schedule), f"{best.value:.4f}", str(len(best.tried))]
        for steps, kinds in sorted(one.tuned.items())
        for kind, best in kinds.items()
    ]
    table = html_table(["steps", "tuned at", "kind", "best on validation crystals", "value", "tried"], rows)
    return f'<details class="wide"><summary>Tuned by hand</summary>{table}</details>' if rows else ""
