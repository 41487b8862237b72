"""Standard cells of many crystals, with a time limit for each."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.crystal.standard_crystal import SYMPREC, CellKind, StandardCrystal
from omatg_ray.crystal.validity import check_validity
from omatg_ray.errors import DataWarning
from omatg_ray.run.bounded import BoundedPool
from omatg_ray.run.progress import Progress
from omatg_ray.run.text import listed

if TYPE_CHECKING:
    from pymatgen.core import Structure


def standardize(
    structures: Sequence[Structure],
    cell: CellKind,
    *,
    symprec: float = SYMPREC,
    workers: int = 0,
    timeout: float = 10.0,
    progress: bool = False,
) -> list[Structure | StandardCrystal]:
    """Return every crystal in spglib's standard cell, or unchanged where that would be another crystal, with a warning.

    Args:
        structures: Ordered structures.
        cell: Which standard cell; see `standard_cell.standard_crystal`.
        symprec: spglib's tolerance in Å.
        workers: Worker processes; 0 computes in this process (see `BoundedPool`).
        timeout: Seconds that one crystal may take.
        progress: Show a progress bar.
    """
    from omatg_ray.crystal.standard_cell import standard_or_reason

    valid = check_validity(CrystalBatch.from_structures(structures)).valid.tolist()
    rows = [row for row in range(len(structures)) if valid[row]]
    done: list[Structure | StandardCrystal] = list(structures)
    reasons = {row: "its atoms overlap, or its cell is flat" for row in range(len(structures)) if not valid[row]}
    calls = [(right_handed(structures[row]), cell, symprec) for row in rows]
    with (
        BoundedPool(standard_or_reason, workers, timeout) as pool,
        Progress(len(calls), "standardize", shown=progress) as bar,
    ):
        for index, outcome in pool.map(calls):
            result = outcome.value if outcome.error is None else outcome.error
            if isinstance(result, str):
                reasons[rows[index]] = result
            else:
                done[rows[index]] = result
            bar.advance()
    if reasons:
        lines = [
            f"{row + 1} ({structures[row].composition.reduced_formula}): {reasons[row]}" for row in sorted(reasons)
        ]
        what = f"{len(lines)} of {len(structures)} crystals are kept in the cell they had, not standardized:"
        warnings.warn(listed(what, lines), DataWarning, stacklevel=2)
    return done


def right_handed(structure: Structure) -> Structure:
    """Return the same crystal with a right-handed lattice, if it has none: all vectors and positions are negated."""
    if np.linalg.det(structure.lattice.matrix) > 0:
        return structure
    from pymatgen.core import Lattice, Structure

    return Structure(Lattice(-structure.lattice.matrix), structure.species, -structure.frac_coords)
