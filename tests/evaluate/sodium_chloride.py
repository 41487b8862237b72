"""Polymorphs of NaCl, and a model that gives back what it is told to. Ray actors import this."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, Self

from pymatgen.core import Lattice, Structure

from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.crystal.dataset import CrystalDataset


def rock_salt(shift: float = 0.0) -> Structure:
    """Primitive cell; the chlorine sublattice may be displaced by `shift` along the body diagonal (fractional)."""
    cell = [[0.0, 2.845, 2.845], [2.845, 0.0, 2.845], [2.845, 2.845, 0.0]]
    return Structure(cell, ["Na", "Cl"], [[0.0, 0.0, 0.0], [0.5 + shift] * 3])


def caesium_chloride() -> Structure:
    return Structure(Lattice.cubic(3.5), ["Na", "Cl"], [[0.0, 0.0, 0.0], [0.5, 0.5, 0.5]])


def wurtzite() -> Structure:
    third, two = 1 / 3, 2 / 3
    metal, anion = [[third, two, 0.0], [two, third, 0.5]], [[third, two, 0.375], [two, third, 0.875]]
    return Structure(Lattice.hexagonal(4.6, 7.5), ["Na", "Na", "Cl", "Cl"], metal + anion)


def nickel_arsenide() -> Structure:
    """Within the matcher's tolerances of wurtzite: the metals sit in octahedra instead of tetrahedra (RMSE 0.43)."""
    third, two = 1 / 3, 2 / 3
    metal, anion = [[0.0, 0.0, 0.0], [0.0, 0.0, 0.5]], [[third, two, 0.25], [two, third, 0.75]]
    return Structure(Lattice.hexagonal(4.0, 6.6), ["Na", "Na", "Cl", "Cl"], metal + anion)


def litharge() -> Structure:
    metal, anion = [[0.0, 0.5, 0.24], [0.5, 0.0, 0.76]], [[0.0, 0.0, 0.0], [0.5, 0.5, 0.0]]
    return Structure(Lattice.tetragonal(4.0, 5.6), ["Na", "Na", "Cl", "Cl"], metal + anion)


def doubled_rock_salt() -> Structure:
    """In four atoms, as its primitive cell twice."""
    return rock_salt().make_supercell([1, 1, 2], in_place=False)


def magnesium_oxide() -> Structure:
    return Structure(rock_salt().lattice, ["Mg", "O"], [[0.0, 0.0, 0.0], [0.5, 0.5, 0.5]])


def dataset(*structures: Structure) -> CrystalDataset:
    """Crystals named by their places."""
    ids = [f"row {i}" for i in range(len(structures))]
    return CrystalDataset(CrystalBatch.from_structures(structures), ids, [{} for _ in ids])


def rattled(structure: Structure, distance: float = 0.05, seed: int = 0) -> Structure:
    """Moved as a whole, every site by `distance` in Å in a direction of its own."""
    moved = structure.copy().translate_sites(range(len(structure)), [0.13, 0.2, 0.7])
    return moved.perturb(distance, seed=seed)


POLYMORPHS = dataset(rock_salt(), caesium_chloride(), wurtzite(), litharge(), magnesium_oxide())
"""Rows 0 and 1 are polymorphs in two atoms, rows 2 and 3 in four, and row 4 is alone."""

OTHERS = (
    rattled(caesium_chloride()),
    rattled(rock_salt()),
    rattled(litharge()),
    doubled_rock_salt(),
    Structure(Lattice.cubic(0.5), ["Mg", "O"], [[0.0, 0.0, 0.0], [0.5, 0.5, 0.5]]),
)
"""Crystals for the rows of `POLYMORPHS`: three are the other polymorph of their cell, the fourth is one that is known
only in two atoms, and the last is invalid."""


class Prepared:
    """In place of a model: structure i of a list for index i."""

    schedule = None
    generates_species = False
    description = SimpleNamespace(domain=None)

    def __init__(self, structures: Sequence[Structure]) -> None:
        self.crystals = CrystalBatch.from_structures(structures)

    def to(self, device: Any) -> Self:
        return self

    def generate(self, species: Any, sampling: Any, seed: int, indices: list[int], *_: Any, **__: Any) -> CrystalBatch:
        return self.crystals.select(indices)
