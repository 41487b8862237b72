#!/usr/bin/env python
"""Search the ground states of ground_states.yaml: of formulas that no file which the bundled models learned from has.

  python scripts/studies/ground_states.py --models bundled/base bundled --out runs/ground_states

For each model and formula: generate crystals of the expected number of formula units, relax and rank them. Found is a
ground state if the relaxed crystals hold one of its space group (to 0.1 or 0.2 A), first if the lowest of them has it.
Writes a JSON file for each search and tables.md; finished searches are not repeated.
"""

from __future__ import annotations

import argparse
import json
import warnings
from pathlib import Path
from typing import Any

import yaml

from omatg_ray.commands.generate import GenerateOptions, generate
from omatg_ray.errors import DataError
from omatg_ray.model.sampling import Sampling
from omatg_ray.model.schedule import OWN, read_schedule
from omatg_ray.run.atomic import write_json, write_text
from omatg_ray.run.location import BUNDLED
from omatg_ray.run.progress import print_line

FORMULAS = Path(__file__).with_suffix(".yaml")
KEPT = ("rank", "energy_per_atom", "energy_above_best", "space_group", "space_group_looser", "copies", "relaxation")


def main() -> None:
    """Search what has not been searched, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", required=True)
    parser.add_argument("--formulas", nargs="+", help="only these")
    parser.add_argument("-n", type=int, default=64, help="samples of each formula")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--schedule", default=OWN)
    parser.add_argument("--relax", type=int, default=100)
    parser.add_argument("--potential", default=BUNDLED)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    expected = yaml.safe_load(FORMULAS.read_text(encoding="utf-8"))
    asked = [one for one in expected if not arguments.formulas or one["formula"] in arguments.formulas]
    found: dict[str, list[dict[str, Any]]] = {model: [] for model in arguments.models}
    for one in asked:
        for model in arguments.models:
            path = arguments.out / model.strip("/").replace("/", "-") / f"{one['formula']}.json"
            if not path.exists():
                write_json(path, search(model, one, arguments))
            found[model].append(judge(one, json.loads(path.read_text(encoding="utf-8"))))
            print_line(f"{one['formula']:<12} {model:<24} {found[model][-1]['said']}")
    lines = table(asked, found)
    write_text(arguments.out / "tables.md", "\n".join(lines) + "\n")
    print("\n".join(lines))


def search(model: str, one: dict[str, Any], arguments: argparse.Namespace) -> dict[str, Any]:
    """Generate, relax and rank; return what is kept of each crystal."""
    options = GenerateOptions(
        model=model,
        formulas=(one["formula"],),
        z=(one["z"],),
        count=arguments.n,
        sampling=Sampling(arguments.steps, read_schedule(arguments.schedule)),
        potential=arguments.potential,
        relax=arguments.relax,
        seed=arguments.seed,
        workers=arguments.workers,
        threads=1,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            ranked = generate(options)
        except DataError as error:  # none of the crystals is valid
            return {"invalid": arguments.n, "crystals": [], "error": str(error)}
    return {"invalid": ranked.invalid, "crystals": [{key: row[key] for key in KEPT} for row in ranked.properties]}


def judge(one: dict[str, Any], searched: dict[str, Any]) -> dict[str, Any]:
    """Return whether the expected space group was found and is first, and the rest in words."""
    rows = searched["crystals"]
    hits = [row for row in rows if one["space_group"] in (row["space_group"], row["space_group_looser"])]
    if not hits:
        lowest = f"lowest: {rows[0]['space_group']}" if rows else "nothing valid"
        return {"found": False, "first": False, "said": f"not found; {lowest}"}
    best, copies = hits[0], sum(row["copies"] for row in hits)
    above = "first" if best["rank"] == 1 else f"rank {best['rank']}, {best['energy_above_best']:+.3f} eV/atom"
    return {"found": True, "first": best["rank"] == 1, "said": f"{above}, {copies} samples"}


def table(asked: list[dict[str, Any]], found: dict[str, list[dict[str, Any]]]) -> list[str]:
    """Return the lines of a Markdown table."""
    lines = [f"| | expected | {' | '.join(found)} |", f"|{'---|' * (len(found) + 2)}"]
    for row, one in enumerate(asked):
        cells = " | ".join(of[row]["said"] for of in found.values())
        lines.append(f"| {one['formula']} (z = {one['z']}) | {one['space_group']}, {one['prototype']} | {cells} |")
    counts = " | ".join(f"{sum(o['found'] for o in of)}, {sum(o['first'] for o in of)}" for of in found.values())
    return [*lines, f"| found, and first, of {len(asked)} | | {counts} |"]


if __name__ == "__main__":
    main()
