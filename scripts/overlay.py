"""Compare runs: learning curves laid over each other, and the largest difference of every logged metric.

    python scripts/overlay.py runs/one_process runs/ray --out docs/figures/overlay.svg --weights --require-identical

Numbers are compared as written in metrics.jsonl (to the last digit, timings aside), weights bit by bit. The first run
is drawn broad and each later one finer on top of it, so that equal curves are all visible.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from safetensors import SafetensorError, deserialize

from omatg_ray.errors import DataError, ModelError, OmatgRayError
from omatg_ray.report.panels import PRETRAINING, REINFORCEMENT
from omatg_ray.report.plots import COLOURS, INK, dress, values
from omatg_ray.run.atomic import write_bytes
from omatg_ray.run.folder import RunFolder
from omatg_ray.run.metrics import read_metrics

SHOWN = ("energy_mean", "reward_mean", "kl_pos", "loss", "relative_energy_mean_capped", "match_rate", "val_loss")
TIMINGS = ("time_", "idle_", "startup_")

Lines = Sequence[Mapping[str, Any]]
Metric = tuple[str, str]  # kind of line, name


def metrics_of(runs: Sequence[Lines]) -> list[Metric]:
    """Return kind and name of all logged metrics, timings aside, in the order of the logs."""
    found = {(line["kind"], name): None for lines in runs for line in lines for name in line}
    return [(kind, name) for kind, name in found if name not in ("kind", "step") and not name.startswith(TIMINGS)]


def column(lines: Lines, metric: Metric) -> dict[int, float | None]:
    """Return the values of a metric by step, None where it was NaN."""
    kind, name = metric
    return {line["step"]: line[name] for line in lines if line["kind"] == kind and name in line}


def compare_numbers(names: Sequence[str], runs: Sequence[Lines]) -> bool:
    """Print how far every metric of each run is from that of the first run; return whether all are equal."""
    identical = True
    for name, lines in zip(names[1:], runs[1:], strict=True):
        differing = []
        print(f"{names[0]} and {name}:")
        print(f"  {'':10} {'metric':28} {'common steps':>12} {'largest difference':>18}")
        for metric in metrics_of([runs[0], lines]):
            ours, theirs = column(runs[0], metric), column(lines, metric)
            common = ours.keys() & theirs.keys()
            gaps = [abs(a - b) for step in common if (a := ours[step]) is not None and (b := theirs[step]) is not None]
            largest = f"{max(gaps):18.3g}" if gaps else f"{'–':>18}"
            apart = [step for step in sorted(ours.keys() | theirs.keys()) if ours.get(step, "") != theirs.get(step, "")]
            print(f"  {metric[0]:10} {metric[1]:28} {len(common):12} {largest}{' *' if apart else ''}")
            differing += [(apart[0], " ".join(metric))] if apart else []
        if differing:
            step, which = min(differing)
            print(f"  not identical: {len(differing)} metrics (*) differ or lack steps, first {which} in step {step}")
        else:
            print(f"  all numbers are identical ({len(lines)} lines; timings not compared)")
        identical &= not differing
    return identical


def last(run: RunFolder) -> Path:
    """Return the folder of the last checkpoint."""
    return (run.checkpoints / "last").resolve()


def tensors(run: RunFolder) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """Read type, shape and bytes of every tensor in the last checkpoint, by file and name.

    Raises:
        ModelError: There is no checkpoint, or it cannot be read.
    """
    files = sorted(last(run).glob("*.safetensors"))
    if not files:
        raise ModelError(f"{last(run)} holds no weights; leave out --weights, or let the run write some")
    try:
        return {
            f"{path.name}: {name}": (entry["dtype"], tuple(entry["shape"]), bytes(entry["data"]))
            for path in files
            for name, entry in deserialize(path.read_bytes())
        }
    except (OSError, SafetensorError) as error:
        raise ModelError(f"cannot read the weights in {last(run)}: {error}") from error


def compare_weights(names: Sequence[str], runs: Sequence[RunFolder]) -> bool:
    """Print which tensors of the last checkpoints differ from the first run's; return whether all are equal."""
    first, identical = tensors(runs[0]), True
    for name, run in zip(names[1:], runs[1:], strict=True):
        other = tensors(run)
        keys = sorted(first.keys() | other.keys())
        apart = [key for key in keys if first.get(key) != other.get(key)]
        which = f"{names[0]} ({last(runs[0]).name}) and {name} ({last(run).name})"
        if apart:
            print(f"weights of {which}: {len(apart)} of {len(keys)} tensors differ, the first is {apart[0]}")
        else:
            print(f"weights of {which}: all {len(keys)} tensors are identical, bit by bit")
        identical &= not apart
    return identical


def draw(names: Sequence[str], runs: Sequence[Lines], shown: Sequence[Metric]) -> Figure:
    """Draw one panel per metric."""
    units = {
        (curve.kind, curve.name): (panel.ylabel, panel.xlabel)
        for panel in (*PRETRAINING, *REINFORCEMENT)
        for curve in panel.shown
    }
    columns = min(3, len(shown))
    rows = -(-len(shown) // columns)
    figure = Figure(figsize=(4.6 * columns, 0.4 + 2.8 * rows), layout="constrained", facecolor="white")
    widths = [1.6 + 2.6 * finer for finer in reversed(range(len(runs)))]
    for number, (kind, metric) in enumerate(shown, start=1):
        axes = figure.add_subplot(rows, columns, number)
        ylabel, xlabel = units.get((kind, metric), (metric, "iteration"))
        dress(axes, xlabel, ylabel)
        axes.set_title(f"{metric} ({kind})", fontsize=10, color=INK)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        for i, (name, lines) in enumerate(zip(names, runs, strict=True)):
            steps, numbers = values(lines, kind, metric)
            marker = "o" if kind == "validation" or len(steps) == 1 else None
            style: dict[str, Any] = {"linewidth": widths[i], "marker": marker, "markersize": widths[i] + 3}
            dashes = "--" if i == len(runs) - 1 else "-"  # so that the curves under the finest one stay visible
            axes.plot(steps, numbers, dashes, color=COLOURS[i % len(COLOURS)], label=name, **style)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=len(names), frameon=False, handlelength=4)
    return figure


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare, draw and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("first", type=Path, help="run folder that the others are compared with")
    parser.add_argument("others", type=Path, nargs="+", help="run folders")
    parser.add_argument("--out", type=Path, help="picture to write (SVG)")
    parser.add_argument("--metrics", help=f"metrics to draw; default: those logged of {','.join(SHOWN)}")
    parser.add_argument("--weights", action="store_true", help="also compare the last checkpoints")
    parser.add_argument("--require-identical", action="store_true", help="exit with 1 if anything differs")
    options = parser.parse_args(arguments)

    paths = [options.first, *options.others]
    runs = [RunFolder(path) for path in paths]
    names = [path.resolve().name for path in paths]
    if len(set(names)) < len(names):
        names = [str(path) for path in paths]
    try:
        logs = [read_metrics(run.metrics_path) for run in runs]
        wanted = options.metrics.split(",") if options.metrics else SHOWN
        shown = [metric for name in wanted for metric in metrics_of(logs) if metric[1] == name]
        unknown = set(wanted) - {name for _, name in shown} if options.metrics else set()
        if unknown or not shown:
            there = ", ".join(dict.fromkeys(name for _, name in metrics_of(logs))) or "nothing"
            raise DataError(
                f"no run logged {', '.join(sorted(unknown)) or 'any of the default metrics'}; there is {there}"
            )
        identical = compare_numbers(names, logs)
        if options.weights:
            identical &= compare_weights(names, runs)
        if options.out:
            buffer = io.BytesIO()
            with matplotlib.rc_context({"svg.hashsalt": "omatg-ray"}):
                draw(names, logs, shown).savefig(buffer, format="svg", metadata={"Date": None})
            options.out.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(options.out, buffer.getvalue())
    except OmatgRayError as error:
        parser.error(str(error))
    return 1 if options.require_identical and not identical else 0


if __name__ == "__main__":
    raise SystemExit(main())
