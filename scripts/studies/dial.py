#!/usr/bin/env python
"""Draw what guidance trades: the share of the lowest polymorph against the share of the known polymorphs found.

  python scripts/assets/diversity.py --models runs/polymorphs --guidance 0 --guidance 1 --guidance 2 --out dial.json ...
  python scripts/studies/dial.py dial.json --figure docs/figures/dial.svg

Takes what scripts/assets/diversity.py wrote for one model with several `--guidance`. Bars are 95 % intervals.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

from omatg_ray.model.sampling import UNGUIDED, in_short


def label(name: str) -> str:
    """Return the guidance of a row as it is given to commands: of 'runs/x (2.0, 2.0, -1.0)' 2:2,-1."""
    found = re.fullmatch(r".* \(([-\d., ]+)\)", name)
    return in_short(map(float, found[1].rstrip(",").split(",")) if found else UNGUIDED)


def draw(rows: dict[str, dict[str, Any]], path: Path) -> None:
    """Draw a point for each row."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.2), layout="constrained", facecolor="white")
    ax = figure.subplots()
    for name, row in rows.items():
        (x, xerr), (y, yerr) = (
            (one["mean"], [[one["mean"] - one["low"]], [one["high"] - one["mean"]]])
            for one in (row["coverage"], row["lowest"])
        )
        mixed = "," in label(name)
        ax.errorbar(
            x,
            y,
            yerr,
            xerr,
            fmt="s" if mixed else "o",
            color="#c4622d" if mixed else "#1f6f9f",
            elinewidth=0.6,
            alpha=0.9,
        )
        ax.annotate(label(name), (x, y), xytext=(5, 5), textcoords="offset points", fontsize=9)
    (samples, compositions), *others = {(row["k"], row["compositions"]) for row in rows.values()}
    if others:
        raise SystemExit("dial.py: the results are of other numbers of samples or compositions; measure them alike")
    ax.set_xlabel(f"share of the known polymorphs found by {samples} samples")
    ax.set_ylabel("share of samples that are the lowest one")
    ax.set_title(f"guidance, {compositions} compositions", fontsize=10)
    figure.savefig(path)


def main() -> None:
    """Read and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, nargs="+", help="of diversity.py, of one model")
    parser.add_argument("--figure", type=Path, required=True)
    options = parser.parse_args()
    rows = {name: row for path in options.results for name, row in json.loads(path.read_text(encoding="utf-8")).items()}
    draw(rows, options.figure)


if __name__ == "__main__":
    main()
