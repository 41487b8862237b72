#!/usr/bin/env python
"""Relax decorated prototypes under a MatGL potential: the raw material of the bundled crystals.

  python scripts/assets/relax.py --potential POTENTIAL --out work/relaxed.jsonl --workers 2

Cell and positions are free. Every candidate gives one line, with the reason if it was dropped. Existing lines are not
repeated, so an interrupted run resumes.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator
from decorations import Candidate, candidates
from identity import require_same
from larger_decorations import EVERY_PROTOTYPE, LARGER_FAMILIES

from omatg_ray.reward.potential import load_module, load_potential
from omatg_ray.run.progress import Progress

FORCE = 0.02  # eV/Å, of the atoms and of the deformation gradient
STEPS = 120
SCALES = (0.7, 0.85, 1.0, 1.15, 1.35, 1.6, 2.0)  # volumes tried first, in units of the guess
MOST_VOLUME = 150.0  # Å³ per atom; beyond, the crystal has come apart

_calculator: Calculator


def main() -> None:
    """Relax the candidates that are not relaxed yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--potential", required=True, help="MatGL potential: a folder or a name")
    parser.add_argument("--out", type=Path, required=True, help="JSON lines")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--larger", action="store_true", help="the larger prototypes, with all elements")
    parser.add_argument("--smallest", type=int, default=0, help="only cells of at least so many atoms")
    parser.add_argument("--limit", type=int, help="only this many of the first candidates")
    arguments = parser.parse_args()
    potential = load_potential(arguments.potential).fingerprint
    require_same(arguments.out.with_suffix(".inputs.json"), {"potential": potential})
    done = {json.loads(line)["id"] for line in whole_lines(arguments.out)}
    found = candidates(families=LARGER_FAMILIES, prototypes=EVERY_PROTOTYPE) if arguments.larger else candidates()
    sizes = {name: sum(prototype.contents().values()) for name, prototype in EVERY_PROTOTYPE.items()}
    large = [one for one in found if sizes[one.prototype] >= arguments.smallest]
    todo = [one for one in large[: arguments.limit] if one.ident not in done]
    context = multiprocessing.get_context("spawn")
    with (
        ProcessPoolExecutor(arguments.workers, context, _start, (arguments.potential,)) as pool,
        arguments.out.open("a", encoding="utf-8") as out,
        Progress(len(todo), "relax") as bar,
    ):
        for record in pool.map(_relaxed, todo, chunksize=4):
            out.write(json.dumps(record) + "\n")
            out.flush()
            bar.advance()


def whole_lines(path: Path) -> list[str]:
    """Return the lines of a file, after truncating it by a last line that a crash left incomplete."""
    if not path.exists():
        return []
    content = path.read_bytes()
    end = content.rfind(b"\n") + 1
    if end < len(content):
        os.truncate(path, end)
    return content[:end].decode("utf-8").splitlines()


def _start(potential: str) -> None:
    global _calculator
    from matgl.ext.ase import PESCalculator

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    _calculator = PESCalculator(load_module(potential), stress_unit="eV/A3")


def _relaxed(candidate: Candidate) -> dict[str, Any]:
    """Return one line of the output: the crystal with its energy, or the reason why there is none."""
    record: dict[str, Any] = {"id": candidate.ident, "prototype": candidate.prototype}
    start = time.monotonic()
    try:
        record |= relax(candidate.structure().to_ase_atoms(), _calculator)
    except (ValueError, np.linalg.LinAlgError) as error:  # a fault of the structure; any other error ends the run
        record["dropped"] = f"{type(error).__name__}: {error}"
    return record | {"seconds": round(time.monotonic() - start, 2)}


def relax(atoms: Atoms, calculator: Calculator) -> dict[str, Any]:
    """Relax cell and positions, from the best of a few volumes.

    Returns:
        Symbols, cell (3, 3) in Å, fractional positions (N, 3), energy in eV per atom, steps; or the reason, `dropped`.
    """
    from ase.filters import FrechetCellFilter
    from ase.optimize import BFGS

    atoms = Atoms(atoms, calculator=calculator)
    guess, energies = atoms.cell.copy(), []
    for scale in SCALES:
        atoms.set_cell(guess * scale ** (1 / 3), scale_atoms=True)
        energies.append(atoms.get_potential_energy())
    atoms.set_cell(guess * SCALES[int(np.argmin(energies))] ** (1 / 3), scale_atoms=True)
    optimizer = BFGS(FrechetCellFilter(atoms), logfile=None)  # type: ignore[arg-type]
    for _ in optimizer.irun(fmax=FORCE, steps=STEPS):
        if atoms.get_volume() / len(atoms) > MOST_VOLUME:
            return {"dropped": "came apart"}
    if not optimizer.converged():
        return {"dropped": "not converged", "steps": STEPS}
    return {
        "symbols": atoms.get_chemical_symbols(),
        "cell": atoms.cell.tolist(),
        "positions": atoms.get_scaled_positions().tolist(),
        "energy_per_atom": atoms.get_potential_energy() / len(atoms),
        "steps": optimizer.nsteps,
    }


if __name__ == "__main__":
    main()
