"""Compare the methods of `omatg-ray search` on cells with several known polymorphs, each until its first hit.

    python scripts/studies/search_methods.py --out runs/search_study --limit 40 --atoms 8 28
    python scripts/studies/search_methods.py --out runs/search_study --confirm TEACHER --seeds 0 1 2

A hit is a relaxed sample within 5 meV/atom of the lowest known polymorph, relaxed under the same potential; with
--confirm also within 10 meV/atom by another potential, so that holes of the first do not count, and the sampler learns
from mean energies of both. What is done is kept in the folder: call it again to continue. The table has, for each
method, the share of cells with a hit within 64 samples, and the mean number of samples and of evaluations (one with
gradients counts three) up to the hit; 64 samples where there was none.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from omatg_ray.assets import crystals as bundled_crystals
from omatg_ray.commands.search import METHODS
from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.crystal.dataset import CrystalDataset
from omatg_ray.crystal.read import read_dataset
from omatg_ray.evaluate.backend import local_backend
from omatg_ray.evaluate.relaxation import relax_all
from omatg_ray.model.flow_model import FlowModel
from omatg_ray.model.sampling import Sampling
from omatg_ray.reward.energy import MatGLEnergy
from omatg_ray.run.atomic import write_json
from omatg_ray.run.progress import Progress
from omatg_ray.search.archive import Distinct
from omatg_ray.search.loop import SearchLoop, Work

VERSION = 3
"""Of what the options mean; a study is not continued with another one."""
HIT = 5e-3
"""eV/atom above the lowest known polymorph."""
CONFIRMED = 10e-3
"""The same by the potential that confirms."""


def targets(
    dataset: CrystalDataset,
    atoms: tuple[int, int],
    limit: int,
    only: Sequence[str],
    energy: MatGLEnergy,
    confirm: MatGLEnergy | None,
) -> list[dict[str, Any]]:
    """Return compositions all of whose several known polymorphs have cells of these sizes, spread over the file.

    Only some of them if they are named. Each with the cell of its lowest known polymorph, and the energy of that.
    """
    least, most = atoms
    of: dict[str, list[int]] = defaultdict(list)
    for row, name in enumerate(dataset.compositions):
        of[name].append(row)
    several = [rows for rows in of.values() if len(rows) > 1]
    sizes = [len(numbers) for numbers in dataset.crystals.atomic_numbers]
    several = [rows for rows in several if all(least <= sizes[row] <= most for row in rows)]
    several = [rows for rows in several if not only or dataset.compositions[rows[0]] in only]
    several = [
        several[index] for index in torch.linspace(0, len(several) - 1, min(limit, len(several))).long().tolist()
    ]
    found = []
    with Progress(len(several), "references") as bar:
        for rows in several:
            done = relax_all(dataset.crystals.select(rows), energy, 300)
            energies = done.energy / done.crystals.n_atoms
            lowest = int(energies.nan_to_num(torch.inf).argmin())
            species = list(dataset.crystals.atomic_numbers[rows[lowest]])
            name = dataset.compositions[rows[0]]
            about = {"formula": name, "species": species, "energy": float(energies[lowest]), "known": len(rows)}
            found.append(about | {"confirmed": by(confirm, done.crystals.select([lowest]))})
            bar.advance()
    return found


def main() -> None:
    """Run what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", default="bundled")
    parser.add_argument("--crystals", help="known polymorphs (default: the bundled test split)")
    parser.add_argument("--potential", default="bundled")
    parser.add_argument("--confirm", help="potential that has to agree, and that is learned from, too")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--atoms", nargs=2, type=int, default=[2, 28], metavar=("LEAST", "MOST"))
    parser.add_argument("--limit", type=int, default=40)
    parser.add_argument("--only", nargs="+", default=[], metavar="FORMULA", help="only these compositions")
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--relax", type=int, default=100)
    parser.add_argument("--batch", type=int, default=8)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.out.mkdir(parents=True, exist_ok=True)
    energy, model = MatGLEnergy(arguments.potential), FlowModel.load(arguments.model)
    confirm = None if arguments.confirm is None else MatGLEnergy(arguments.confirm)
    asked = {"version": VERSION} | {
        name: value for name, value in vars(arguments).items() if name not in ("out", "seeds", "methods")
    }
    if (settings := arguments.out / "settings.json").exists():
        if json.loads(settings.read_text(encoding="utf-8")) != asked:
            parser.error(f"{arguments.out} holds a study with other options; name another folder")
    else:
        write_json(settings, asked)
    named = arguments.out / "targets.json"
    if not named.exists():
        dataset = read_dataset(arguments.crystals or bundled_crystals("test"))
        atoms = (arguments.atoms[0], arguments.atoms[1])
        write_json(named, targets(dataset, atoms, arguments.limit, arguments.only, energy, confirm))
    cells = json.loads(named.read_text(encoding="utf-8"))
    rows = []
    for place, cell in enumerate(cells):
        for seed in arguments.seeds:
            for method in arguments.methods:
                kept = arguments.out / f"{place}_{method}_{seed}.json"
                if not kept.exists():
                    write_json(kept, searched(cell, model, energy, confirm, method, seed, arguments))
                rows.append(json.loads(kept.read_text(encoding="utf-8")))
    for method in arguments.methods:
        of = [row for row in rows if row["method"] == method]
        mean = {name: sum(row[name] for row in of) / len(of) for name in ("hit", "samples", "evaluations", "seconds")}
        print(
            f"{method:>10}: {len(of)} searches, hit {mean['hit']:.3f}, samples {mean['samples']:.1f}, "
            f"evaluations {mean['evaluations']:.0f}, seconds {mean['seconds']:.1f}"
        )


def by(energy: MatGLEnergy | None, crystal: CrystalBatch) -> float | None:
    """Return the energy of a crystal in eV/atom by a potential, None without one."""
    return None if energy is None else float(energy.relaxed(crystal, 0).energy / crystal.n_atoms)


def first_hit(cell: dict[str, Any], found: Distinct, confirm: MatGLEnergy | None, most: int) -> int | None:
    """Return the number of the sample that was the first hit, None if there is none among the first `most`."""
    for row in found.first.argsort().tolist():
        if found.energy[row] > cell["energy"] + HIT or found.first[row] > most:
            continue
        other = by(confirm, found.crystals.select([row]))
        if other is None or other <= cell["confirmed"] + CONFIRMED:
            return int(found.first[row])
    return None


def searched(
    cell: dict[str, Any],
    model: FlowModel,
    energy: MatGLEnergy,
    confirm: MatGLEnergy | None,
    method: str,
    seed: int,
    arguments: argparse.Namespace,
) -> dict[str, Any]:
    """Search a cell until its first hit."""
    work = Work(Sampling(steps=arguments.steps), arguments.relax, arguments.batch)
    loop = SearchLoop({cell["formula"]: [cell["species"]]}, METHODS[method](model, seed), work, confirm)
    course, begin, hit, before = loop.courses[cell["formula"]], time.process_time(), None, 0
    with local_backend(0, 10.0, energy) as backend:
        for _ in loop.run(backend.evaluate):
            if len(loop.archive):
                hit = first_hit(cell, loop.archive.all, confirm, arguments.samples)
            if hit is not None and hit <= before:
                hit = course.samples  # a sample of this round has lowered an earlier one that was no hit
            before = course.samples
            if hit is not None or course.samples >= arguments.samples:
                break
    samples = hit or course.samples
    return {
        "formula": cell["formula"],
        "atoms": len(cell["species"]),
        "method": method,
        "seed": seed,
        "hit": hit is not None,
        "samples": samples,
        "evaluations": course.evaluations * samples / course.samples,
        "seconds": time.process_time() - begin,
        "above": course.best - cell["energy"],
    }


if __name__ == "__main__":
    main()
