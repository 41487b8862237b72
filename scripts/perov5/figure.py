"""Figure of the README: validation curves of the reinforced runs, and energies of held-out crystals before and after.

    python scripts/perov5/figure.py --runs runs/perov5_velocity_{0,1,2} --weak runs/perov5_weak_velocity_{0,1,2} \
        --table runs/perov5_table/base_none --out docs/figures/perov5.svg
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from omatg_ray.run.metrics import read_metrics

COLOURS = {"base": "#1f6f9f", "weak base": "#c4622d"}
CURVES = (
    ("relative_energy_mean_capped", "mean relative energy (eV/atom)\ninvalid at the cap"),
    ("invalid_share", "invalid share"),
    ("match_rate", "match rate"),
)
BINS = np.linspace(-0.6, 1.6, 56)


def curve(ax: Axes, runs: list[Path], label: str, metric: str) -> None:
    """Draw every seed as a thin line and their mean as a thick one."""
    lines = []
    for run in runs:
        points = [row for row in read_metrics(run / "metrics.jsonl") if row["kind"] == "validation"]
        steps, values = [row["step"] for row in points], [row[metric] for row in points]
        ax.plot(steps, values, color=COLOURS[label], alpha=0.35, linewidth=1)
        lines.append(values)
    ax.plot(steps, np.mean(lines, axis=0), color=COLOURS[label], linewidth=2.2, label=label)


def relative_energies(path: Path) -> list[float]:
    """Read the relative energies of an evaluation, without invalid crystals."""
    values: dict[str, Any] = json.loads(path.read_text())
    return [value for value in values["per_structure"]["relative_energy"] if value is not None]


def main() -> None:
    """Draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, nargs="+", required=True)
    parser.add_argument("--weak", type=Path, nargs="+", required=True)
    parser.add_argument("--table", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()

    figure = Figure(figsize=(13, 3.4), layout="constrained", facecolor="white")
    axes = figure.subplots(1, 4)
    for ax, (metric, title) in zip(axes, CURVES, strict=False):
        curve(ax, options.runs, "base", metric)
        curve(ax, options.weak, "weak base", metric)
        ax.set(xlabel="iteration", title=title, ylim=(0, None) if metric != CURVES[0][0] else None)
        ax.title.set_fontsize(10)
    axes[0].legend(frameon=False)
    last = sorted(options.table.glob(f"{options.runs[0].name}_*.json"), key=lambda path: int(path.stem.split("_")[-1]))
    for path, label, colour in ((options.table / "base.json", "before", "#9aa4b5"), (last[-1], "after", "#1f6f9f")):
        energies = np.clip(relative_energies(path), BINS[0], BINS[-1])
        axes[3].hist(energies, bins=BINS, histtype="stepfilled", alpha=0.6, label=label, color=colour)
    axes[3].set(xlabel="relative energy (eV/atom)", title="held-out crystals, first seed\n(ends gather what is beyond)")
    axes[3].set_yscale("log")
    axes[3].title.set_fontsize(10)
    axes[3].legend(frameon=False)
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.out)


if __name__ == "__main__":
    main()
