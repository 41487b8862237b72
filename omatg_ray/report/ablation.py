"""Report of an ablation of schedules, and its table for terminals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, Final

from omatg_ray.evaluate.ablation import SHOWN
from omatg_ray.evaluate.metrics import COLUMNS
from omatg_ray.evaluate.verdict import RULE
from omatg_ray.policy.schedule import LearnedSchedule, curves
from omatg_ray.report.comparison import against_steps
from omatg_ray.report.page import card, format_number, page, soft, table, with_interval
from omatg_ray.report.schedules import draw_schedules
from omatg_ray.report.tables import plus_minus
from omatg_ray.run.atomic import write_json, write_text
from omatg_ray.run.text import aligned

FORMAT: Final = "omatg_ray.ablation.1"
JSON, REPORT = "ablation.json", "report.html"
NOTE = (
    "Best hand-made: the best of all kinds and slopes on validation crystals, tuned at this number of grid points "
    "unless another one is given. Learned: with several seeds, their mean, and the lowest and highest. In brackets: "
    "95 % intervals over these seeds, from a bootstrap over whole compositions; for differences, both sides draw the "
    f"same compositions. {RULE}"
)

Rows = Sequence[Mapping[str, Any]]


def write_ablation(
    folder: Path,
    sets: Mapping[str, Mapping[str, Any]],
    learned: Mapping[str, Mapping[str, Mapping[str, LearnedSchedule]]],
    by: str,
) -> Path:
    """Write `ablation.json` and `report.html`.

    Args:
        folder: Output folder; the report on all cases of a set is in the folder of its name.
        sets: Results from `summarize`, by name of the set.
        learned: Versions of each learned schedule, by name of the set.
        by: Metric that hand-made schedules were tuned by.

    Returns:
        Path of the report.
    """
    write_json(folder / JSON, {"format": FORMAT, "tuned_by": by, "sets": dict(sets)})
    summary = soft(f"Hand-made schedules tuned by {by} on validation crystals. {NOTE}")
    sections = [
        (
            escape(name),
            _section(found, learned[name]) + f'<p class="soft"><a href="{escape(name)}/{REPORT}">All cases</a></p>',
        )
        for name, found in sets.items()
    ]
    write_text(folder / REPORT, page(folder.resolve().name, summary, sections))
    return folder / REPORT


def ablation_table(rows: Rows) -> str:
    """Format one line per schedule and number of grid points, with ± half the 95 % interval, for terminals."""
    keys = _measured(rows)
    lines = [["steps", "schedule", *(COLUMNS[key].short for key in keys), "s/1000"]]
    for row in rows:
        way = f"{row['way']} ({row['schedule']})" if row["schedule"] else row["way"]
        cells = [plus_minus(row["metrics"].get(key) or {}, COLUMNS[key].form) for key in keys]
        lines.append([str(row["steps"]), way, *cells, f"{row['generation_seconds_per_1000']:.1f}"])
    return aligned(lines, left=[1])


def _measured(rows: Rows) -> list[str]:
    return [key for key in SHOWN if any(key in row["metrics"] for row in rows)]


def _section(found: Mapping[str, Any], learned: Mapping[str, Mapping[str, LearnedSchedule]]) -> str:
    series: dict[str, list[tuple[int, Mapping[str, Any]]]] = {}
    for row in found["rows"]:
        intervals = {key: interval for key, interval in row["metrics"].items() if key in SHOWN}
        series.setdefault(row["way"], []).append((row["steps"], intervals))
    shown = {way: curves(schedule) for versions in learned.values() for way, schedule in versions.items()}
    drawn = card("", draw_schedules(shown), "Learned schedules; dotted: 1 + slope t.") if shown else ""
    return f"{_table(found['rows'])}{against_steps(series)}{drawn}{_tuned_table(found['tuned'])}"


def _table(rows: Rows) -> str:
    keys, most = _measured(rows), max(row["steps"] for row in rows)
    less = ["cRMSE less best hand-made", f"cRMSE less none at {most}"]
    head = ["steps", "schedule", *(COLUMNS[key].title for key in keys), *less, "s/1000"]
    cells = []
    for row in rows:
        metrics = [_cell(row, key) for key in keys]
        differences = [row["less_best_hand_made"], row["less_none_at_most_steps"]]
        metrics += [with_interval(difference.get("crmse", {}), "{:+.3f}", " *") for difference in differences]
        way = f"{row['way']}\n{row['schedule']}" if row["schedule"] else row["way"]
        cells.append([str(row["steps"]), way, *metrics, f"{row['generation_seconds_per_1000']:.1f}"])
    return table(head, cells)


def _cell(row: Mapping[str, Any], key: str) -> str:
    form, seeds = COLUMNS[key].form, row["seeds"].get(key)
    text = with_interval(row["metrics"].get(key, {}), form)
    if seeds is None:
        return text
    return f"{text}\nseeds {format_number(seeds[0], form)} to {format_number(seeds[1], form)}"


def _tuned_table(tuned: Rows) -> str:
    keys = ("steps", "tuned_at", "kind", "schedule")
    rows = [
        [*(str(one[key]) for key in keys), f"{one['value']:.4f}", str(len(one["tried"]))]
        for one in sorted(tuned, key=lambda one: one["steps"])
    ]
    head = ["steps", "tuned at", "kind", "best on validation crystals", "value", "tried"]
    return table(head, rows, folded="Tuned by hand") if rows else ""
