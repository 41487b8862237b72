#!/usr/bin/env python
"""Label decorated prototypes of compositions that are not among the bundled crystals, with a MatGL potential.

  python scripts/assets/label_decorated.py --potential POTENTIAL --out work/labels/decorated

They are not relaxed, only brought to the best of a few volumes: the potential learns from many compositions how the
energies of prototypes compare, at a fraction of the cost of relaxation. Each part is a file of its own. Existing files
are left alone, so an interrupted run resumes.
"""

from __future__ import annotations

import argparse
import multiprocessing
import warnings
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
from configurations import KINDS, decorated, usable
from decorations import Candidate, candidates
from identity import fingerprint, require_same
from teacher import Teacher
from torch import Tensor

from omatg_ray.assets import crystals as bundled_crystals
from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.crystal.read import read_dataset
from omatg_ray.reward.potential import Potential, load_potential
from omatg_ray.run.location import PROTOTYPES as OF_PROTOTYPES
from omatg_ray.run.progress import Progress
from omatg_ray.seeding import generator
from omatg_ray.train.splits import SPLITS

PART = 50  # candidates in a file
SCALES = (0.7, 0.85, 1.0, 1.2, 1.45)  # volumes tried, in units of the guess

_teacher: Teacher
_potential: Potential


def main() -> None:
    """Make the missing parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--potential", required=True, help="MatGL potential: a folder or a name")
    parser.add_argument("--out", type=Path, required=True, help="folder of the labels")
    parser.add_argument("--limit", type=int, default=10_000, help="only this many of the first candidates")
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    inputs = {
        "potential": load_potential(arguments.potential).fingerprint,
        "crystals": fingerprint(*(bundled_crystals(split, OF_PROTOTYPES) for split in SPLITS)),
    }
    require_same(arguments.out / "inputs.json", inputs)
    others = further_candidates()[: arguments.limit]
    parts = [others[start : start + PART] for start in range(0, len(others), PART)]
    paths = [arguments.out / f"decorated-{number:03d}.safetensors" for number in range(len(parts))]
    todo = [item for item in zip(parts, paths, strict=True) if not item[1].exists()]
    context = multiprocessing.get_context("spawn")
    with (
        ProcessPoolExecutor(arguments.workers, context, _start, (arguments.potential,)) as pool,
        Progress(len(todo), "label decorated") as bar,
    ):
        for _ in pool.map(_label, todo):
            bar.advance()


def further_candidates() -> list[Candidate]:
    """List the candidates of all compositions that are in no split of the bundled crystals."""
    known = CrystalBatch.cat(read_dataset(bundled_crystals(split, OF_PROTOTYPES)).crystals for split in SPLITS)
    bundled = {structure.composition.reduced_formula for structure in known.to_structures()}
    return [one for one in candidates(everything=True) if one.formula not in bundled]


def best_volumes(crystals: CrystalBatch, potential: Potential) -> tuple[CrystalBatch, Tensor]:
    """Scale crystals to the volume of lowest energy among `SCALES`; also return which have a usable one (B,)."""
    energies = torch.full((len(SCALES), len(crystals)), torch.inf, dtype=torch.float64)
    for place, scale in enumerate(SCALES):
        scaled = crystals.replace(cell=crystals.cell * scale ** (1 / 3))
        fit = usable(scaled)
        energies[place, fit] = potential.energies(scaled.select(fit.nonzero()[:, 0]))
    lowest, row = energies.min(0)
    best = torch.tensor(SCALES)[row]
    return crystals.replace(cell=crystals.cell * best[:, None, None] ** (1 / 3)), lowest.isfinite()


def _start(potential: str) -> None:
    global _teacher, _potential
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    _teacher, _potential = Teacher(potential), load_potential(potential)


def _label(item: tuple[list[Candidate], Path]) -> None:
    part, path = item
    crystals = CrystalBatch.from_structures([candidate.structure() for candidate in part])
    crystals, found = best_volumes(crystals, _potential)
    crystals = crystals.select(found.nonzero()[:, 0])
    rng = generator(0, "decorated", path.stem)
    crystals = CrystalBatch.cat([crystals, decorated(crystals, rng)])
    crystals = crystals.select(usable(crystals).nonzero()[:, 0])
    labels = _teacher(crystals, torch.full((len(crystals),), KINDS.index("decorated")))
    labels.select(labels.energy.isfinite()).save(path)


if __name__ == "__main__":
    main()
