"""What is written can be read again, by this package and by others."""

from __future__ import annotations

import json
import math
from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch
from pymatgen.core import Lattice, Structure

from omatg_ray.crystal.file_names import written_as
from omatg_ray.crystal.read import read_dataset
from omatg_ray.crystal.write import write_structures
from omatg_ray.errors import DataError, OmatgRayError

# standard orientation and elements by electronegativity: what a CIF can give back exactly
STRUCTURES = [
    Structure(
        Lattice([[4.1234567, 0, 0], [0.3, 5.2, 0], [-1.1, 0.7, 6.5]]),
        ["Ba", "Ti", "O", "O", "O"],
        [[0.0, 0.0, 0.0], [0.51234567, 0.5, 0.5], [0.5, 0.33331, 0.02], [0.5, 0.05, 0.5], [0.01, 0.5, 0.66668]],
    ),
    Structure(Lattice.cubic(3.9), ["Cs", "Cl"], [[0.999999, 0, 0], [0.5, 0.5, 0.5]]),
]
PROPERTIES = [
    {"material_id": "mp-5", "energy_per_atom": -7.123456789012, "spacegroup": "P1", "rank": 1},
    {"material_id": "x 2", "energy_per_atom": 1e-12, "spacegroup": "F m -3 m", "rank": 2, "label": "it's"},
]
TARGETS = ["out.extxyz", "out.xyz", "out.cif", "out.json", "folder/"]


@pytest.mark.parametrize("target", TARGETS)
def test_round_trip(tmp_path: Path, target: str) -> None:
    write_structures(f"{tmp_path}/{target}", STRUCTURES, PROPERTIES)
    dataset = read_dataset(tmp_path / target, reduce=False)
    assert dataset.ids == ["mp-5", "x 2"]
    expected_species = [z for structure in STRUCTURES for z in structure.atomic_numbers]
    assert dataset.crystals.species.tolist() == expected_species
    pos = torch.tensor(np.concatenate([structure.frac_coords for structure in STRUCTURES]))
    cell = torch.tensor(np.stack([structure.lattice.matrix for structure in STRUCTURES]))
    torch.testing.assert_close(dataset.crystals.pos.double(), pos, atol=1e-6, rtol=0)
    torch.testing.assert_close(dataset.crystals.cell.double(), cell, atol=1e-6, rtol=0)
    for found, given in zip(dataset.properties, PROPERTIES, strict=True):
        assert {key: found[key] for key in given} == given
    assert not [path for path in tmp_path.rglob("*") if path.name.endswith(".tmp")]


@pytest.mark.parametrize("target", TARGETS)
def test_missing_and_unfit_properties_are_left_out(tmp_path: Path, target: str) -> None:
    row = {"energy": float("nan"), "hull": None, "matrix": [[1, 2], [3, 4]], "ok": True, "n": np.int64(3)}
    write_structures(f"{tmp_path}/{target}", STRUCTURES[:1], [row])
    found = read_dataset(tmp_path / target).properties[0]
    found.pop("formula", None)
    assert found == {"ok": 1, "n": 3}


def test_ase_reads_extxyz(tmp_path: Path) -> None:
    import ase.io

    write_structures(tmp_path / "out.extxyz", STRUCTURES, PROPERTIES)
    first, second = ase.io.read(tmp_path / "out.extxyz", index=":")
    assert first.get_chemical_symbols() == ["Ba", "Ti", "O", "O", "O"]
    assert first.pbc.all()
    np.testing.assert_allclose(first.cell.array, STRUCTURES[0].lattice.matrix, atol=1e-9)
    np.testing.assert_allclose(first.positions, STRUCTURES[0].cart_coords, atol=1e-7)
    assert second.info["spacegroup"] == "F m -3 m"


def test_pymatgen_reads_cif_and_json(tmp_path: Path) -> None:
    from pymatgen.io.cif import CifParser

    write_structures(tmp_path / "out.cif", STRUCTURES, PROPERTIES)
    read = CifParser(tmp_path / "out.cif", check_cif=False).parse_structures(primitive=False, on_error="raise")
    assert [structure.composition.reduced_formula for structure in read] == ["BaTiO3", "CsCl"]
    write_structures(tmp_path / "out.json", STRUCTURES, PROPERTIES)
    entries = json.loads((tmp_path / "out.json").read_text())
    assert [entry["formula"] for entry in entries] == ["BaTiO3", "CsCl"]
    assert Structure.from_dict(entries[0]["structure"]) == STRUCTURES[0]


def test_folder_holds_one_cif_per_structure_in_order(tmp_path: Path) -> None:
    write_structures(f"{tmp_path}/folder/", STRUCTURES[::-1])
    assert sorted(path.name for path in (tmp_path / "folder").iterdir()) == ["00001_CsCl.cif", "00002_BaTiO3.cif"]
    assert read_dataset(tmp_path / "folder").ids == ["00001_CsCl", "00002_BaTiO3"]


@pytest.mark.parametrize("target", TARGETS)
def test_left_handed_cells_do_not_turn_into_mirror_images(tmp_path: Path, target: str) -> None:
    cart = np.array([[5.0, 5, 5], [6.1, 5, 5], [5, 6.5, 5], [5, 5, 6.9]])
    structure = Structure(
        Lattice([[0, 10, 0], [11, 0, 0], [0, 0, 12]]), ["Cs", "Fe", "S", "O"], cart, coords_are_cartesian=True
    )
    assert np.linalg.det(structure.lattice.matrix) < 0
    write_structures(f"{tmp_path}/{target}", [structure])
    read = read_dataset(tmp_path / target).crystals.to_structures()[0]
    vectors = np.array(
        [read[0].distance_and_image(read[i])[1] + read[i].frac_coords - read[0].frac_coords for i in (1, 2, 3)]
    )
    assert np.linalg.det(vectors @ read.lattice.matrix) == pytest.approx(1.1 * 1.5 * 1.9, abs=1e-4)


def test_writing_again_replaces_a_file_but_not_a_folder(tmp_path: Path) -> None:
    write_structures(tmp_path / "out.json", STRUCTURES)
    write_structures(tmp_path / "out.json", STRUCTURES[:1])
    assert len(read_dataset(tmp_path / "out.json")) == 1
    write_structures(f"{tmp_path}/folder/", STRUCTURES)
    with pytest.raises(DataError, match="not empty"):
        write_structures(f"{tmp_path}/folder/", STRUCTURES[:1])
    assert len(read_dataset(tmp_path / "folder")) == 2


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "out.json"
    write_structures(path, STRUCTURES)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OmatgRayError, match=r"out\.json.*disk or quota is full"):
        write_structures(path, STRUCTURES[:1])
    with pytest.raises(OmatgRayError, match=r"folder.*disk or quota is full"):
        write_structures(f"{tmp_path}/folder/", STRUCTURES[:1])
    assert [entry.name for entry in tmp_path.iterdir()] == ["out.json"]
    assert len(read_dataset(path)) == 2


@pytest.mark.parametrize(
    ("target", "structures", "properties", "reason"),
    [
        ("out.csv", STRUCTURES, None, "unknown suffix"),
        ("out.cif.gz", STRUCTURES, None, "unknown suffix"),
        ("out", STRUCTURES, None, r"no suffix.*out/"),
        ("out.vasp", STRUCTURES, None, "holds one crystal, not 2"),
        ("POSCAR", STRUCTURES, None, "holds one crystal, not 2"),
        ("out.cif", [], None, "no structures"),
        ("out.cif", STRUCTURES, [{}], "1 property rows do not fit 2 structures"),
        ("out.xyz", STRUCTURES[:1], [{"Lattice": 1}], "'Lattice'"),
        ("out.json", STRUCTURES[:1], [{"structure": 1}], "'structure'"),
    ],
)
def test_what_cannot_be_written_is_refused(
    tmp_path: Path, target: str, structures: list[Structure], properties: list[dict] | None, reason: str
) -> None:
    with pytest.raises(DataError, match=reason):
        write_structures(tmp_path / target, structures, properties)
    assert not list(tmp_path.iterdir())


def test_what_a_path_stands_for(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "POSCAR").mkdir()
    for name, expected in {
        "x.CIF": (".cif", False),
        "x.xyz": (".xyz", False),
        "POSCAR": (".vasp", False),  # a file by its name, which a folder is in the way of
        "CONTCAR_relaxed": (".vasp", False),
        "POSCAR.json": (".json", False),
        "there": (".cif", True),
        "POSCAR/": (".cif", True),
        "new.cif/": (".cif", True),
    }.items():
        assert written_as(f"{tmp_path}/{name}") == expected
    assert written_as("new/", "vasp") == (".vasp", True)
    assert written_as("x.vasp", "vasp").holds_one and not written_as("new/", "vasp").holds_one
    for name, folder_format, reason in (
        ("POSCARS", None, r"POSCARS: it has no suffix; .*a folder of CIF files: POSCARS/"),
        ("x.v1", "vasp", r"x\.v1: it has an unknown suffix; .*a folder of POSCAR files: x\.v1/"),
        ("x.cif", "vasp", r"x\.cif: it has another format than vasp"),
    ):
        with pytest.raises(DataError, match=reason):
            written_as(name, folder_format)


@pytest.mark.parametrize("own", [False, True])
def test_ase_finds_the_energy_of_the_cell_and_the_reader_that_per_atom(tmp_path: Path, own: bool) -> None:
    path = tmp_path / "out.extxyz"
    energies = [-7.25, 1.5]
    rows = [{"energy_per_atom": energy} | ({"energy": -100.0} if own else {}) for energy in energies]
    write_structures(path, STRUCTURES, rows)
    for atoms, energy in zip(ase.io.read(path, ":"), energies, strict=True):
        expected = -100.0 if own else energy * len(atoms)
        assert atoms.get_potential_energy() == pytest.approx(expected, abs=1e-9)
        assert atoms.info["energy_per_atom"] == energy
    # The energy of the cell follows from that per atom, and would be wrong for a standard cell of another size.
    assert read_dataset(path).properties == rows


def test_without_an_energy_there_is_none_for_ase(tmp_path: Path) -> None:
    write_structures(tmp_path / "out.extxyz", STRUCTURES, [{"energy_per_atom": math.nan}] * 2)
    assert all(atoms.calc is None for atoms in ase.io.read(tmp_path / "out.extxyz", ":"))
