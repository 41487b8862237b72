"""Figures of a run, made without pyplot: no background, and `INK`, which `svg` turns into the colour of the page."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, PercentFormatter

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

Points = tuple[np.ndarray, np.ndarray]
"""Steps (n,) and values (n,)."""

INK = "#0a0b0c"
COLOURS = ("#3b82d6", "#e0762a", "#2b9e76", "#a06cd5", "#d0556b")
DASHES = ("-", "--", ":", "-.", (0, (6, 1)), (0, (3, 1, 1, 1)), (0, (1, 3)), (0, (8, 3, 1, 3)))
NORMAL, WIDE = (5.6, 3.1), (11.4, 2.9)
CHARACTERS = 13
"""Characters of a legend per inch of figure width."""
SMOOTH_FROM = 60
"""Noisy curves with at least this many points also get a running mean."""


@dataclass(frozen=True)
class Curve:
    """One metric over the steps of a run.

    Args:
        kind: `train`, `validation` or `pretrain`.
        name: Name of the metric.
        label: Text in the legend.
        spread: Metric drawn as a band of ± its value around the curve.
        smooth: Whether the metric is noisy enough that a long run needs a running mean.
    """

    kind: str
    name: str
    label: str
    spread: str | None = None
    smooth: bool = False


def values(lines: Sequence[Mapping[str, Any]], kind: str, name: str) -> Points:
    """Return steps (n,) and values (n,) of one metric, from the lines that have a finite number for it."""
    pairs = [(line["step"], line[name]) for line in lines if line["kind"] == kind and line.get(name) is not None]
    points = np.array(pairs, dtype=float).reshape(-1, 2)
    steps, numbers = points[np.isfinite(points[:, 1])].T
    return steps, numbers


@dataclass(frozen=True)
class Panel:
    """A picture of metrics over the steps of a run.

    Args:
        title: Title of the picture.
        shown: Metrics to draw; those without numbers are left out.
        ylabel: Label of the vertical axis, with the unit.
        caption: Text below the picture.
        xlabel: Label of the horizontal axis.
        percent: Whether the metrics are shares, shown in per cent, from 0 on.
        share: Whether the metrics are shares, shown as they are.
        log: Whether the vertical axis is logarithmic.
        marks_best: Whether the point of the best checkpoint on the first curve is marked.
        optional: Whether some runs cannot have its metrics; such a panel is left out if all its values are 0.
    """

    title: str
    shown: tuple[Curve, ...]
    ylabel: str
    caption: str = ""
    xlabel: str = "iteration"
    percent: bool = False
    share: bool = False
    log: bool = False
    marks_best: bool = False
    optional: bool = False

    def figure(self, lines: Sequence[Mapping[str, Any]], best: int | None = None) -> Figure | None:
        """Draw the picture; return None if the run has none of its metrics.

        Args:
            lines: Lines from `read_metrics`.
            best: Step of the best checkpoint.
        """
        series = [(curve, *values(lines, curve.kind, curve.name)) for curve in self.shown]
        series = [entry for entry in series if len(entry[1])]
        if not series or (self.optional and not any(numbers.any() for _, _, numbers in series)):
            return None
        figure, (axes,) = dressed(NORMAL, (self.xlabel, self.ylabel), whole=True, percent=self.percent)
        for (curve, steps, numbers), colour in zip(series, COLOURS, strict=False):
            band_steps, band = values(lines, curve.kind, curve.spread) if curve.spread else (np.zeros(0), np.zeros(0))
            if curve.smooth and len(steps) >= SMOOTH_FROM:
                axes.plot(steps, numbers, color=colour, linewidth=0.7, alpha=0.35)
                numbers, band = running_mean(numbers, len(steps) // 40), running_mean(band, len(steps) // 40)
            marker = "o" if curve.kind == "validation" or len(steps) == 1 else None
            axes.plot(steps, numbers, color=colour, marker=marker, markersize=4, linewidth=1.8, label=curve.label)
            if np.array_equal(band_steps, steps):
                axes.fill_between(steps, numbers - band, numbers + band, color=colour, alpha=0.15, linewidth=0)
        if self.log:
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 1.5, 2.0, 3.0, 5.0, 7.0)))
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_locator(NullLocator())
        if self.percent or self.share:
            bound_share(axes, from_0=self.percent)
        _, steps, numbers = series[0]
        if self.marks_best and best in steps:
            at, label = steps == best, f"best ({self.xlabel} {best})" if best else "best: the base"
            axes.plot(steps[at], numbers[at], "o", markersize=11, fillstyle="none", markeredgecolor=INK, label=label)
        if len(axes.get_lines()) > 1 or series[0][0].spread:
            legend(axes)
        return figure


def banded_lines(
    series: Mapping[str, Sequence[tuple[float, Mapping[str, Any]]]],
    xlabel: str,
    ylabel: str,
    percent: bool = False,
    log: bool = False,
    size: tuple[float, float] = NORMAL,
    share: bool = False,
) -> Figure | None:
    """Draw one line with a band per series; return None if no series has two points.

    Args:
        series: Points in ascending order, by name: x and a value with its limits, as in `interval_dict`.
        xlabel: Label of the horizontal axis.
        ylabel: Label of the vertical axis, with the unit.
        percent: Whether values are shares, shown in per cent, from 0 on.
        log: Whether the horizontal axis is logarithmic.
        size: Width and height in inches.
        share: Whether values are shares, shown as they are.
    """
    if not any(len(points) > 1 for points in series.values()):
        return None
    figure, (axes,) = dressed(size, (xlabel, ylabel), percent=percent)
    ticks = sorted({x for points in series.values() for x, _ in points})
    if log:
        axes.set_xscale("log")
    axes.set_xticks(ticks, [f"{x:g}" for x in ticks])
    axes.xaxis.set_minor_locator(NullLocator())
    for number, (name, points) in enumerate(series.items()):
        rows = [(x, *(interval.get(key) for key in ("mean", "low", "high"))) for x, interval in points]
        x, value, low, high = np.array(rows, dtype=float).reshape(-1, 4).T  # None becomes NaN
        colour, dash = COLOURS[number % len(COLOURS)], DASHES[number // len(COLOURS) % len(DASHES)]
        axes.plot(x, value, color=colour, linestyle=dash, marker="o", markersize=4, linewidth=1.8, label=name)
        axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
    if percent or share:
        bound_share(axes, from_0=percent)
    if len(series) > 1:
        legend(axes)
    return figure


def bound_share(axes: Axes, from_0: bool = False) -> None:
    """End the vertical axis at 0 and 1, which no share can exceed; `from_0` always begins it there.

    Lines and points at a bound are drawn whole.
    """
    low, high = axes.get_ylim()
    axes.set_ylim(0.0 if from_0 else max(low, 0.0), min(high, 1.0))
    for line in axes.get_lines():
        line.set_clip_on(False)


def running_mean(numbers: np.ndarray, reach: int) -> np.ndarray:
    """Average each point with up to `reach` neighbours on either side, equally many on both: (n,) to (n,)."""
    last = len(numbers) - 1
    near = [min(reach, i, last - i) for i in range(len(numbers))]
    return np.array([numbers[i - n : i + n + 1].mean() for i, n in enumerate(near)])


def energy_histogram(
    energies: Mapping[str, Sequence[float | None]], highest: float = math.inf, size: tuple[float, float] = WIDE
) -> Figure | None:
    """Draw histograms of relative energies per structure; return None if there are none.

    Args:
        energies: eV/atom of every structure, None for invalid ones, by name of the evaluation.
        highest: Upper bound, in eV/atom, on where the last bin starts, which holds everything above.
        size: Width and height in inches.
    """
    valid, pooled = _known(energies)
    if not len(pooled):
        return None
    low, high = np.quantile(pooled, 0.005), np.quantile(pooled, 0.95)
    low, high = min(low, -0.05), min(max(high, 0.05), highest)
    beyond = {name: int((numbers > high).sum()) for name, numbers in valid.items()}
    xlabel = "energy relative to the reference (eV/atom)"
    if any(beyond.values()):
        counts = ", ".join(f"{name} {count}" for name, count in beyond.items())
        xlabel += f"\nthe last bin holds all above {high:.2g}: {counts}"
    clipped = {name: np.clip(numbers, low, high) for name, numbers in valid.items()}
    figure = _outlines(energies, clipped, "valid", (low, high), xlabel, size)
    figure.axes[0].axvline(0.0, color=INK, linewidth=0.8, linestyle=":")
    return figure


def rmse_histogram(matches: Mapping[str, Sequence[float | None]], size: tuple[float, float] = WIDE) -> Figure | None:
    """Draw histograms of the RMSE of matched structures; return None if none matches.

    Args:
        matches: RMSE of every structure in units of (V/N)^(1/3), None without a match, by name of the evaluation.
        size: Width and height in inches.
    """
    matched, pooled = _known(matches)
    if not len(pooled):
        return None
    return _outlines(matches, matched, "matched", (0.0, max(pooled.max(), 0.05)), "RMSE / (V/N)$^{1/3}$", size)


def _known(samples: Mapping[str, Sequence[float | None]]) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Return the numbers of each sample, and of all together."""
    known = {name: np.array([value for value in all_ if value is not None], float) for name, all_ in samples.items()}
    return known, np.concatenate([np.zeros(0), *known.values()])


def _outlines(
    samples: Mapping[str, Sequence[float | None]],
    known: Mapping[str, np.ndarray],
    what: str,
    limits: tuple[float, float],
    xlabel: str,
    size: tuple[float, float],
) -> Figure:
    """Draw histograms of the known numbers of samples over one another, filled if there are at most two."""
    figure, (axes,) = dressed(size, (xlabel, "structures"))
    edges = np.linspace(*limits, 41).tolist()
    for (name, numbers), colour in zip(known.items(), COLOURS, strict=False):
        if len(known) <= 2:
            axes.hist(numbers, edges, color=colour, alpha=0.35)
        label = f"{name}: {len(numbers)} {what} of {len(samples[name])}"
        axes.hist(numbers, edges, color=colour, histtype="step", linewidth=1.6, label=label)
    legend(axes)
    return figure


def svg(figure: Figure) -> str:
    """Return a figure as an SVG element for HTML, with `INK` in the colour of the surrounding text."""
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "omatg-ray"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r' xmlns(:\w+)?="[^"]*"', "", text)
    return text.replace(INK, "currentColor")


def dressed(
    size: tuple[float, float],
    *labels: tuple[str, str],
    whole: bool = False,
    percent: bool = False,
    along: Literal["x", "y"] = "y",
) -> tuple[Figure, list[Axes]]:
    """Create a figure with axes side by side, all in the style of `dress`.

    Args:
        size: Width and height in inches.
        labels: Labels of the horizontal and the vertical axis, for each axes.
        whole: Whether the horizontal axis counts something.
        percent: Whether the vertical axis shows shares in per cent.
        along: Axis whose ticks have lines.
    """
    figure = Figure(figsize=size, layout="constrained")
    row = [figure.add_subplot(1, len(labels), number) for number in range(1, len(labels) + 1)]
    for axes, (xlabel, ylabel) in zip(row, labels, strict=True):
        dress(axes, xlabel, ylabel, along)
        if whole:
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if percent:
            axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    return figure, row


def dress(axes: Axes, xlabel: str, ylabel: str, along: Literal["x", "y"] = "y") -> None:
    """Give axes their labels and the common style of all figures."""
    axes.set_xlabel(xlabel, color=INK)
    axes.set_ylabel(ylabel, color=INK)
    axes.tick_params(colors=INK, labelsize=9, length=3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(INK)
    axes.grid(axis=along, color=INK, alpha=0.12, linewidth=0.8)
    axes.set_axisbelow(True)


def legend(axes: Axes, handles: Sequence[Artist] | None = None) -> None:
    """Put a legend above the axes, for `handles` or, by default, for everything labelled."""
    if handles is None:
        handles = axes.get_legend_handles_labels()[0]
    labels = [str(handle.get_label()) for handle in handles]
    widest = [max(map(len, column), default=0) for column in np.array_split(labels, 4)]
    columns = 2 if sum(widest) > 45 else 4
    if columns == 2 and 2 * max(map(len, labels)) > CHARACTERS * axes.figure.bbox.width / axes.figure.get_dpi():
        columns = 1
    layout: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (0, 1), "ncols": columns, "borderpad": 0.2}
    axes.legend(handles=handles, frameon=False, labelcolor=INK, fontsize=9, **layout)
