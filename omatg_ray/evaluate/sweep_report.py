"""The report of a sweep, `report.html`: learning curves, keys against results, what each key did, all trials."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from scipy.stats import rankdata

from omatg_ray.evaluate.metrics import COLUMNS
from omatg_ray.evaluate.page import card, counted, formatted, html_table, page
from omatg_ray.evaluate.plots import COLOURS, INK, NORMAL, WIDE, dress
from omatg_ray.evaluate.sweep import TRIALS, Sweep
from omatg_ray.rl.guards import HACKED
from omatg_ray.run.atomic import write_text
from omatg_ray.run.folder import METRICS
from omatg_ray.run.metrics import read_metrics

BEST_FILE, REPORT = "best.yaml", "report.html"
FEWEST = 5
"""With fewer trials, ranks say nothing about what a key does."""
SHADES = LinearSegmentedColormap.from_list("good to bad", [COLOURS[2], "#d8b24a", COLOURS[4]])


def write_sweep(folder: Path) -> Path:
    """Writes `report.html` of a sweep from its `trials.json` and the metrics of its trials.

    Returns:
        The path of the report.

    Raises:
        DataError: As `Sweep.read`.
    """
    sweep = Sweep.read(folder)
    title = _title(sweep.metric)
    better = "less" if sweep.direction == "min" else "more"
    summary = (
        f'<p class="soft">{counted(len(sweep.trials), "trial")}, decided by {escape(title)} of the validation split, '
        f"of which {better} is better. A trial counts by the best of its validations; those that a guard objects to, "
        "where they are excluded, and the one before training do not count. The best of many noisy numbers flatters "
        "itself: compare it with the default over new seeds, and on the test split.</p>"
    )
    sections = [
        ("Best trial", _best(sweep, folder)),
        ("Learning curves", _figure_card(learning_curves(sweep, folder), CURVES_NOTE)),
        ("Keys and results", _figure_card(parallel_coordinates(sweep), PARALLEL_NOTE)),
        ("What each key did", _importance(sweep)),
        ("Trials", _table(sweep, folder)),
    ]
    write_text(folder / REPORT, page(folder.resolve().name, summary, sections))
    return folder / REPORT


CURVES_NOTE = "The metric at every validation, one line for each trial; the best is thick. × marks reward hacking."
PARALLEL_NOTE = (
    "Each line is a trial, from its values to its result on the right, green for the best rank and red for the worst. "
    "Thick: the best. Dotted: no value that counts. Axes of keys whose positive values span a factor of ten or more "
    "are logarithmic."
)


def _title(metric: str) -> str:
    return COLUMNS[metric].title if metric in COLUMNS else metric.replace("_", " ")


def _figure_card(figure: Figure | None, caption: str) -> str:
    return "" if figure is None else card("", figure, caption)


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _value(metric: str, value: float | None) -> str:
    return formatted(value, COLUMNS[metric].form if metric in COLUMNS else "{:.4f}")


def trials_table(sweep: Sweep, most: int = 10) -> str:
    """The best trials for terminals, one line each."""
    head = ["trial", *sweep.keys, _short(sweep.metric), "after", "status"]
    lines = [head]
    for trial in sweep.ranked[:most]:
        after = "–" if trial.best_iteration is None else str(trial.best_iteration)
        mark = ", hacked" if trial.hacked else ""
        values = [_text(trial.values.get(key, "–")) for key in sweep.keys]
        lines.append([trial.name, *values, _value(sweep.metric, trial.best), after, trial.status + mark])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines)


def _short(metric: str) -> str:
    return COLUMNS[metric].short if metric in COLUMNS else metric


def _best(sweep: Sweep, folder: Path) -> str:
    best = sweep.best
    if best is None:
        return "<p>No trial has a validation that counts.</p>"
    rows = [[key, _text(value)] for key, value in best.values.items()]
    report = folder / TRIALS / best.name / REPORT
    link = f' <a href="{TRIALS}/{escape(best.name)}/{REPORT}">Its report</a>.' if report.is_file() else ""
    return (
        f"<p>Trial {escape(best.name)}: {escape(_title(sweep.metric))} "
        f"{escape(_value(sweep.metric, best.best))} after iteration {best.best_iteration}.{link} "
        f'All its keys: <a href="{BEST_FILE}">{BEST_FILE}</a>, for <code>omatg-ray train</code>.</p>'
        f'<div class="wide">{html_table(["key", "value"], rows)}</div>'
    )


def _table(sweep: Sweep, folder: Path) -> str:
    keys = sweep.keys
    head = ["trial", *keys, f"best {_short(sweep.metric)}", "after", "last", "iterations", "status"]
    rows = []
    for trial in sweep.ranked:
        said = trial.status + (", hacked" if trial.hacked else "") + (f"\n{trial.error[:120]}" if trial.error else "")
        rows.append(
            [
                trial.name,
                *(_text(trial.values.get(key, "–")) for key in keys),
                _value(sweep.metric, trial.best),
                "–" if trial.best_iteration is None else str(trial.best_iteration),
                _value(sweep.metric, trial.last),
                str(trial.iteration),
                said,
            ]
        )
    return f'<div class="wide">{html_table(head, rows)}</div>'


def learning_curves(sweep: Sweep, folder: Path) -> Figure | None:
    """The metric of all trials over their iterations, from the run folders; None where there is none."""
    best, ranked = sweep.best, [trial for trial in sweep.ranked if trial.best is not None]
    shades = {trial.name: _shade(place, len(ranked)) for place, trial in enumerate(ranked)}
    figure = Figure(figsize=WIDE, layout="constrained")
    axes = figure.add_subplot()
    dress(axes, "iteration", _title(sweep.metric))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    drawn = []
    for trial in sweep.trials:
        path = folder / TRIALS / trial.name / METRICS
        lines = read_metrics(path) if path.is_file() else []
        found = [
            (line["step"], line[sweep.metric], line.get(HACKED, 0))
            for line in lines
            if line["kind"] == "validation" and line.get(sweep.metric) is not None
        ]
        if not found:
            continue
        steps, values, hacked = np.array(found, dtype=float).T
        first = best is not None and trial.name == best.name
        colour = shades.get(trial.name, INK)
        width, order = (3.0, 3) if first else (1.1, 2)
        axes.plot(steps, values, color=colour, linewidth=width, alpha=1.0 if first else 0.75, zorder=order)
        axes.plot(steps[hacked > 0], values[hacked > 0], "x", color=colour, markersize=6)
        drawn += values.tolist()
    if not drawn:
        return None
    # One trial that blew up shall not flatten all others.
    low, high = np.quantile(drawn, [0.0, 0.95] if sweep.direction == "min" else [0.05, 1.0])
    margin = 0.06 * (high - low) or 0.05
    axes.set_ylim(low - margin, high + margin)
    return figure


def _shade(place: int, among: int) -> Any:
    return SHADES(place / max(1, among - 1))


def parallel_coordinates(sweep: Sweep) -> Figure | None:
    """Values of the keys and the result of all trials, one axis each; None for fewer than two trials."""
    keys, ranked = sweep.keys, sweep.ranked
    if len(ranked) < 2:
        return None
    scales = {key: _Axis([trial.values.get(key) for trial in ranked]) for key in keys}
    results = _Axis([trial.best for trial in ranked])
    figure = Figure(figsize=(max(NORMAL[0], min(WIDE[0], 1.9 * (len(keys) + 1))), 3.6), layout="constrained")
    axes = figure.add_subplot()
    last, counting = len(keys), [trial for trial in ranked if trial.best is not None]
    for place, trial in reversed(list(enumerate(ranked))):
        heights = [scales[key].height(trial.values.get(key)) for key in keys]
        known = trial.best is not None
        heights.append(results.height(trial.best) if known else float("nan"))
        axes.plot(
            range(last + 1),
            heights,
            color=_shade(place, len(counting)) if known else INK,
            linewidth=3.0 if known and place == 0 else 1.2,
            alpha=1.0 if place == 0 else 0.7,
            linestyle="-" if known else ":",
        )
    for x, (name, axis) in enumerate([*scales.items(), (_short(sweep.metric), results)]):
        axes.plot([x, x], [0, 1], color=INK, linewidth=1.0)
        for height, text in axis.ticks():
            at_end = x == last
            axes.text(
                x + (0.03 if at_end else -0.03),
                height,
                text,
                color=INK,
                fontsize=8.5,
                ha="left" if at_end else "right",
                va="center",
            )
        text = name.replace(".", ".\n").replace(", ", ",\n")
        axes.text(x, 1.06, text, color=INK, fontsize=9.5, ha="center", va="bottom")
    axes.set(xlim=(-0.45, last + 0.4), ylim=(-0.05, 1.1 + 0.08 * max(name.count(".") + 1 for name in [*keys, "a.b"])))
    axes.set_axis_off()
    return figure


class _Axis:
    """Where values lie between 0 and 1: numbers along their range, in its logarithm if that is wide, others evenly."""

    def __init__(self, values: Sequence[Any]) -> None:
        self._words = [] if _numeric(values) else list(dict.fromkeys(map(str, values)))
        numbers = [] if self._words else [float(value) for value in values if value is not None]
        self._log = bool(numbers) and min(numbers) > 0 and max(numbers) >= 10 * min(numbers)
        scaled = [math.log10(number) for number in numbers] if self._log else numbers
        self._few = set(numbers) if len(set(numbers)) <= 4 else set()
        self._low, self._high = (min(scaled), max(scaled)) if scaled else (0.0, 1.0)

    def height(self, value: Any) -> float:
        """Between 0 and 1."""
        if self._words:
            return (self._words.index(str(value)) + 0.5) / len(self._words)
        if value is None:
            return math.nan
        number = math.log10(value) if self._log else float(value)
        return 0.5 if self._high == self._low else (number - self._low) / (self._high - self._low)

    def ticks(self) -> list[tuple[float, str]]:
        """Heights and what stands there."""
        if self._words:
            return [((place + 0.5) / len(self._words), word) for place, word in enumerate(self._words)]
        numbers = sorted(self._few)
        if not numbers:
            scaled = np.linspace(self._low, self._high, 4).tolist()
            numbers = [10**one if self._log else one for one in scaled]
        return [(self.height(number), f"{number:.3g}".replace("-", "−")) for number in numbers]


def _numeric(values: Sequence[Any]) -> bool:
    known = [value for value in values if value is not None]
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in known)


def importance(sweep: Sweep) -> dict[str, tuple[float, float | None, int]]:
    """Of every key how much of the ranks of the results it accounts for by itself, largest first.

    For numbers that is the square of Spearman's rank correlation, for others the correlation ratio η² of the ranks. It
    is a measure of association over the trials that there are: it knows nothing of keys that act together, and where a
    scheduler stopped trials early their results are those of less training.

    Returns:
        By key: the share between 0 and 1, for numbers Spearman's correlation with the metric, and the probability in
        per cent that a key without any effect comes as high (2,000 permutations).
    """
    trials = [trial for trial in sweep.trials if trial.best is not None]
    if len(trials) < FEWEST:
        return {}
    ranks = rankdata([trial.best for trial in trials])
    generator = np.random.default_rng(0)
    shuffled = [generator.permutation(ranks) for _ in range(2000)]
    found: dict[str, tuple[float, float | None, int]] = {}
    for key in sweep.keys:
        values = [trial.values.get(key) for trial in trials]
        if len(set(map(str, values))) < 2:
            continue
        numeric = _numeric(values) and None not in values
        own = (
            rankdata(np.array(values, dtype=float))
            if numeric
            else np.unique(list(map(str, values)), return_inverse=True)[1]
        )
        share = _share(own, ranks, numeric)
        above = sum(_share(own, other, numeric) >= share - 1e-12 for other in shuffled)
        correlation = float(np.corrcoef(own, ranks)[0, 1]) if numeric else None
        found[key] = (share, correlation, round(100 * (above + 1) / (len(shuffled) + 1)))
    return dict(sorted(found.items(), key=lambda item: -item[1][0]))


def _share(own: np.ndarray, ranks: np.ndarray, numeric: bool) -> float:
    if ranks.min() == ranks.max():
        return 0.0
    if numeric:
        return float(np.corrcoef(own, ranks)[0, 1] ** 2)
    total = ((ranks - ranks.mean()) ** 2).sum()
    groups = [ranks[own == one] for one in np.unique(own)]
    return float(sum(len(group) * (group.mean() - ranks.mean()) ** 2 for group in groups) / total)


def importance_bars(found: Mapping[str, tuple[float, float | None, int]]) -> Figure:
    """One bar for each key."""
    figure = Figure(figsize=(WIDE[0], 0.7 + 0.34 * len(found)), layout="constrained")
    axes = figure.add_subplot()
    dress(axes, "share of the variance of the results' ranks", "")
    names = list(found)[::-1]
    axes.barh(names, [found[name][0] for name in names], color=COLOURS[0], height=0.6)
    axes.set_xlim(0, 1)
    axes.grid(axis="y", visible=False)
    axes.grid(axis="x", color=INK, alpha=0.12, linewidth=0.8)
    return figure


def _importance(sweep: Sweep) -> str:
    found = importance(sweep)
    if not found:
        return ""
    rows = [
        [key, f"{share:.2f}", formatted(correlation, "{:+.2f}"), "< 1 %" if chance < 1 else f"{chance} %"]
        for key, (share, correlation, chance) in found.items()
    ]
    table = html_table(["key", "share", "rank correlation with the metric", "by chance"], rows)
    caption = (
        "How much of the ranks of the trials' results each key accounts for alone: the square of Spearman's rank "
        "correlation, or η² of the ranks where a key's values have no order. By chance: how often shuffled results "
        "give as much. Association, not effect: keys that act together are not seen, and trials that were stopped "
        "early count by what they had reached."
    )
    return card("", importance_bars(found), caption) + f'<div class="wide">{table}</div>'
