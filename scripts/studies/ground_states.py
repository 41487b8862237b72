#!/usr/bin/env python
"""Search the ground states of a list: by default of formulas that no file which the bundled models learned from has.

  python scripts/studies/ground_states.py --models bundled/base bundled --out runs/ground_states
  python scripts/studies/ground_states.py --models bundled --list scripts/studies/search_formulas.yaml \
      --methods reinforce sample random --potential POTENTIAL --second-potential OTHER --out runs/ten

For each model, method and formula: make crystals of the expected number of formula units, relax and rank them. Method
generate makes all at once, the others are those of `omatg-ray search`. Found is a ground state if the relaxed crystals
hold one of its space group (to 0.1 or 0.2 A), first if the lowest of them has it. Writes a JSON file for each search
and tables.md; finished searches are not repeated.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from pathlib import Path
from typing import Any

import yaml

from omatg_ray.commands.generate import GenerateOptions, generate
from omatg_ray.commands.search import METHODS, Search, SearchOptions
from omatg_ray.errors import DataError
from omatg_ray.model.sampling import Sampling
from omatg_ray.model.schedule import OWN, read_schedule
from omatg_ray.run.atomic import write_json, write_text
from omatg_ray.run.location import BUNDLED
from omatg_ray.run.progress import print_line

FORMULAS = Path(__file__).with_suffix(".yaml")
KEPT = (
    *("rank", "energy_per_atom", "energy_above_best", "space_group", "space_group_looser", "copies", "relaxation"),
    *("second_energy_above_best", "first_sample"),
)
GENERATE = "generate"
BATCH = 8
"""Samples of a round of a search."""


def main() -> None:
    """Search what has not been searched, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", required=True)
    parser.add_argument("--list", type=Path, default=FORMULAS, help="formulas and their ground states, as YAML")
    parser.add_argument("--formulas", nargs="+", help="only these")
    parser.add_argument("--methods", nargs="+", default=[GENERATE], choices=[GENERATE, *METHODS])
    parser.add_argument("-n", type=int, default=64, help="samples of each formula")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--schedule", default=OWN)
    parser.add_argument("--relax", type=int, default=100)
    parser.add_argument("--potential", default=BUNDLED)
    parser.add_argument("--second-potential")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    expected = yaml.safe_load(arguments.list.read_text(encoding="utf-8"))
    asked = [one for one in expected if not arguments.formulas or one["formula"] in arguments.formulas]
    found: dict[str, list[dict[str, Any]]] = {}
    for one in asked:
        for model in arguments.models:
            for method in arguments.methods:
                name = model if method == GENERATE else f"{model} {method}"
                path = arguments.out / name.strip("/").replace("/", "-").replace(" ", "-") / f"{one['formula']}.json"
                if not path.exists():
                    write_json(path, make(model, method, one, arguments))
                judged = judge(one, json.loads(path.read_text(encoding="utf-8")))
                found.setdefault(name, []).append(judged)
                print_line(f"{one['formula']:<12} {name:<24} {judged['said']}")
    lines = table(asked, found)
    write_text(arguments.out / "tables.md", "\n".join(lines) + "\n")
    print("\n".join(lines))


def make(model: str, method: str, one: dict[str, Any], arguments: argparse.Namespace) -> dict[str, Any]:
    """Make crystals, relax and rank them; return what is kept of each."""
    options: dict[str, Any] = {
        "model": model,
        "formulas": (one["formula"],),
        "z": (one["z"],),
        "sampling": Sampling(arguments.steps, read_schedule(arguments.schedule)),
        "potential": arguments.potential,
        "second_potential": arguments.second_potential,
        "relax": arguments.relax,
        "seed": arguments.seed,
        "workers": arguments.workers,
        "threads": 1,
    }
    spent: dict[str, Any] = {}
    begin = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            if method == GENERATE:
                ranked = generate(GenerateOptions(**options, count=arguments.n))
            else:
                options["method"] = method
                searched = Search(SearchOptions(**options, batch=BATCH))
                course = searched.courses[one["formula"]]
                for _ in searched:
                    if course.samples >= arguments.n:
                        break
                spent["history"] = course.history
                ranked = searched.found().ranked
        except DataError as error:  # none of the crystals is valid
            return {"invalid": arguments.n, "crystals": [], "error": str(error)}
    crystals = [{key: row[key] for key in KEPT if key in row} for row in ranked.properties]
    return {"invalid": ranked.invalid, "crystals": crystals, "seconds": time.process_time() - begin, **spent}


def judge(one: dict[str, Any], searched: dict[str, Any]) -> dict[str, Any]:
    """Return whether the expected space group was found and is first, and the rest in words."""
    rows = searched["crystals"]
    hits = [row for row in rows if one["space_group"] in (row["space_group"], row["space_group_looser"])]
    if not hits:
        lowest = f"lowest: {rows[0]['space_group']}" if rows else "nothing valid"
        return {"found": False, "first": False, "said": f"not found; {lowest}"}
    best, copies = hits[0], sum(row["copies"] for row in hits)
    above = "first" if best["rank"] == 1 else f"rank {best['rank']}, {best['energy_above_best']:+.3f} eV/atom"
    said = f"{above}, {copies} samples"
    if (first := min((row["first_sample"] for row in hits if "first_sample" in row), default=None)) is not None:
        said += f" from number {first} on"
    return {"found": True, "first": best["rank"] == 1, "said": said}


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
