#!/usr/bin/env python
"""Relaxes decorated prototypes under a MatGL potential: the raw material of the bundled crystals.

  python scripts/assets/relax.py --potential POTENTIAL --out work/relaxed.jsonl --workers 2

Cell and positions are free. Every candidate gives one line, with the reason where it came to nothing; lines that are
there are not repeated, so that a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator
from decorations import Candidate, candidates

from omatg_ray.run.progress import Progress

FORCE = 0.02  # eV/Å, of the atoms and of the deformation gradient
STEPS = 120
SCALES = (0.7, 0.85, 1.0, 1.15, 1.35, 1.6, 2.0)  # volumes tried first, in units of the guess
MOST_VOLUME = 150.0  # Å³ an atom: beyond, the crystal has come apart

_calculator: Calculator


def main() -> None:
    """Relaxes what is not yet relaxed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--potential", required=True, help="MatGL potential: a folder or a name")
    parser.add_argument("--out", type=Path, required=True, help="JSON lines")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--limit", type=int, help="only the first so many candidates")
    arguments = parser.parse_args()
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    done = {json.loads(line)["id"] for line in _lines(arguments.out)}
    todo = [one for one in candidates()[: arguments.limit] if one.ident not in done]
    context = multiprocessing.get_context("spawn")
    with (
        context.Pool(arguments.workers, _start, (arguments.potential,)) as pool,
        arguments.out.open("a", encoding="utf-8") as out,
        Progress(len(todo), "relax") as bar,
    ):
        for record in pool.imap(_relaxed, todo, chunksize=4):
            out.write(json.dumps(record) + "\n")
            out.flush()
            bar.advance()


def _lines(path: Path) -> list[str]:
    """Whole lines; a last one that a crash tore is cut off the file."""
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        path.write_text(whole, encoding="utf-8")
    return whole.splitlines()


def _start(potential: str) -> None:
    global _calculator
    import matgl
    from matgl.ext.ase import PESCalculator

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    _calculator = PESCalculator(matgl.load_model(potential), stress_unit="eV/A3")


def _relaxed(candidate: Candidate) -> dict[str, Any]:
    """One line of the output: the crystal with its energy, or why there is none."""
    record: dict[str, Any] = {"id": candidate.ident, "prototype": candidate.prototype}
    start = time.monotonic()
    try:
        record |= relax(candidate.structure().to_ase_atoms(), _calculator)
    except Exception as error:  # noqa: BLE001 - a bad candidate of thousands is written down and left
        record["dropped"] = f"{type(error).__name__}: {error}"
    return record | {"seconds": round(time.monotonic() - start, 2)}


def relax(atoms: Atoms, calculator: Calculator) -> dict[str, Any]:
    """Relaxes cell and positions, from the best of a few volumes.

    Returns:
        Symbols, cell (3, 3) in Å, fractional positions (N, 3), energy in eV per atom, steps; or `dropped`: the reason.
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
