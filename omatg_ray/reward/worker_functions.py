"""Functions of worker processes, by pymatgen and spglib. Imports only these and numpy, so workers start quickly."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import spglib
from pymatgen.core import Lattice, Structure
from pymatgen.core.structure_matcher import StructureMatcher
from pymatgen.symmetry.analyzer import SpacegroupAnalyzer


class Arrays(NamedTuple):
    """One crystal: atomic numbers (N,), fractional positions (N, 3), lattice (3, 3) in Å with the vectors as rows."""

    species: np.ndarray
    pos: np.ndarray
    cell: np.ndarray

    def structure(self) -> Structure:
        return Structure(Lattice(self.cell), self.species.tolist(), self.pos)


def matched_rmse(first: Arrays, second: Arrays, ltol: float, stol: float, angle_tol: float) -> float | None:
    """Return the root mean square displacement of two crystals over (V/N)^(1/3), or None if they do not match."""
    matcher = StructureMatcher(ltol=ltol, stol=stol, angle_tol=angle_tol)
    distances = matcher.get_rms_dist(first.structure(), second.structure())
    return None if distances is None else float(distances[0])


def is_same(first: Arrays, second: Arrays, ltol: float, stol: float, angle_tol: float) -> bool:
    """Return whether every site of one crystal is within the tolerances of a site of the other (pymatgen's `fit`)."""
    matcher = StructureMatcher(ltol=ltol, stol=stol, angle_tol=angle_tol)
    return bool(matcher.fit(first.structure(), second.structure()))


def symmetry(crystal: Arrays, symprec: float) -> tuple[int, bool] | None:
    """Return the number of the space group and whether it has inversion; None if spglib finds no group."""
    dataset = spglib.get_symmetry_dataset(
        (crystal.cell.tolist(), crystal.pos.tolist(), crystal.species.tolist()), symprec=symprec
    )
    if dataset is None:
        return None
    return int(dataset.number), bool((dataset.rotations == -np.eye(3, dtype=int)).all((1, 2)).any())


def space_group(crystal: Arrays, symprec: float) -> tuple[str, int]:
    """Return the Hermann-Mauguin symbol and number of the space group; raises if spglib finds none."""
    # A negative angle tolerance, spglib's own default, leaves angles to symprec too. The 5 degrees that pymatgen would
    # pass find symmetry in cells whose sites are off by more than symprec.
    analyzer = SpacegroupAnalyzer(crystal.structure(), symprec=symprec, angle_tolerance=-1)
    return analyzer.get_space_group_symbol(), analyzer.get_space_group_number()
