#!/usr/bin/env python
"""Compare a bundled potential with its teacher on held-out compositions: the figures of its card.

  python scripts/assets/check_potential.py --teacher POTENTIAL --out runs/assets/potential_figures
  python scripts/assets/check_potential.py --teacher POTENTIAL --student bundled-periodic --model bundled-periodic \
      --crystals runs/periodic/crystals/test.extxyz --out runs/periodic/potential_figures

With `--like OTHER`, only crystals whose elements OTHER knows, too, so that two students are asked the same. Writes
figures.json and volumes.svg (energies against volume beside the teacher's).
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
from ase.data import covalent_radii
from matplotlib.figure import Figure
from scipy.stats import spearmanr

from omatg_ray.assets import crystals as bundled_crystals
from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.crystal.dataset import CrystalDataset
from omatg_ray.crystal.read import read_dataset
from omatg_ray.crystal.validity import check_validity
from omatg_ray.model.checks import known_elements
from omatg_ray.model.flow_model import FlowModel
from omatg_ray.model.sampling import Sampling
from omatg_ray.reward.energy import MatGLEnergy
from omatg_ray.reward.potential import Potential, load_potential
from omatg_ray.run.atomic import write_json
from omatg_ray.run.location import PROTOTYPES
from omatg_ray.run.progress import print_line

COMPOSITIONS, PER_COMPOSITION = 120, 24  # generated crystals; invalid ones are left out
FEWEST = 16
TIMED = 100  # crystals of each size whose energies are timed
STEPS = 20
SCALES = np.linspace(0.7, 1.6, 19)
CURVES = 114  # crystals whose E(V) is measured
ATOMS = {"1 to 10": (1, 10), "11 to 20": (11, 20), "21 and more": (21, 999)}
FORMERS = frozenset({5, 6, 7, 14, 15, 16, 17, 33, 34, 35, 52, 53})  # elements that make molecular anions with O
SQUEEZED = np.linspace(0.1, 1.0, 19)  # volumes in units of the relaxed one
TOLERANCE = 0.05  # eV/atom by which squeezed crystals may lie below relaxed ones, eV by which dimers' energies may fall
BOX = 30.0  # Å, side of the cell of a dimer


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", required=True)
    parser.add_argument("--student", default=PROTOTYPES, help="default: bundled-prototypes")
    parser.add_argument(
        "--model", default=PROTOTYPES, help="base model that generates crystals to judge; default: bundled-prototypes"
    )
    parser.add_argument(
        "--crystals", type=Path, default=bundled_crystals("test", PROTOTYPES), help="held-out relaxed crystals"
    )
    parser.add_argument("--like", help="leave out elements that this potential does not know")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    arguments.out.mkdir(parents=True, exist_ok=True)
    student, teacher = load_potential(arguments.student), load_potential(arguments.teacher)
    dataset = read_dataset(arguments.crystals)
    model = FlowModel.load(arguments.model)
    known = student.elements & known_elements(model)
    if arguments.like:
        known &= load_potential(arguments.like).elements
    dataset = dataset.select([row for row, cell in enumerate(dataset.crystals.atomic_numbers) if known >= set(cell)])
    relaxed = dataset.crystals
    generated, group = generate(model, dataset)
    print_line(f"{len(dataset)} crystals, {len(generated)} valid generated ones")
    figures: dict[str, Any] = {
        "potential": student.fingerprint,
        "teacher": teacher.fingerprint,
        "relaxed": errors(ours := energies(student, relaxed), theirs := energies(teacher, relaxed)),
        "relaxed_by_contents": by_contents(ours, theirs, relaxed),
        **polymorphs(ours, theirs, dataset.compositions),
        "generated": rewarded(student, teacher, generated, group),
        "seconds_per_1000_relaxed": {"student": seconds(student, relaxed), "teacher": seconds(teacher, relaxed)},
        "seconds_per_1000_by_atoms": {
            name: {"student": seconds(student, some), "teacher": seconds(teacher, some)}
            for name, some in by_atoms(relaxed).items()
        },
        "volumes": volumes(student, teacher, dataset, arguments.out / "volumes.svg"),
        "squeezed_below_relaxed": {"student": squeezed(student, relaxed), "teacher": squeezed(teacher, relaxed)},
    }
    if not arguments.like:
        figures["falling_dimers"] = dimers(student)
    write_json(arguments.out / "figures.json", figures)
    print(json.dumps(figures, indent=1))


def by_atoms(crystals: CrystalBatch) -> dict[str, CrystalBatch]:
    """Return up to `TIMED` crystals of each size that there are any of."""
    rows = {
        name: ((crystals.n_atoms >= low) & (crystals.n_atoms <= high)).nonzero()[:, 0][:TIMED]
        for name, (low, high) in ATOMS.items()
    }
    return {name: crystals.select(of) for name, of in rows.items() if len(of)}


def energies(potential: Potential, crystals: CrystalBatch) -> np.ndarray:
    """Return energies of the network alone, in eV/atom (B,)."""
    return (potential.energies(crystals, repulsion=False) / crystals.n_atoms).numpy()


def seconds(potential: Potential, crystals: CrystalBatch) -> float:
    """Return the seconds for a thousand crystals on one thread, graphs included; the better of two calls."""
    taken = []
    for _ in range(2):
        start = time.perf_counter()
        energies(potential, crystals)
        taken.append((time.perf_counter() - start) / len(crystals) * 1000)
    return min(taken)


def generate(model: FlowModel, dataset: CrystalDataset) -> tuple[CrystalBatch, np.ndarray]:
    """Generate valid crystals for held-out compositions spread over all, in their cells; with formulas."""
    rows_of = defaultdict(list)
    for row, formula in enumerate(dataset.compositions):
        rows_of[formula].append(row)
    species = dataset.crystals.atomic_numbers
    formulas, cells = [], []
    every = list(rows_of)
    for formula in every[:: -(-len(every) // COMPOSITIONS)]:
        rows = rows_of[formula]
        for copy in range(PER_COMPOSITION):
            formulas.append(formula)
            cells.append(species[rows[copy % len(rows)]])
    crystals = model.generate(cells, Sampling(STEPS), seed=1)
    valid = check_validity(crystals).valid
    return crystals.select(valid.nonzero()[:, 0]), np.array(formulas)[valid.numpy()]


def errors(student: np.ndarray, teacher: np.ndarray) -> dict[str, float]:
    """Return errors of energies in eV/atom."""
    error = np.abs(student - teacher)
    return {"n": len(error), "mae": float(error.mean()), "median": float(np.median(error))}


def by_contents(student: np.ndarray, teacher: np.ndarray, crystals: CrystalBatch) -> dict[str, dict[str, float]]:
    """Return errors by number of atoms, and of crystals that may hold molecular anions, such as sulfates."""
    sizes, cells = crystals.n_atoms.numpy(), crystals.atomic_numbers
    rows = {name: np.flatnonzero((low <= sizes) & (sizes <= high)) for name, (low, high) in ATOMS.items()}
    rows["O and what makes anions with it"] = np.array(
        [row for row, cell in enumerate(cells) if 8 in cell and FORMERS & set(cell)]
    )
    return {name: errors(student[some], teacher[some]) for name, some in rows.items() if len(some)}


def rewarded(student: Potential, teacher: Potential, crystals: CrystalBatch, group: np.ndarray) -> dict[str, Any]:
    """Compare the energies as they are rewarded: with repulsion, squeezed below 3 eV/atom."""
    ours, theirs = (-MatGLEnergy(potential)(crystals).reward.numpy() for potential in (student, teacher))
    return {
        **errors(ours, theirs),
        "share_student_lower_by_1": float((theirs - ours > 1.0).mean()),
        "student_lower_by_at_most": float((theirs - ours).max()),
        **ranking(ours, theirs, group),
    }


def ranking(student: np.ndarray, teacher: np.ndarray, group: np.ndarray) -> dict[str, Any]:
    """Compute Spearman's rank correlation within each composition that has enough valid crystals.

    Raises:
        SystemExit: No composition has enough.
    """
    enough = [group == formula for formula in np.unique(group) if (group == formula).sum() >= FEWEST]
    if not enough:
        raise SystemExit(f"no composition has {FEWEST} valid generated crystals: the base model cannot judge")
    values = [float(spearmanr(student[rows], teacher[rows]).statistic) for rows in enough]
    return {
        "spearman_mean": float(np.mean(values)),
        "spearman_quantiles_10_50_90": np.quantile(values, [0.1, 0.5, 0.9]).tolist(),
        "spearman_compositions": len(values),
    }


def polymorphs(student: np.ndarray, teacher: np.ndarray, compositions: list[str]) -> dict[str, Any]:
    """Measure how often both put the same polymorph of a composition lowest, and the error of differences from it."""
    group, agree, off = np.array(compositions), [], []
    for formula in np.unique(group):
        rows = np.flatnonzero(group == formula)
        if len(rows) > 1:
            low = rows[teacher[rows].argmin()]
            agree.append(rows[student[rows].argmin()] == low)
            off += [abs((student[row] - student[low]) - (teacher[row] - teacher[low])) for row in rows if row != low]
    return {
        "lowest_polymorph_agrees": float(np.mean(agree)),
        "lowest_polymorph_compositions": len(agree),
        "polymorph_difference_mae": float(np.mean(off)),
    }


def scaled(crystals: CrystalBatch, row: int, volumes: np.ndarray) -> CrystalBatch:
    """Scale one crystal to several volumes."""
    one = crystals.select([row]).tile(len(volumes))
    return one.replace(cell=one.cell * torch.from_numpy(volumes ** (1 / 3)).to(one.cell)[:, None, None])


def volumes(student: Potential, teacher: Potential, dataset: CrystalDataset, path: Path) -> dict[str, float]:
    """Draw E(V) of twelve crystals, and return the error of the equilibrium volume over about `CURVES` crystals."""
    rows = spread(len(dataset))
    shown = list(rows)[:: max(1, len(rows) // 12)][:12]
    figure = Figure(figsize=(11, 7), layout="constrained", facecolor="white")
    axes = figure.subplots(3, 4, sharex=True)
    shifts = []
    for row in rows:
        crystals = scaled(dataset.crystals, row, SCALES)
        ours, theirs = energies(student, crystals), energies(teacher, crystals)
        shifts.append(abs(minimum(ours) - minimum(theirs)))
        if row in shown:
            axis = axes.flat[shown.index(row)]
            axis.plot(SCALES, theirs, color="0.6", lw=3, label="teacher")
            axis.plot(SCALES, ours, color="#1f6f9f", lw=1.3, label="student")
            what = dataset.properties[row].get("prototype", dataset.ids[row])
            axis.set_title(f"{dataset.compositions[row]} ({str(what).replace('_', ' ')})", fontsize=9)
    axes.flat[0].legend(fontsize=8, frameon=False)
    figure.supxlabel("volume in units of the relaxed one")
    figure.supylabel("energy (eV/atom)")
    figure.savefig(path, metadata={"Date": None})
    return {"crystals": len(shifts), "equilibrium_volume_mae": float(np.mean(shifts))}


def spread(count: int) -> range:
    """Return at most about `CURVES` rows, spread over all."""
    return range(0, count, max(1, -(-count // CURVES)))


def minimum(curve: np.ndarray) -> float:
    """Find the volume of the minimum in units of the relaxed one, by a parabola through the lowest points."""
    low = int(np.clip(curve.argmin(), 1, len(curve) - 2))
    a, b, _ = np.polyfit(SCALES[low - 1 : low + 2], curve[low - 1 : low + 2], 2)
    return float(-b / (2 * a)) if a > 0 else float(SCALES[low])


def squeezed(potential: Potential, crystals: CrystalBatch) -> dict[str, float]:
    """Measure how many crystals, squeezed with the repulsion, fall below their relaxed energy, and by how much."""
    below = []
    for row in spread(len(crystals)):
        pressed = scaled(crystals, row, SQUEEZED)
        valid = check_validity(pressed).valid.numpy()
        curve = (potential.energies(pressed.select(valid.nonzero()[0].tolist())) / pressed.n_atoms[0]).numpy()
        # Near the relaxed volume, the potential may have its own minimum.
        far = SQUEEZED[valid] < 0.8
        below.append(float((curve[-1] - curve[far]).max()) if far.any() else 0.0)
    return {"share": float((np.array(below) > TOLERANCE).mean()), "worst": max(below), "crystals": len(below)}


def dimers(potential: Potential) -> dict[str, float]:
    """Count pairs of elements whose energy, with the repulsion, falls anywhere as they come closer than 0.6 bonds."""
    numbers = sorted(potential.elements)
    falls = []
    for place, first in enumerate(numbers):
        bonds = {second: float(covalent_radii[first] + covalent_radii[second]) for second in numbers[place:]}
        distances = {second: torch.arange(0.5, max(0.5, 0.6 * bond), 0.02) for second, bond in bonds.items()}
        distances = {second: some for second, some in distances.items() if len(some) > 1}
        if not distances:
            continue
        species = [[first, second] for second, some in distances.items() for _ in some]
        pos = torch.zeros(len(species), 2, 3)
        pos[:, 1, 0] = torch.cat(list(distances.values())) / BOX
        pairs = CrystalBatch(
            torch.tensor(species).flatten(),
            pos.view(-1, 3),
            BOX * torch.eye(3).repeat(len(species), 1, 1),
            torch.full((len(species),), 2),
        )
        curves = potential.energies(pairs).numpy()
        # Energies must rise inwards: one above the lowest of those farther in counts as a fall.
        falls += [
            float((curve - np.minimum.accumulate(curve)).max())
            for curve in np.split(curves, np.cumsum([len(some) for some in distances.values()])[:-1])
        ]
    return {"pairs": len(falls), "falling": int((np.array(falls) > TOLERANCE).sum()), "worst": max(falls)}


if __name__ == "__main__":
    main()
