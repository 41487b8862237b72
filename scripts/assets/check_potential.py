#!/usr/bin/env python
r"""How a student potential compares with its teacher on held-out compositions: the figures of its card.

  python scripts/assets/check_potential.py --student omatg_ray/assets/potential --teacher POTENTIAL \
      --model omatg_ray/assets/base --out work/potential

Writes figures.json and volumes.svg (energies against volume beside the teacher's). Energies are without the
short-range repulsion of `reward.repulsion`, which is the same for both.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from configurations import usable
from scipy.stats import spearmanr

from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.crystal.dataset import CrystalDataset
from omatg_ray.crystal.read import read_dataset
from omatg_ray.model import FlowModel
from omatg_ray.reward.potential import Potential, load_potential

PER_COMPOSITION = 24  # generated crystals; those that are not valid are left out
FEWEST = 16
STEPS = 20
SCALES = np.linspace(0.7, 1.6, 19)


def main() -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--student", required=True)
    parser.add_argument("--teacher", required=True)
    parser.add_argument("--model", type=Path, required=True, help="sampler that generates")
    parser.add_argument("--crystals", type=Path, default=Path("omatg_ray/assets/crystals/test.extxyz"))
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    student, teacher = load_potential(arguments.student), load_potential(arguments.teacher)
    dataset = read_dataset(arguments.crystals)
    relaxed = dataset.crystals
    generated, group = generate(arguments.model, dataset)
    figures = {
        "relaxed": compare(energies(student, relaxed), energies(teacher, relaxed)),
        "generated": compare(energies(student, generated), energies(teacher, generated)),
        **ranking(energies(student, generated), energies(teacher, generated), group),
        **polymorphs(energies(student, relaxed), energies(teacher, relaxed), dataset.compositions),
        "seconds_per_1000_relaxed": {
            "student": seconds(student, relaxed),
            "teacher": seconds(teacher, relaxed),
        },
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "figures.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    figures |= volumes(student, teacher, dataset, arguments.out / "volumes.svg")
    (arguments.out / "figures.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(figures, indent=1))


def energies(potential: Potential, crystals: CrystalBatch) -> np.ndarray:
    """eV/atom (B,), of the network alone."""
    return (potential.energies(crystals, repulsion=False) / crystals.n_atoms).numpy()


def seconds(potential: Potential, crystals: CrystalBatch) -> float:
    """Seconds for a thousand crystals on one thread, graphs included; the better of two."""
    taken = []
    for _ in range(2):
        start = time.perf_counter()
        energies(potential, crystals)
        taken.append((time.perf_counter() - start) / len(crystals) * 1000)
    return min(taken)


def generate(model: Path, dataset: CrystalDataset) -> tuple[CrystalBatch, np.ndarray]:
    """Valid generated crystals and the composition of each: for each held-out composition, cells of its polymorphs."""
    rows_of = defaultdict(list)
    for row, formula in enumerate(dataset.compositions):
        rows_of[formula].append(row)
    species = [z.tolist() for z in dataset.crystals.species.split(dataset.crystals.layout.sizes)]
    formulas, cells = [], []
    for formula, rows in rows_of.items():
        for copy in range(PER_COMPOSITION):
            formulas.append(formula)
            cells.append(species[rows[copy % len(rows)]])
    crystals = FlowModel.load(model).generate(cells, steps=STEPS, seed=1)
    keep = usable(crystals)
    return crystals.select(keep.nonzero()[:, 0]), np.array(formulas)[keep.numpy()]


def compare(student: np.ndarray, teacher: np.ndarray) -> dict[str, float]:
    """Errors in eV/atom; those of crystals above +3 eV/atom are left out, where the reward is flat."""
    counted = teacher < 3.0
    error = np.abs(student - teacher)[counted]
    return {"n": int(counted.sum()), "mae": float(error.mean()), "median": float(np.median(error))}


def ranking(student: np.ndarray, teacher: np.ndarray, group: np.ndarray) -> dict[str, Any]:
    """Spearman's rank correlation within each composition that has enough valid crystals."""
    values = []
    for formula in np.unique(group):
        rows = group == formula
        if rows.sum() >= FEWEST:
            values.append(float(spearmanr(student[rows], teacher[rows]).statistic))
    return {
        "spearman_mean": float(np.mean(values)),
        "spearman_quantiles_10_50_90": np.quantile(values, [0.1, 0.5, 0.9]).tolist(),
        "spearman_compositions": len(values),
    }


def polymorphs(student: np.ndarray, teacher: np.ndarray, compositions: list[str]) -> dict[str, Any]:
    """How often both put the same polymorph of a composition lowest, and the error of differences to it."""
    group, agree, errors = np.array(compositions), [], []
    for formula in np.unique(group):
        rows = np.flatnonzero(group == formula)
        if len(rows) > 1:
            low = rows[teacher[rows].argmin()]
            agree.append(rows[student[rows].argmin()] == low)
            errors += [abs((student[row] - student[low]) - (teacher[row] - teacher[low])) for row in rows if row != low]
    return {
        "lowest_polymorph_agrees": float(np.mean(agree)),
        "lowest_polymorph_compositions": len(agree),
        "polymorph_difference_mae": float(np.mean(errors)),
    }


def volumes(student: Potential, teacher: Potential, dataset: CrystalDataset, path: Path) -> dict[str, float]:
    """E(V) of twelve crystals, drawn, and the error of the equilibrium volume over all of them."""
    import matplotlib.pyplot as plt

    cells = torch.from_numpy(SCALES ** (1 / 3)).float()[:, None, None]
    shown = [row * len(dataset) // 12 for row in range(12)]
    figure, axes = plt.subplots(3, 4, figsize=(11, 7), sharex=True, layout="constrained")
    shifts = []
    for row in range(len(dataset)):
        one = dataset.crystals.select([row]).tile(len(SCALES))
        scaled = one.replace(cell=one.cell * cells)
        if row % 4 and row not in shown:
            continue
        curves = {"teacher": energies(teacher, scaled), "student": energies(student, scaled)}
        shifts.append(abs(minimum(curves["student"]) - minimum(curves["teacher"])))
        if row in shown:
            axis = axes.flat[shown.index(row)]
            axis.plot(SCALES, curves["teacher"], color="0.5", lw=3, label="teacher")
            axis.plot(SCALES, curves["student"], color="tab:blue", lw=1.2, label="bundled potential")
            name = dataset.properties[row].get("prototype", "")
            axis.set_title(f"{dataset.compositions[row]} ({name})".replace("_", " "), fontsize=9)
    axes.flat[0].legend(fontsize=8)
    figure.supxlabel("volume in units of the relaxed one")
    figure.supylabel("energy (eV/atom)")
    figure.savefig(path, metadata={"Date": None})
    return {"equilibrium_volume_mae": float(np.mean(shifts)), "equilibrium_volume_crystals": len(shifts)}


def minimum(curve: np.ndarray) -> float:
    """Volume of the minimum in units of the relaxed one, by a parabola through the lowest points."""
    low = int(np.clip(curve.argmin(), 1, len(curve) - 2))
    a, b, _ = np.polyfit(SCALES[low - 1 : low + 2], curve[low - 1 : low + 2], 2)
    return float(-b / (2 * a)) if a > 0 else float(SCALES[low])


if __name__ == "__main__":
    main()
