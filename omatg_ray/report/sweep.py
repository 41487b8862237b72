"""Report of a sweep, `report.html`: learning curves, keys against results, what each key did, all trials."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from omatg_ray.report import sweep_plots as plots
from omatg_ray.report.page import card, format_number, page, soft, table
from omatg_ray.run.atomic import write_text
from omatg_ray.run.text import aligned, counted
from omatg_ray.tune.results import TRIALS, Sweep, Trial

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
        f"{plots.column_of(goal).title} ({'lower' if goal.mode == 'min' else 'higher'} is better)"
        for goal in sweep.goals
    )
    by_first = f" by {plots.column_of(sweep.goals[0]).title}" if several else ""
    summary = soft(
        f"{counted(len(sweep.trials), 'trial')}, decided by {goals} of the validation split. A trial counts by the "
        f"best{by_first} of its validations, without the one before training and without those that a guard excludes. "
        "The best of many noisy numbers is optimistic: compare it with the default over new seeds, and on the test "
        "split."
    )
    sections = [
        ("Best trial", _best(sweep, folder)),
        ("Pareto front", _front(sweep, folder) if several else ""),
        ("Learning curves", card("", plots.learning_curves(sweep, folder), CURVES_NOTE)),
        ("Keys and results", card("", plots.parallel_coordinates(sweep), PARALLEL_NOTE)),
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


def _values(sweep: Sweep, metrics: Mapping[str, float] | None) -> list[str]:
    """Format the metrics that decide."""
    return [format_number((metrics or {}).get(goal.metric), plots.column_of(goal).form) for goal in sweep.goals]


def _reached(sweep: Sweep, trial: Trial) -> list[str]:
    """Return the first cells of a trial: its name, and the validation that counts."""
    after = "–" if trial.best_iteration is None else str(trial.best_iteration)
    return [trial.name, *_values(sweep, trial.best), after]


def _keys(sweep: Sweep, trial: Trial) -> list[str]:
    return [_text(trial.values.get(key, "–")) for key in sweep.keys]


def _status(sweep: Sweep, trial: Trial) -> str:
    on_front = ", on the front" if len(sweep.goals) > 1 and trial in sweep.front else ""
    return trial.status + on_front + (", hacked" if trial.hacked else "")


def trials_table(sweep: Sweep, folder: Path, most: int = 10) -> str:
    """Format the best trials, the whole front of several metrics, and the start of the best one, for terminals."""
    lines = [["trial", *_titles(sweep), "after", "status", *sweep.keys]]
    start = plots.start_of(folder, sweep.best)
    if start is not None:
        lines.append(["–", *_values(sweep, start), "0", "before training", *("" for _ in sweep.keys)])
    shown = sweep.ranked[: max(most, len(sweep.front))]
    lines += [[*_reached(sweep, trial), _status(sweep, trial), *_keys(sweep, trial)] for trial in shown]
    return aligned(lines, left=range(len(lines[0])))


def _titles(sweep: Sweep) -> list[str]:
    return [plots.column_of(goal).short for goal in sweep.goals]


def without_gain(sweep: Sweep, folder: Path) -> str | None:
    """Return a warning if the best trial is no better than its start by the first metric; None if it is better."""
    goal, best = sweep.goals[0], sweep.best
    start = plots.start_of(folder, best)
    reached = None if best is None else best.best
    before, after = (None if metrics is None else goal.cost(metrics) for metrics in (start, reached))
    if before is None or after is None or after < before:
        return None
    metric, value = plots.column_of(goal).title, _values(sweep, start)[0]
    return (
        f"no trial is better by {metric} than the model before training ({value}): the best config is the least "
        "harmful one"
    )


def _best(sweep: Sweep, folder: Path) -> str:
    best = sweep.best
    if best is None:
        return "<p>No trial has a validation that counts.</p>"
    rows = [[key, _text(value)] for key, value in best.values.items()]
    start = plots.start_of(folder, best)
    values = zip(sweep.goals, _values(sweep, best.best), _values(sweep, start), strict=True)
    reached = ", ".join(
        f"{plots.column_of(goal).title} {now} ({before} before training)" for goal, now, before in values
    )
    no_gain = without_gain(sweep, folder)
    warning = "" if no_gain is None else f"<p>{escape(no_gain[0].upper() + no_gain[1:])}.</p>"
    report = folder / TRIALS / best.name / REPORT
    link = f' <a href="{TRIALS}/{escape(best.name)}/{REPORT}">Its report</a>.' if report.is_file() else ""
    return (
        f"{warning}<p>Trial {escape(best.name)}: {escape(reached)} after iteration {best.best_iteration}.{link} "
        f'All its keys: <a href="{BEST_FILE}">{BEST_FILE}</a>, for <code>omatg-ray train</code>.</p>'
        f"{table(['key', 'value'], rows)}"
    )


def _front(sweep: Sweep, folder: Path) -> str:
    """Show the front as a picture and a table; empty if no trial counts."""
    if not sweep.front:
        return ""
    rows = [[*_reached(sweep, one), *_keys(sweep, one), f"{FRONT}/{one.name}.yaml"] for one in sweep.front]
    head = ["trial", *_titles(sweep), "after", *map(plots.breakable, sweep.keys), "for omatg-ray train"]
    return card("", plots.pareto_front(sweep, folder), FRONT_NOTE) + table(head, rows)


def _table(sweep: Sweep) -> str:
    best, last = ([f"{which} {short}" for short in _titles(sweep)] for which in ("best", "last"))
    rows = []
    for trial in sweep.ranked:
        status = _status(sweep, trial) + (f"\n{trial.error[:120]}" if trial.error else "")
        values = [*_reached(sweep, trial), *_values(sweep, trial.last), str(trial.iteration)]
        rows.append([*values, *_keys(sweep, trial), status])
    head = ["trial", *best, "after", *last, "iterations", *map(plots.breakable, sweep.keys), "status"]
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
        shares = plots.importance(sweep, goal)
        rows = [
            [key, f"{share:.2f}", format_number(correlation, "{:+.2f}"), "< 1 %" if chance < 1 else f"{chance} %"]
            for key, (share, correlation, chance) in shares.items()
        ]
        heading = escape(plots.column_of(goal).title) if len(sweep.goals) > 1 else ""
        parts += [card(heading, plots.importance_bars(shares), caption), table(head, rows)] if shares else []
    return "".join(parts)
