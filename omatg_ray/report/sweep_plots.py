"""Pictures of a sweep's report: learning curves, Pareto front, parallel coordinates, importance of keys."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from scipy.stats import rankdata

from omatg_ray.evaluate.metrics import COLUMNS, SHARES, Column
from omatg_ray.report.plots import COLOURS, INK, NORMAL, WIDE, dressed
from omatg_ray.run.folder import METRICS
from omatg_ray.run.metrics import read_metrics
from omatg_ray.tune.guards import HACKED
from omatg_ray.tune.results import TRIALS, Goal, Sweep, Trial

FEWEST = 5
"""With fewer trials, ranks say nothing about the effect of a key."""
SHADES = LinearSegmentedColormap.from_list("good to bad", [COLOURS[2], "#d8b24a", COLOURS[4]])


def column_of(goal: Goal) -> Column:
    """Return how the metric of a goal is shown."""
    return COLUMNS.get(goal.metric, Column(goal.metric.replace("_", " "), goal.metric, "{:.4f}"))


def start_of(folder: Path, trial: Trial | None) -> Mapping[str, Any] | None:
    """Return the metrics of a trial's validation before training; None if it has none."""
    lines = [] if trial is None else _validations(folder, trial)
    return next((line for line in lines if line["step"] == 0), None)


def breakable(key: str) -> str:
    """Let a key break after each dot in the head of a column."""
    return key.replace(".", ".\u200b")


def _validations(folder: Path, trial: Trial) -> list[dict[str, Any]]:
    path = folder / TRIALS / trial.name / METRICS
    lines = read_metrics(path) if path.is_file() else []
    return [line for line in lines if line["kind"] == "validation"]


def pareto_front(sweep: Sweep, folder: Path) -> Figure:
    """Plot the first metric against each other one: trials that count and, from the run folders, before training."""
    first, *others = sweep.goals
    front, best = sweep.front, sweep.best
    rest = [trial.best for trial in sweep.trials if trial.best is not None and trial not in front]
    starts = [start for trial in sweep.trials if (start := start_of(folder, trial)) is not None]
    figure, row = dressed((WIDE[0], 3.8), *((column_of(first).title, column_of(other).title) for other in others))
    for axes, other in zip(row, others, strict=True):

        def points(
            lines: Sequence[Mapping[str, Any]], names: tuple[str, str] = (first.metric, other.metric)
        ) -> tuple[list[float], ...]:
            known = [line for line in lines if all(line.get(name) is not None for name in names)]
            return tuple([line[name] for line in known] for name in names)

        axes.plot(*points(rest), "o", color=INK, alpha=0.45, markersize=5)
        axes.plot(*points(starts), "D", color=COLOURS[1], markersize=6)
        reached = points([trial.best or {} for trial in front])
        # A line from the best by one metric to the best by the other. With more metrics, the front is not a line.
        line = "-" if len(others) == 1 else ""
        axes.plot(*reached, line, drawstyle="steps-post", color=COLOURS[2], linewidth=1.4, alpha=0.7)
        axes.plot(*reached, "o", color=COLOURS[2], markersize=7)
        axes.plot(*points([best.best or {}] if best else []), "o", color=COLOURS[2], markersize=13, fillstyle="none")
        for trial, x, y in zip(front, *reached, strict=True):
            name = trial.name.lstrip("0") or "0"
            axes.annotate(name, (x, y), (6, 6), textcoords="offset points", fontsize=8.5, color=INK)
    return figure


def learning_curves(sweep: Sweep, folder: Path) -> Figure | None:
    """Plot the deciding metrics of all trials over the iterations, from the run folders; None if there are none."""
    shades, thick = _shades(sweep), {trial.name for trial in sweep.front}
    validations = {trial.name: _validations(folder, trial) for trial in sweep.trials}
    if not any(goal.cost(line) is not None for lines in validations.values() for line in lines for goal in sweep.goals):
        return None
    figure, row = dressed(WIDE, *(("iteration", column_of(goal).title) for goal in sweep.goals), whole=True)
    for axes, goal in zip(row, sweep.goals, strict=True):
        measured = {
            name: np.array(
                [
                    (line["step"], line[goal.metric], line.get(HACKED, 0))
                    for line in lines
                    if goal.cost(line) is not None
                ],
                dtype=float,
            ).reshape(-1, 3)
            for name, lines in validations.items()
        }
        for name, rows in measured.items():
            width, alpha, order = (3.0, 1.0, 3) if name in thick else (1.1, 0.75, 2)
            axes.plot(*rows[:, :2].T, color=shades.get(name, INK), linewidth=width, alpha=alpha, zorder=order)
        drawn = np.concatenate(list(measured.values()))[:, 1]
        if len(drawn):
            # One trial that diverged must not flatten all others.
            low, high = np.quantile(drawn, [0.0, 0.95] if goal.mode == "min" else [0.05, 1.0])
            margin = 0.06 * (high - low) or 0.05
            low, high = low - margin, high + margin
            axes.set_ylim(*((max(low, 0.0), min(high, 1.0)) if goal.metric in SHARES else (low, high)))
        for name, rows in measured.items():
            steps, values, _ = rows[rows[:, 2] > 0].T
            if len(steps):
                shown = np.clip(values, *axes.get_ylim())
                axes.plot(steps, shown, "x", color=shades.get(name, INK), markersize=6, clip_on=False)
    return figure


def _shades(sweep: Sweep) -> dict[str, Any]:
    """Return the colours of the trials that count, by rank."""
    counting = sorted((trial for trial in sweep.trials if trial.best is not None), key=sweep.costs)
    return {trial.name: SHADES(rank / max(1, len(counting) - 1)) for rank, trial in enumerate(counting)}


def parallel_coordinates(sweep: Sweep) -> Figure | None:
    """Draw keys and results of all trials, one axis each; return None for fewer than two trials."""
    keys, ranked = sweep.keys, sweep.ranked
    if len(ranked) < 2:
        return None
    columns = {key: [trial.values.get(key) for trial in ranked] for key in keys}
    columns |= {
        column_of(goal).short: [(trial.best or {}).get(goal.metric) for trial in ranked] for goal in sweep.goals
    }
    placed = [_place(values) for values in columns.values()]
    width = max(NORMAL[0], min(WIDE[0], 1.9 * len(columns)))
    figure, (axes,) = dressed((width, 3.6), ("", ""))
    shades, thick = _shades(sweep), {trial.name for trial in sweep.front}
    for trial, *heights in reversed(list(zip(ranked, *(heights for heights, _ in placed), strict=True))):
        width, alpha = (3.0, 1.0) if trial.name in thick else (1.2, 0.7)
        style, colour = "-" if trial.best is not None else ":", shades.get(trial.name, INK)
        axes.plot(range(len(columns)), heights, style, color=colour, linewidth=width, alpha=alpha)
    for x, (name, (_, ticks)) in enumerate(zip(columns, placed, strict=True)):
        axes.plot([x, x], [0, 1], color=INK, linewidth=1.0)
        shift, side = (-0.03, "right") if x < len(keys) else (0.03, "left")
        for height, text in ticks:
            axes.text(x + shift, height, text, color=INK, fontsize=8.5, ha=side, va="center")
        text = name.replace(".", ".\n").replace(", ", ",\n")
        axes.text(x, 1.06, text, color=INK, fontsize=9.5, ha="center", va="bottom")
    tallest = max(name.count(".") + 1 for name in [*keys, "a.b"])
    axes.set(xlim=(-0.45, len(columns) - 0.6), ylim=(-0.05, 1.1 + 0.08 * tallest))
    axes.set_axis_off()
    return figure


def _place(values: Sequence[Any]) -> tuple[list[float], list[tuple[float, str]]]:
    """Place values on an axis from 0 to 1: numbers along their range, logarithmic if it is wide, other values evenly.

    Returns:
        The height of every value, NaN for a number that is None; and heights and labels of the ticks.
    """
    if not _numeric(values):
        words = list(dict.fromkeys(map(str, values)))
        even = {word: (index + 0.5) / len(words) for index, word in enumerate(words)}
        return [even[str(value)] for value in values], [(height, word) for word, height in even.items()]
    numbers = [float(value) for value in values if value is not None]
    log = bool(numbers) and min(numbers) > 0 and max(numbers) >= 10 * min(numbers)
    scaled = [math.log10(number) for number in numbers] if log else numbers
    low, high = (min(scaled), max(scaled)) if scaled else (0.0, 1.0)

    def height(value: Any) -> float:
        number = math.nan if value is None else math.log10(value) if log else float(value)
        return number if math.isnan(number) else 0.5 if high == low else (number - low) / (high - low)

    ticks = sorted(set(numbers))
    if not 1 <= len(ticks) <= 4:
        ticks = [10**value if log else value for value in np.linspace(low, high, 4).tolist()]
    return list(map(height, values)), [(height(tick), f"{tick:.3g}".replace("-", "−")) for tick in ticks]


def _numeric(values: Sequence[Any]) -> bool:
    known = [value for value in values if value is not None]
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in known)


def importance(sweep: Sweep, goal: Goal) -> dict[str, tuple[float, float | None, int]]:
    """Estimate how much of the ranks of the results each key accounts for by itself, largest first.

    For numbers this is the square of Spearman's rank correlation, for other values the correlation ratio η² of the
    ranks. It measures association over the trials at hand. It cannot see keys that act together. Trials that a
    scheduler stopped early enter with the results of less training.

    Returns:
        By key: the share between 0 and 1; for numbers, Spearman's correlation with the metric; and the probability in
        per cent that a key without any effect reaches this share (2,000 permutations).
    """
    reached = [(trial, trial.best[goal.metric]) for trial in sweep.trials if trial.best is not None]
    if len(reached) < FEWEST:
        return {}
    trials, ranks = [trial for trial, _ in reached], rankdata([value for _, value in reached])
    if len(set(ranks)) < 2:
        return {}
    generator = np.random.default_rng(0)
    shuffled = np.stack([ranks, *(generator.permutation(ranks) for _ in range(2000))])
    shares: dict[str, tuple[float, float | None, int]] = {}
    for key in sweep.keys:
        values = [trial.values.get(key) for trial in trials]
        words = np.array(list(map(str, values)))
        if len(set(words)) < 2:
            continue
        ordered = _numeric(values) and None not in values
        own = rankdata(np.array(values, dtype=float)) if ordered else None
        columns = words[:, None] == np.unique(words) if own is None else (own - own.mean())[:, None]
        share, *by_chance = _explained(shuffled, columns.astype(float)).tolist()
        above = sum(other >= share - 1e-12 for other in by_chance)
        correlation = None if own is None else float(np.corrcoef(own, ranks)[0, 1])
        shares[key] = (share, correlation, round(100 * (above + 1) / len(shuffled)))
    return dict(sorted(shares.items(), key=lambda item: -item[1][0]))


def _explained(ranks: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Return the share of the variance of ranks (m, n) that orthogonal columns (n, k) explain, (m,)."""
    centred = ranks - ranks.mean(axis=1, keepdims=True)
    return ((centred @ columns) ** 2 / (columns**2).sum(axis=0)).sum(axis=1) / (centred**2).sum(axis=1)


def importance_bars(found: Mapping[str, tuple[float, float | None, int]]) -> Figure:
    """Draw one bar per key."""
    size = (WIDE[0], 0.7 + 0.34 * len(found))
    figure, (axes,) = dressed(size, ("share of the variance of the results' ranks", ""), along="x")
    names = list(found)[::-1]
    axes.barh(names, [found[name][0] for name in names], color=COLOURS[0], height=0.6)
    axes.set_xlim(0, 1)
    return figure
