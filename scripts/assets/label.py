#!/usr/bin/env python
"""Labels crystals, what becomes of them when disturbed, and what base models generate, with a MatGL potential.

  python scripts/assets/label.py --potential POTENTIAL --split train --out work/labels/train
  python scripts/assets/label.py --potential POTENTIAL --split train --out work/labels/train --models runs/bundled_base

Each part is a file of its own; files that are there are left alone, so that a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import multiprocessing
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
from configurations import KINDS, MAKERS, usable
from identity import fingerprint, of_model, require_same
from teacher import Teacher

from omatg_ray.assets import crystals as bundled_crystals
from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.crystal.read import read_dataset
from omatg_ray.model.flow_model import FlowModel
from omatg_ray.model.sampling import Sampling
from omatg_ray.reward.potential import load_potential
from omatg_ray.run.progress import Progress
from omatg_ray.seeding import generator, seed_of

PART = 250  # crystals in a file
COPIES = {"strained": 1, "rattled": 2, "swapped": 1, "random": 1}
# Few steps make the rough crystals that a policy passes through on its way.
STEPS = (10, 20, 50)

_teacher: Teacher


def main() -> None:
    """Makes the parts that are missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--potential", required=True, help="MatGL potential: a folder or a name")
    parser.add_argument("--split", choices=["train", "val"], required=True, help="split of the bundled crystals")
    parser.add_argument("--models", type=Path, nargs="*", default=[], help="samplers whose crystals are labelled too")
    parser.add_argument("--out", type=Path, required=True, help="folder of the labels")
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    path = bundled_crystals(arguments.split)
    inputs = {"potential": load_potential(arguments.potential).fingerprint, "crystals": fingerprint(path)}
    require_same(arguments.out / "inputs.json", inputs)
    crystals = read_dataset(path).crystals
    todo: list[tuple[CrystalBatch, str, Path]] = []

    def plan(name: str, kind: str, make: Callable[[], CrystalBatch]) -> None:
        paths = [arguments.out / f"{name}-{part:03d}.safetensors" for part in range(-(-len(crystals) // PART))]
        if not all(path.exists() for path in paths):
            parts = torch.arange(len(crystals)).split(PART)
            made = make()
            todo.extend((made.select(rows), kind, path) for rows, path in zip(parts, paths, strict=True))

    plan("relaxed", "relaxed", lambda: crystals)
    for kind, copies in COPIES.items():
        for copy in range(copies):
            rng = generator(seed_of(0, arguments.split, kind, copy), "configurations")
            plan(f"{kind}-{copy}", kind, lambda kind=kind, rng=rng: MAKERS[kind](crystals, rng))  # type: ignore[misc]
    for model in arguments.models:
        for steps in STEPS:
            seed = seed_of(0, arguments.split, str(steps)) % 2**31
            name = f"generated-{of_model(model)}-{steps}"
            plan(name, "generated", lambda m=model, s=steps, x=seed: generated(m, crystals, s, x))  # type: ignore[misc]
    todo = [item for item in todo if not item[2].exists()]
    with (
        ProcessPoolExecutor(
            arguments.workers, multiprocessing.get_context("spawn"), _start, (arguments.potential,)
        ) as pool,
        Progress(len(todo), f"label {arguments.split}") as bar,
    ):
        for _ in pool.map(_label, todo):
            bar.advance()


def generated(path: Path, crystals: CrystalBatch, steps: int, seed: int) -> CrystalBatch:
    """One crystal of a sampler for each crystal."""
    model = FlowModel.load(path)
    species = [z.tolist() for z in crystals.species.split(crystals.layout.sizes)]
    return model.generate(species, Sampling(steps), seed=seed)


def _start(potential: str) -> None:
    global _teacher
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    _teacher = Teacher(potential)


def _label(item: tuple[CrystalBatch, str, Path]) -> None:
    crystals, kind, path = item
    crystals = crystals.select(usable(crystals).nonzero()[:, 0])
    labels = _teacher(crystals, torch.full((len(crystals),), KINDS.index(kind)))
    labels.select(labels.energy.isfinite()).save(path)


if __name__ == "__main__":
    main()
