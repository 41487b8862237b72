#!/usr/bin/env python
"""Break evaluations down by the size of the cell and by the number of elements.

  omatg-ray evaluate MODEL --data test.extxyz --steps 10 --potential POTENTIAL --json ten.json
  python scripts/studies/by_size.py ten.json others.json

Prints a table per evaluation, with 95 % intervals over compositions. Crystals are taken as they were generated, also
where the evaluation relaxed them.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from pymatgen.core import Composition
from torch import Tensor

from omatg_ray.evaluate.compositions import ByComposition
from omatg_ray.reward.matching import MatchSettings

ATOMS = {"1 to 10 atoms": (1, 10), "11 to 20": (11, 20), "21 to 30": (21, 30), "31 and more": (31, 999)}
ELEMENTS = {"1 or 2 elements": (1, 2), "3": (3, 3), "4": (4, 4), "5 and more": (5, 99)}
ENERGY = "relative energy (eV/atom), capped mean"
COLUMNS = ("match rate", "METRe", "RMSE", "cRMSE", ENERGY, "median", "invalid")


def main() -> None:
    """Read and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("evaluations", type=Path, nargs="+", help="JSON files that evaluate wrote of single cases")
    for path in parser.parse_args().evaluations:
        evaluation = json.loads(path.read_text(encoding="utf-8"))
        print(f"\n{evaluation['label']}, {evaluation['steps']} steps, {evaluation['potential']}")
        print("\n".join(table(evaluation["per_structure"])))


def table(each: dict[str, list[Any]]) -> list[str]:
    """Return the lines of a Markdown table: all crystals, then those of each bin that has any."""
    contents = [Composition(formula) for formula in each["formula"]]
    atoms, elements = [round(one.num_atoms) for one in contents], [len(one) for one in contents]
    lines = [f"| | n | {' | '.join(COLUMNS)} |", f"|{'---|' * (len(COLUMNS) + 2)}"]
    for bins, sizes in (({"all": (0, 999)}, atoms), (ATOMS, atoms), (ELEMENTS, elements)):
        for name, (low, high) in bins.items():
            rows = [row for row, size in enumerate(sizes) if low <= size <= high]
            if rows:
                lines.append(f"| {name} | {len(rows)} | {' | '.join(cells(each, rows))} |")
    return lines


def cells(each: dict[str, list[Any]], rows: list[int]) -> list[str]:
    """Return the metrics of some crystals, as in `COLUMNS`."""

    def column(name: str, missing: float = math.nan) -> Tensor:
        values = each.get(name) or [None] * len(each["formula"])
        return torch.tensor([missing if values[row] is None else float(values[row]) for row in rows]).double()

    rmse, valid, relative = column("rmse"), column("valid"), column("relative_energy")
    means = {
        "match rate": (~rmse.isnan()).double(),
        "METRe": column("reference_recalled"),
        "RMSE": rmse,
        "cRMSE": rmse.nan_to_num(MatchSettings().stol),
        ENERGY: column("relative_energy_capped"),
        "invalid": 1 - valid,
    }
    found = ByComposition.of([each["composition"][row] for row in rows]).with_rows(means).intervals()
    signed: dict[str, Callable[[float], str]] = {ENERGY: "{:+.3f}".format}
    out = []
    for name in COLUMNS:
        if name == "median":
            known = relative[relative.isfinite()]
            out.append(f"{float(known.quantile(0.5)):+.3f}" if len(known) else "–")
            continue
        shown, interval = signed.get(name, "{:.3f}".format), found[name]
        limits = f" [{shown(interval.low)}, {shown(interval.high)}]" if math.isfinite(interval.low) else ""
        out.append(shown(interval.mean) + limits if math.isfinite(interval.mean) else "–")
    return out


if __name__ == "__main__":
    main()
