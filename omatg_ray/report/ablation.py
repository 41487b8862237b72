"""Report of an ablation of schedules, and its table for terminals."""

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
from omatg_ray.report.page import card, format_number, html_table, page
from omatg_ray.report.plots import Point, banded_lines
from omatg_ray.report.schedules import draw_schedules
from omatg_ray.report.tables import plus_minus
from omatg_ray.run.atomic import write_json, write_text
from omatg_ray.run.text import aligned

FORMAT: Final = "omatg_ray.ablation.1"


JSON, REPORT = "ablation.json", "report.html"


YLABELS = ("cRMSE", "match rate", "RMSE of matches", "relative energy, capped mean (eV/atom)", "invalid share")


NOTE = (
    "Best hand-made: the best of all kinds and slopes on validation crystals, tuned at this number of grid points "
    "unless another one is given. Learned: with several seeds, their mean, and the lowest and highest. In brackets: "
    "95 % intervals over these seeds, from a bootstrap over whole compositions; for differences, both sides draw the "
    "same compositions."
)


def write_ablation(folder: Path, sets: Mapping[str, Ablated], by: str) -> Path:
    """Write `ablation.json` and `report.html`.

    Args:
        folder: Output folder.
        sets: Results by name of the set.
        by: Metric that hand-made schedules were tuned by.

    Returns:
        Path of the report.
    """
    write_json(
        folder / JSON, {"format": FORMAT, "tuned_by": by, "sets": {n: _as_dict(ablated) for n, ablated in sets.items()}}
    )
    sections = [(escape(name), _section(ablated, folder)) for name, ablated in sets.items()]
    summary = f'<p class="soft">Hand-made schedules tuned by {escape(by)} on validation crystals. {escape(NOTE)}</p>'
    write_text(folder / REPORT, page(folder.resolve().name, summary, sections))
    return folder / REPORT


def _as_dict(ablated: Ablated) -> dict[str, Any]:
    return {
        "rows": [
            {
                "way": row.way,
                "steps": row.steps,
                "schedule": row.text,
                "metrics": {name: interval_dict(interval) for name, interval in row.intervals.items()},
                "less_best_hand_made": {name: interval_dict(interval) for name, interval in row.less_best.items()},
                "less_none_at_most_steps": {name: interval_dict(interval) for name, interval in row.less_none.items()},
                "seeds": {name: list(limits) for name, limits in row.seeds.items()},
                "generation_seconds_per_1000": row.seconds_per_1000,
            }
            for row in ablated.rows
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
            for steps, kinds in ablated.tuned.items()
            for kind, best in kinds.items()
        ],
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def ablation_table(one: Ablated) -> str:
    """Format one line per schedule and number of grid points, with ± half the 95 % interval, for terminals."""
    keys = [key for key in SHOWN if any(key in row.intervals for row in one.rows)]
    lines = [["steps", "schedule", *(COLUMNS[key].short for key in keys), "s/1000"]]
    for row in one.rows:
        way = f"{row.way} ({row.text})" if row.text else row.way
        intervals = [row.intervals.get(key) for key in keys]
        cells = [
            plus_minus(interval_dict(interval) if interval else {}, COLUMNS[key].form)
            for key, interval in zip(keys, intervals, strict=True)
        ]
        lines.append([str(row.steps), way, *cells, f"{row.seconds_per_1000:.1f}"])
    return aligned(lines, left=[1])


def _section(ablated: Ablated, folder: Path) -> str:
    pictures = []
    for key, label in zip(SHOWN, YLABELS, strict=True):
        lines: dict[str, list[Point]] = {}
        for row in ablated.rows:
            if (interval := row.intervals.get(key)) is not None:
                lines.setdefault(row.way, []).append(Point(row.steps, interval.mean, interval.low, interval.high))
        figure = banded_lines(lines, "grid points", label, key == "invalid_share", log=True)
        if figure is not None:
            pictures.append(card("", figure))
    learned = {way: curves(s) for of in ablated.learned for way, s in zip(of.ways, of.schedules, strict=True)}
    drawn = card("", draw_schedules(learned), "Learned schedules; dotted: 1 + slope t.") if learned else ""
    link = escape(ablated.report.relative_to(folder).as_posix())
    return (
        f'{_table(ablated)}<div class="grid">{"".join(pictures)}</div>{drawn}{_tuned_table(ablated)}'
        f'<p class="soft"><a href="{link}">All cases</a></p>'
    )


def _table(ablated: Ablated) -> str:
    keys = [key for key in SHOWN if any(key in row.intervals for row in ablated.rows)]
    less = ["cRMSE less best hand-made", f"cRMSE less none at {max(ablated.tuned)}"]
    head = ["steps", "schedule", *(COLUMNS[key].title for key in keys), *less, "s/1000"]
    rows = []
    for row in ablated.rows:
        cells = [_cell(row.intervals.get(key), COLUMNS[key].form, row.seeds.get(key)) for key in keys]
        cells += [_cell(intervals.get("crmse"), "{:+.3f}") for intervals in (row.less_best, row.less_none)]
        way = f"{row.way}\n{row.text}" if row.text else row.way
        rows.append([str(row.steps), way, *cells, f"{row.seconds_per_1000:.1f}"])
    return f'<div class="wide">{html_table(head, rows)}</div>'


def _cell(interval: Interval | None, form: str, seeds: tuple[float, float] | None = None) -> str:
    if interval is None or math.isnan(interval.mean):
        return "–"
    lines = [format_number(interval.mean, form)]
    if not math.isnan(interval.low):
        lines.append(f"[{format_number(interval.low, form)}, {format_number(interval.high, form)}]")
    if seeds is not None:
        lines.append(f"seeds {format_number(seeds[0], form)} to {format_number(seeds[1], form)}")
    return "\n".join(lines)


def _tuned_table(ablated: Ablated) -> str:
    rows = [
        [str(steps), str(best.steps), kind, brief(best.schedule), f"{best.value:.4f}", str(len(best.tried))]
        for steps, kinds in sorted(ablated.tuned.items())
        for kind, best in kinds.items()
    ]
    table = html_table(["steps", "tuned at", "kind", "best on validation crystals", "value", "tried"], rows)
    return f'<details class="wide"><summary>Tuned by hand</summary>{table}</details>' if rows else ""
