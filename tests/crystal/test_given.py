"""Crystals handed over in Python are those of a file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from ase.build import bulk, molecule
from pymatgen.core import Lattice, Structure

from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.crystal.given import as_dataset
from omatg_ray.crystal.read import read_dataset
from omatg_ray.crystal.validity import check_validity
from omatg_ray.crystal.write import write_structures
from omatg_ray.errors import DataError

CUBE = Structure(Lattice.cubic(3.6), ["Cs", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
SHEARED = Structure([[4.0, 0, 0], [3.0, 4, 0], [0, 0, 4]], ["Cs", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])


def test_every_form_gives_the_same_crystals_and_keeps_the_cells(tmp_path: Path) -> None:
    structures = [CUBE, SHEARED]
    write_structures(tmp_path / "mine.extxyz", structures)
    batch = CrystalBatch.from_structures(structures)
    forms = [structures, batch, str(tmp_path / "mine.extxyz"), [s.to_ase_atoms() for s in structures]]
    for given in forms:
        found = as_dataset(given)
        assert found.ids == ["1", "2"]
        assert found.crystals.species.tolist() == batch.species.tolist()
        torch.testing.assert_close(found.crystals.pos, batch.pos)
        torch.testing.assert_close(found.crystals.cell, batch.cell)
    known = read_dataset(tmp_path / "mine.extxyz")
    assert as_dataset(known) is known


def test_a_single_structure_is_one_crystal_and_ids_are_kept() -> None:
    atoms = bulk("NaCl", "rocksalt", a=5.6)
    atoms.info["material_id"] = "mine"
    assert as_dataset(atoms).ids == ["mine"]
    assert as_dataset(CUBE.copy(properties={"material_id": "cube"})).ids == ["cube"]


def test_collapsed_cells_of_a_model_are_invalid_not_an_error() -> None:
    collapsed = Structure(Lattice.cubic(0.3), ["Cs", "Cl"], CUBE.frac_coords)
    assert check_validity(as_dataset([CUBE, collapsed]).crystals).valid.tolist() == [True, False]


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ([], "there are no crystals"),
        ([CUBE, molecule("H2O")], "structure 2: it has no lattice"),
        ([CUBE, "CsCl"], "structure 2: it is str; give pymatgen Structures or ASE Atoms"),
        ("nothing.cif", "nothing.cif"),
    ],
)
def test_what_is_no_crystal_is_refused_by_its_number(given: object, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        as_dataset(given)
