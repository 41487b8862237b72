"""Report of a sweep, `report.html`: learning curves, keys against results, what each key did, all trials."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from omatg_ray.evaluate.metrics import COLUMNS
from omatg_ray.report.page import card, format_number, page, soft, table
from omatg_ray.report.sweep_plots import (
    breakable,
    importance,
    importance_bars,
    learning_curves,
    parallel_coordinates,
    pareto_front,
    short_title,
    start_of,
    title,
)
from omatg_ray.run.atomic import write_text
from omatg_ray.run.text import aligned, counted
from omatg_ray.tune.results import TRIALS, Goal, Sweep, Trial

BEST_FILE, FRONT, REPORT = "best.yaml", "front", "report.html"


def write_sweep(folder: Path) -> Path:
    """Write `report.html` of a sweep from its `trials.json` and the metrics of its trials.

    Returns:
        Path of the report.

    Raises:
        DataError: As `Sweep.read`.
    """
    sweep = Sweep.read(folder)
    several = len(sweep.goals) > 1
    goals = " and ".join(
        f"{title(goal)} ({'lower' if goal.mode == 'min' else 'higher'} is better)" for goal in sweep.goals
    )
    by_first = f" by {title(sweep.goals[0])}" if several else ""
    summary = soft(
        f"{counted(len(sweep.trials), 'trial')}, decided by {goals} of the validation split. A trial counts by the "
        f"best{by_first} of its validations, without the one before training and without those that a guard excludes. "
        "The best of many noisy numbers is optimistic: compare it with the default over new seeds, and on the test "
        "split."
    )
    sections = [
        ("Best trial", _best(sweep, folder)),
        ("Pareto front", _front(sweep, folder) if several else ""),
        ("Learning curves", card("", learning_curves(sweep, folder), CURVES_NOTE)),
        ("Keys and results", card("", parallel_coordinates(sweep), PARALLEL_NOTE)),
        ("What each key did", _importance(sweep)),
        ("Trials", _table(sweep)),
    ]
    write_text(folder / REPORT, page(folder.resolve().name, summary, sections))
    return folder / REPORT


CURVES_NOTE = (
    "The deciding metric at every validation, one line per trial; the best, or the whole Pareto front, is thick. "
    "× marks reward hacking. The plot covers the range of most values, so lines may leave it; × then sits at the edge."
)
PARALLEL_NOTE = (
    "Each line is a trial, from its values to its result on the right, green for the best rank and red for the worst "
    "(by the first of several metrics). Thick: the best, or the whole Pareto front. Dotted: no value that counts. Axes "
    "of keys whose positive values span a factor of ten or more are logarithmic."
)
FRONT_NOTE = (
    "Each point is a trial, by the validation that counts. Green: the Pareto front; no other trial is as good as one "
    "of these by all metrics and better by one. No trial has gone beyond the line. The ring is the best by the first "
    "metric, diamonds are the model before training."
)


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _value(goal: Goal, metrics: Mapping[str, float] | None) -> str:
    form = COLUMNS[goal.metric].form if goal.metric in COLUMNS else "{:.4f}"
    return format_number((metrics or {}).get(goal.metric), form)


def _status(sweep: Sweep, trial: Trial) -> str:
    on_front = ", on the front" if len(sweep.goals) > 1 and trial in sweep.front else ""
    return trial.status + on_front + (", hacked" if trial.hacked else "")


def trials_table(sweep: Sweep, folder: Path, most: int = 10) -> str:
    """Format the best trials, the whole front of several metrics, and the start of the best one, for terminals."""
    lines = [["trial", *map(short_title, sweep.goals), "after", "status", *sweep.keys]]
    start = start_of(folder, sweep.best)
    if start is not None:
        reached = [_value(goal, start) for goal in sweep.goals]
        lines.append(["–", *reached, "0", "before training", *("" for _ in sweep.keys)])
    for trial in sweep.ranked[: max(most, len(sweep.front))]:
        after = "–" if trial.best_iteration is None else str(trial.best_iteration)
        values = [_text(trial.values.get(key, "–")) for key in sweep.keys]
        reached = [_value(goal, trial.best) for goal in sweep.goals]
        lines.append([trial.name, *reached, after, _status(sweep, trial), *values])
    return aligned(lines, left=range(len(lines[0])))


def without_gain(sweep: Sweep, folder: Path) -> str | None:
    """Return a warning if the best trial is no better than its start by the first metric; None if it is better."""
    goal, best = sweep.goals[0], sweep.best
    start = start_of(folder, best)
    reached = None if best is None else best.best
    before, after = (None if metrics is None else goal.cost(metrics) for metrics in (start, reached))
    if before is None or after is None or after < before:
        return None
    return (
        f"no trial is better by {title(goal)} than the model before training ({_value(goal, start)}): the best config "
        "is the least harmful one"
    )


def _best(sweep: Sweep, folder: Path) -> str:
    best = sweep.best
    if best is None:
        return "<p>No trial has a validation that counts.</p>"
    rows = [[key, _text(value)] for key, value in best.values.items()]
    start = start_of(folder, best)
    reached = ", ".join(
        escape(f"{title(goal)} {_value(goal, best.best)} ({_value(goal, start)} before training)")
        for goal in sweep.goals
    )
    no_gain = without_gain(sweep, folder)
    warning = "" if no_gain is None else f"<p>{escape(no_gain[0].upper() + no_gain[1:])}.</p>"
    report = folder / TRIALS / best.name / REPORT
    link = f' <a href="{TRIALS}/{escape(best.name)}/{REPORT}">Its report</a>.' if report.is_file() else ""
    return (
        f"{warning}<p>Trial {escape(best.name)}: {reached} after iteration {best.best_iteration}.{link} "
        f'All its keys: <a href="{BEST_FILE}">{BEST_FILE}</a>, for <code>omatg-ray train</code>.</p>'
        f"{table(['key', 'value'], rows)}"
    )


def _front(sweep: Sweep, folder: Path) -> str:
    """Show the front as a picture and a table; empty if no trial counts."""
    front, keys = sweep.front, sweep.keys
    if not front:
        return ""
    rows = [
        [
            trial.name,
            *(_value(goal, trial.best) for goal in sweep.goals),
            str(trial.best_iteration),
            *(_text(trial.values.get(key, "–")) for key in keys),
            f"{FRONT}/{trial.name}.yaml",
        ]
        for trial in front
    ]
    head = ["trial", *map(short_title, sweep.goals), "after", *map(breakable, keys), "for omatg-ray train"]
    return card("", pareto_front(sweep, folder), FRONT_NOTE) + table(head, rows)


def _table(sweep: Sweep) -> str:
    keys, goals = sweep.keys, sweep.goals
    best, last = ([f"{which} {short_title(goal)}" for goal in goals] for which in ("best", "last"))
    rows = [
        [
            trial.name,
            *(_value(goal, trial.best) for goal in goals),
            "–" if trial.best_iteration is None else str(trial.best_iteration),
            *(_value(goal, trial.last) for goal in goals),
            str(trial.iteration),
            *(_text(trial.values.get(key, "–")) for key in keys),
            _status(sweep, trial) + (f"\n{trial.error[:120]}" if trial.error else ""),
        ]
        for trial in sweep.ranked
    ]
    head = ["trial", *best, "after", *last, "iterations", *map(breakable, keys), "status"]
    return table(head, rows)


def _importance(sweep: Sweep) -> str:
    head = ["key", "share", "rank correlation with the metric", "by chance"]
    caption = (
        "How much of the ranks of the trials' results each key accounts for alone: the square of Spearman's rank "
        "correlation, or η² of the ranks if a key's values have no order. By chance: how often shuffled results give "
        "as much. This is association, not effect: keys that act together are not seen, and trials that were stopped "
        "early count by what they had reached."
    )
    parts = []
    for goal in sweep.goals:
        shares = importance(sweep, goal)
        rows = [
            [key, f"{share:.2f}", format_number(correlation, "{:+.2f}"), "< 1 %" if chance < 1 else f"{chance} %"]
            for key, (share, correlation, chance) in shares.items()
        ]
        heading = escape(title(goal)) if len(sweep.goals) > 1 else ""
        parts += [card(heading, importance_bars(shares), caption), table(head, rows)] if shares else []
    return "".join(parts)
