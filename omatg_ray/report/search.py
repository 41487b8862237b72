"""Report of a search: best energies against evaluations, the best crystals drawn, and how far to trust it."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure

from omatg_ray.crystal.write import write_structures
from omatg_ray.report.page import card, crystal_card, format_number, grid, page, soft, table
from omatg_ray.report.plots import COLOURS, DASHES, WIDE, dressed, legend
from omatg_ray.run.atomic import replace_folder, write_text

if TYPE_CHECKING:
    from pymatgen.core import Structure

    from omatg_ray.crystal.batch import CrystalBatch
    from omatg_ray.search.convergence import Convergence
    from omatg_ray.search.loop import Course

Row = Mapping[str, Any]

DRAWN = 4
"""Crystals drawn of each formula, the lowest."""
DISTANT = 1.0
"""eV/atom above the lowest energy up to which a curve shows."""


def write_search(
    folder: Path,
    courses: Mapping[str, Course],
    crystals: CrystalBatch,
    properties: Sequence[Row],
    convergence: Mapping[str, Convergence],
    holes: Sequence[str],
) -> Path:
    """Write `rounds.csv`, `cif/` and `report.html`.

    Args:
        folder: Output folder.
        courses: How the search of each formula went.
        crystals: Distinct crystals, best first in each composition.
        properties: A row for each, as those of `generate`; with `first_sample`.
        convergence: How often they were found, by formula.
        holes: Formulas whose lowest energy may be a hole of the potential.

    Returns:
        Path of the report.
    """
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["formula", "samples", "evaluations", "seconds", "best_energy_per_atom"])
    for formula, course in courses.items():
        for samples, evaluations, seconds, best in course.history:
            rows.writerow([formula, samples, evaluations, f"{seconds:.2f}", best if math.isfinite(best) else ""])
    write_text(folder / "rounds.csv", text.getvalue())
    structures = crystals.to_structures()
    with replace_folder(folder / "cif") as fresh:
        write_structures(f"{fresh}/", structures, properties)
    nothing = "no valid crystal"
    trust = "".join(soft(f"{formula}: {convergence.get(formula, nothing)}.") for formula in courses)
    if holes:
        trust += soft(
            f"{', '.join(holes)}: the lowest energy lies far below all others, which a hole of the potential "
            "would do, too. Do not trust it before another potential agrees."
        )
    sections = [
        ("Course", grid([card("", _curves(courses), "Energy above the lowest that was found, after each round.")])),
        ("The lowest", grid([_drawn(formula, structures, properties) for formula in convergence])),
        ("How far to trust it", trust),
        ("Distinct crystals", _table(structures, properties)),
    ]
    samples, invalid = (sum(getattr(each, name) for each in courses.values()) for name in ("samples", "invalid"))
    summary = soft(
        f"{', '.join(courses)}: {samples} samples, {invalid} invalid, {len(properties)} distinct crystals listed."
    )
    write_text(folder / "report.html", page(folder.resolve().name, summary, sections))
    return folder / "report.html"


def _curves(courses: Mapping[str, Course]) -> Figure:
    figure, (axes,) = dressed(WIDE, ("evaluations (one with gradients: 3)", "eV/atom above the lowest"))
    for index, (formula, course) in enumerate(courses.items()):
        reached = [(evaluations, best) for _, evaluations, _, best in course.history if math.isfinite(best)]
        if not reached:
            continue
        evaluations, energies = zip(*reached, strict=True)
        above = [energy - course.best for energy in energies]
        colour, dash = COLOURS[index % len(COLOURS)], DASHES[index // len(COLOURS) % len(DASHES)]
        axes.step(evaluations, above, where="post", color=colour, linestyle=dash, label=formula)
        axes.plot(evaluations[-1], above[-1], "o", color=colour, markersize=4)
    axes.set_ylim(top=min(axes.get_ylim()[1], DISTANT))
    legend(axes)
    return figure


def _drawn(formula: str, structures: Sequence[Structure], properties: Sequence[Row]) -> str:
    drawn = {}
    for row in [row for row, values in enumerate(properties) if values["formula"] == formula][:DRAWN]:
        values = properties[row]
        title = f"{values['rank']}: {values['space_group'] or '-'} (z = {values['z']})"
        caption = f"{format_number(values['energy_above_best'], '{:+.3f}')} eV/atom\nfound {values['copies']} times"
        drawn[title] = (structures[row].to_ase_atoms(), caption)
    return crystal_card(formula, drawn, "")


def _table(structures: Sequence[Structure], properties: Sequence[Row]) -> str:
    head = ["formula", "rank", "z", "eV/atom", "above the best", "space group", "g/cm³", "found", "first by sample"]
    second = any(row["second_energy_above_best"] is not None for row in properties)
    phases = any("above_hull" in row for row in properties)
    rows = [
        [
            row["formula"],
            str(row["rank"]),
            str(row["z"]),
            format_number(row["energy_per_atom"], "{:.4f}"),
            format_number(row["energy_above_best"], "{:+.4f}"),
            row["space_group"] or "–",
            f"{structure.density:.3f}",
            str(row["copies"]),
            str(row["first_sample"]),
            *([format_number(row["second_energy_above_best"], "{:+.4f}")] if second else []),
            *([format_number(row["above_hull"], "{:+.4f}")] if phases else []),
        ]
        for structure, row in zip(structures, properties, strict=True)
    ]
    head += ["above the best, second potential"] * second + ["above the hull"] * phases
    return table(head, rows)
