"""Formats that people have: each gives the crystal that was written, and what is wrong is named with its place."""

from __future__ import annotations

import gzip
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.db import connect
from ase.io import Trajectory
from pymatgen.core import Lattice, Structure
from pymatgen.io.vasp import Poscar

from omatg_ray.crystal import file_names
from omatg_ray.crystal.formats import FILES, TEXTS
from omatg_ray.crystal.read import read_dataset
from omatg_ray.errors import DataError, DataWarning

pytestmark = pytest.mark.filterwarnings("ignore:Set OLD_ERROR_HANDLING:DeprecationWarning")  # spglib, about itself

CSCL = Structure(Lattice.cubic(4.12), ["Cs", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
RBCL = Structure(Lattice.cubic(3.9), ["Rb", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
CIF = """data_first
_chemical_formula_sum 'Cs Cl'
_cell_length_a 4.12
_cell_length_b 4.12
_cell_length_c 4.12
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
Cs1 Cs 0 0 0
Cl1 Cl 0.5 0.5 0.5
"""


def as_atoms(structure: Structure, pbc: Any = True) -> Atoms:
    return Atoms(
        numbers=structure.atomic_numbers, scaled_positions=structure.frac_coords, cell=structure.lattice.matrix, pbc=pbc
    )


def assert_caesium_chloride(path: Path, *, ids: list[str], n: int = 1) -> None:
    dataset = read_dataset(path)
    assert dataset.crystals.formulas() == ["CsCl"] * n
    assert dataset.ids == ids
    torch.testing.assert_close(dataset.crystals.cell, 4.12 * torch.eye(3).expand(n, 3, 3))
    torch.testing.assert_close(dataset.crystals.pos, torch.tensor([[0.0, 0, 0], [0.5, 0.5, 0.5]]).repeat(n, 1))


# --- files of one crystal -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["POSCAR", "CONTCAR", "POSCAR_relaxed", "cscl.vasp", "POSCAR.gz"])
def test_poscar(tmp_path: Path, name: str) -> None:
    data = Poscar(CSCL).get_str().encode()
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    assert_caesium_chloride(tmp_path / name, ids=[name.removesuffix(".vasp")])


def test_poscar_without_elements_is_refused(tmp_path: Path) -> None:
    lines = Poscar(CSCL).get_str().splitlines()
    (tmp_path / "POSCAR").write_text("\n".join([*lines[:5], *lines[6:]]))
    with pytest.raises(DataError, match="POSCAR: it names no elements .VASP 4."):
        read_dataset(tmp_path / "POSCAR")


@pytest.mark.parametrize(
    ("name", "encoding"),
    [("a.cif", "utf-8"), ("a.cif", "utf-8-sig"), ("a.cif", "utf-16"), ("a.CIF", "utf-32"), ("a.mcif", "utf-8")],
)
def test_cif_in_any_encoding_with_a_mark(tmp_path: Path, name: str, encoding: str) -> None:
    (tmp_path / name).write_bytes(CIF.encode(encoding))
    assert_caesium_chloride(tmp_path / name, ids=["a"])
    (tmp_path / f"{name}.gz").write_bytes(gzip.compress(CIF.encode(encoding)))
    assert_caesium_chloride(tmp_path / f"{name}.gz", ids=["a"])


def test_both_blocks_behind_a_mark_are_read_and_comments_may_be_latin(tmp_path: Path) -> None:
    two = CIF + CIF.replace("first", "other").replace("Cs", "Rb")
    (tmp_path / "two.cif").write_bytes(two.encode("utf-8-sig"))
    assert read_dataset(tmp_path / "two.cif").crystals.formulas() == ["CsCl", "RbCl"]
    (tmp_path / "latin.cif").write_bytes(("# Bjørn\n" + CIF).encode("latin-1"))
    assert_caesium_chloride(tmp_path / "latin.cif", ids=["latin"])


def test_utf16_without_a_mark_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "a.cif").write_bytes(CIF.encode("utf-16-le"))
    with pytest.raises(DataError, match=r"a\.cif: it holds zero bytes: .*UTF-8"):
        read_dataset(tmp_path / "a.cif")


def test_a_damaged_gzip_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.cif.gz").write_bytes(gzip.compress(CIF.encode())[:-20])
    (tmp_path / "b.cif.gz").write_bytes(CIF.encode())
    for name in ("a.cif.gz", "b.cif.gz"):
        with pytest.raises(DataError, match=f"{name}: it is not a readable gzip file"):
            read_dataset(tmp_path / name)


# --- folders and archives -------------------------------------------------------------------------------------------


def test_nested_folders_and_archives_give_their_crystals_in_order(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    (folder / "b").mkdir(parents=True)
    (folder / "b" / "POSCAR").write_text(Poscar(CSCL).get_str())
    (folder / "a.cif").write_text(CIF)
    (folder / "c.cif.gz").write_bytes(gzip.compress(CIF.encode()))
    (folder / "notes.txt").write_text("not a crystal")
    (folder / "._a.cif").write_bytes(b"\x00what macOS leaves")
    with zipfile.ZipFile(tmp_path / "folder.zip", "w") as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, file.relative_to(folder))
        archive.writestr("__MACOSX/a.cif", b"\x00")
    for path in (folder, tmp_path / "folder.zip"):
        with pytest.warns(DataWarning, match=r": 1 file not read: 1 \.txt"):
            assert_caesium_chloride(path, ids=["a", "POSCAR", "c"], n=3)


def test_names_mean_the_formats_that_are_read() -> None:
    assert set(file_names.TEXTS) == set(TEXTS)
    assert set(file_names.FILES) == set(FILES)
    names = ["POSCAR", "POSCAR_set.db", "POSCAR.lmdb", "CONTCAR.traj", "POSCAR.zip", "POSCAR.csv.gz", "POSCAR_NaCl"]
    assert [file_names.read_as(name) for name in names] == [".vasp", ".db", ".lmdb", ".traj", ".zip", ".csv", ".vasp"]
    assert file_names.kinds_of(["a.csv.gz", "b.CSV.gz", "c.gz", "README"]) == "2 .csv.gz, 1 .gz, README"
    assert set(file_names.WRITTEN) <= set(TEXTS)


def test_bad_members_of_archives_are_named(tmp_path: Path) -> None:
    path = tmp_path / "all.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("good.cif", CIF)
        archive.writestr("x/bad.cif", "nonsense")
    with pytest.raises(DataError, match=r"all\.zip/x/bad\.cif: it is not a valid CIF.*\(1 of 2 crystals"):
        read_dataset(path)
    path.write_bytes(b"no archive")
    with pytest.raises(DataError, match=r"all\.zip is not a readable archive"):
        read_dataset(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data.db", b"SQLite format 3\0")
    with pytest.raises(DataError, match=r"all\.zip holds no files of crystals \(only 1 \.db\); unpack"):
        read_dataset(path)


def in_all_formats(folder: Path) -> list[str]:
    """Write the crystal in a file of each format that a folder may hold, and return the ids that it gets."""
    atoms, pandas = as_atoms(CSCL), [{"structure": CSCL.as_dict()}]
    folder.mkdir()
    (folder / "a.cif").write_text(CIF)
    (folder / "b.csv").write_text(f"cif\n{quoted(CIF)}\n")
    with connect(folder / "c.db") as database:
        database.write(atoms)
    atoms.write(folder / "d.extxyz")
    atoms.write(folder / "e.XYZ", format="extxyz", append=True)
    atoms.write(folder / "e.XYZ", format="extxyz", append=True)
    (folder / "f.json.gz").write_bytes(gzip.compress(json.dumps(pandas * 2).encode()))
    (folder / "g.jsonl").write_text(json.dumps(CSCL.as_dict()) + "\n")
    with Trajectory(folder / "h.traj", "w") as images:
        images.write(atoms)
    (folder / "sub").mkdir()
    atoms.info["material_id"] = "own"
    atoms.write(folder / "sub" / "a.extxyz")
    del atoms.info["material_id"]
    atoms.write(folder / "sub" / "d.extxyz")
    return ["a", "b", "c", "d", "e-1", "e-2", "f-1", "f-2", "g", "h", "own", "d#2"]


OTHERS = {
    "id_prop.csv": "a,0.5\n",
    "molecule.xyz": "1\nwater\nO 0 0 0\n",
    "settings.json": '{"seed": 1}',
    "rows.json": '[{"id": 1}, 2]',
    "metrics.jsonl": '{"loss": 1}\n',
    "Thumbs.db": "no database",
    "x.lmdb-lock": "",
}
"""Files that lie beside crystals and hold none."""


def test_a_folder_may_hold_all_formats_and_other_files(tmp_path: Path) -> None:
    ids = in_all_formats(tmp_path / "all")
    for name, text in OTHERS.items():
        (tmp_path / "all" / name).write_text(text)
    with pytest.warns(DataWarning, match=r": 7 files not read: 2 \.json, "):
        assert_caesium_chloride(tmp_path / "all", ids=ids, n=len(ids))
    path = tmp_path / "all.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in (tmp_path / "all").rglob("*"):
            archive.write(file, file.relative_to(tmp_path / "all"))
    texts = [ident for ident in ids if ident not in ("c", "h")]
    with pytest.warns(DataWarning, match=r": 9 files not read: 2 \.db, 2 \.json, "):
        assert_caesium_chloride(path, ids=texts, n=len(texts))


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("b.json", b'[{"structure": ', "not readable JSON"),
        ("b.jsonl", b'{"structure": ', "cannot be parsed"),
        ("b.json.gz", b"no gzip", "not a readable gzip file"),
        ("b.parquet", b"no parquet", "not a readable Parquet file"),
        ("b.db", b"SQLite format 3\0", "not a readable ASE database"),
        ("b.extxyz", b"", "it holds no crystals"),
        ("b.xyz", b'1\nLattice="4 0 0 0 4 0 0 0 4"\n', "it ends before its 1 atoms"),
    ],
)
def test_a_damaged_file_in_a_folder_is_refused(tmp_path: Path, name: str, data: bytes, reason: str) -> None:
    (tmp_path / "a.cif").write_text(CIF)
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError, match=f"{name}.*{reason}.*1 of 2 crystals"):
        read_dataset(tmp_path)
    with pytest.warns(DataWarning, match=reason):
        assert len(read_dataset(tmp_path, on_error="skip")) == 1


# --- tables ---------------------------------------------------------------------------------------------------------


def quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


TABLES = {
    "a.csv": f"material_id,cif\nmp-1,{quoted(CIF)}\n",
    "semicolons.csv": f"material_id;cif\nmp-1;{quoted(CIF)}\n",
    "a.tsv": f"material_id\tcif\nmp-1\t{quoted(CIF)}\n",
    "mark.csv": f"\ufeffmaterial_id,cif\nmp-1,{quoted(CIF)}\n",
    "capitals.csv": f"material_id,CIF\nmp-1,{quoted(CIF)}\n",
    "conventional.csv": f"material_id,cif.conv\nmp-1,{quoted(CIF)}\n",
    "escaped.csv": "material_id,cif\nmp-1," + quoted(CIF.replace("\n", "\\n")) + "\n",
    "structure.csv": f"material_id,structure\nmp-1,{quoted(json.dumps(CSCL.as_dict()))}\n",
    "python.csv": f"material_id,structure\nmp-1,{quoted(str(CSCL.as_dict()))}\n",
    "long.csv": f"material_id,note,cif\nmp-1,{'x' * 200_000},{quoted(CIF)}\n",
}


@pytest.mark.parametrize("name", TABLES)
def test_tables(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(TABLES[name], encoding="utf-8")
    assert_caesium_chloride(tmp_path / name, ids=["mp-1"])
    (tmp_path / f"{name}.gz").write_bytes(gzip.compress(TABLES[name].encode()))
    assert_caesium_chloride(tmp_path / f"{name}.gz", ids=["mp-1"])


def test_a_column_cif_goes_before_others(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(f"cif.conv,cif\n{quoted(CIF.replace('Cs', 'Rb'))},{quoted(CIF)}\n")
    assert_caesium_chloride(tmp_path / "a.csv", ids=["1"])


# --- JSON -----------------------------------------------------------------------------------------------------------

DICT = CSCL.as_dict()
SHAPES: dict[str, tuple[Any, list[str]]] = {
    "list": ([{"material_id": "mp-1", "structure": DICT}], ["mp-1"]),
    "initial": ([{"material_id": "mp-1", "initial_structure": DICT}], ["mp-1"]),
    "bare": (DICT, ["1"]),
    "bare list": ([DICT, DICT], ["1", "2"]),
    "single": ({"material_id": "mp-1", "structure": DICT}, ["mp-1"]),
    "download": ({"data": [{"material_id": "mp-1", "structure": DICT}], "meta": {"api": 1}}, ["mp-1"]),
    "by name": ({"mp-1": DICT, "mp-2": {"structure": DICT}}, ["mp-1", "mp-2"]),
    "pandas columns": ({"material_id": {"0": "mp-1", "1": "x"}, "structure": {"0": DICT, "1": DICT}}, ["mp-1", "x"]),
    "pandas lists": ({"material_id": ["mp-1"], "structure": [DICT]}, ["mp-1"]),
    "pandas split": ({"columns": ["material_id", "structure"], "index": [0], "data": [["mp-1", DICT]]}, ["mp-1"]),
    "pandas table": ({"schema": {}, "data": [{"index": 0, "material_id": "mp-1", "structure": DICT}]}, ["mp-1"]),
    "pandas index": ({"0": {"material_id": "mp-1", "structure": DICT}}, ["mp-1"]),
    "cif": ([{"material_id": "mp-1", "cif": CIF}], ["mp-1"]),
    "text": ([{"material_id": "mp-1", "structure": json.dumps(DICT)}], ["mp-1"]),
}


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_json(tmp_path: Path, name: str, encoding: str) -> None:
    data, ids = SHAPES[name]
    (tmp_path / "a.json").write_text(json.dumps(data), encoding=encoding)
    assert_caesium_chloride(tmp_path / "a.json", ids=ids, n=len(ids))


def test_json_lines_name_the_line_that_is_bad(tmp_path: Path) -> None:
    line = json.dumps({"material_id": "mp-1", "structure": DICT, "gap": 1.5})
    (tmp_path / "a.jsonl").write_text(f"{line}\n\n{line}\n")
    assert_caesium_chloride(tmp_path / "a.jsonl", ids=["mp-1", "mp-1#2"], n=2)
    assert read_dataset(tmp_path / "a.jsonl").properties[0]["gap"] == 1.5
    (tmp_path / "a.jsonl").write_text(f"{line}\n{{\n")
    with pytest.raises(DataError, match=r"a\.jsonl, row 2: it cannot be parsed"):
        read_dataset(tmp_path / "a.jsonl")


# --- slabs, in every format that can hold one -----------------------------------------------------------------------


def test_slabs_are_refused_in_every_format(tmp_path: Path) -> None:
    slab = Structure(Lattice(CSCL.lattice.matrix, pbc=(True, True, False)), CSCL.species, CSCL.frac_coords)
    (tmp_path / "a.json").write_text(json.dumps([{"structure": slab.as_dict()}]))
    (tmp_path / "a.xyz").write_text(
        '2\nLattice="4.12 0 0 0 4.12 0 0 0 4.12" pbc="T T F"\nCs 0 0 0\nCl 2.06 2.06 2.06\n'
    )
    with connect(tmp_path / "a.db") as database:
        database.write(as_atoms(CSCL, pbc=[True, True, False]))
    with Trajectory(tmp_path / "a.traj", "w") as file:
        file.write(as_atoms(CSCL, pbc=[True, True, False]))
    for suffix in ("json", "xyz", "db", "traj"):
        with pytest.raises(DataError, match=rf"a\.{suffix}.*: it is not periodic .*\(pbc T T F\)"):
            read_dataset(tmp_path / f"a.{suffix}")


# --- ASE ------------------------------------------------------------------------------------------------------------


def test_database_and_trajectory_of_ase(tmp_path: Path) -> None:
    with connect(tmp_path / "a.db") as database:
        database.write(as_atoms(CSCL), material_id="mp-1", gap=2.5)
        database.write(as_atoms(CSCL))
    assert_caesium_chloride(tmp_path / "a.db", ids=["mp-1", "2"], n=2)
    assert read_dataset(tmp_path / "a.db").properties[0]["gap"] == 2.5
    with Trajectory(tmp_path / "a.traj", "w") as file:
        file.write(as_atoms(CSCL))
        file.write(as_atoms(CSCL))
    assert_caesium_chloride(tmp_path / "a.traj", ids=["1", "2"], n=2)
    for name in ("b.db", "b.traj"):
        (tmp_path / name).write_bytes(b"neither" * 1000)
        with pytest.raises(DataError, match=f"{name}: it is not a readable ASE (database|trajectory)"):
            read_dataset(tmp_path / name)


@pytest.mark.parametrize(
    "text",
    [
        '\ufeff2\nLattice="4.12 0 0 0 4.12 0 0 0 4.12" pbc="T T T"\nCs 0 0 0\nCl 2.06 2.06 2.06\n',
        '2\nlattice="4.12 0 0 0 4.12 0 0 0 4.12" properties=species:S:1:pos:R:3:forces:R:3 energy=-6.1\n'
        "Cs 0 0 0 0 0 0\nCl 2.06 2.06 2.06 0 0 0\n",
    ],
)
def test_xyz_with_a_mark_or_keys_in_lower_case(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.xyz").write_text(text, encoding="utf-8")
    assert_caesium_chloride(tmp_path / "a.xyz", ids=["1"])


def test_deuterium_is_hydrogen(tmp_path: Path) -> None:
    (tmp_path / "a.xyz").write_text('2\nLattice="4 0 0 0 4 0 0 0 4"\nLi 0 0 0\nD 2 2 2\n')
    assert read_dataset(tmp_path / "a.xyz").crystals.formulas() == ["LiH"]


def test_positions_many_cells_away_are_the_same_in_the_cell(tmp_path: Path) -> None:
    cell = np.array([[4.12, 0, 0], [0.3, 4.2, 0], [0.2, 0.1, 5.3]])
    frac = np.array([[0.017, 0.046, 0.057], [0.445, 0.505, 0.377]])
    near = read_dataset(_xyz(tmp_path / "near.xyz", cell, frac @ cell), reduce=False).crystals
    for cells in (10, 1000, 100_000):
        far = frac @ cell + np.array([[cells, -cells, 3], [-cells, 0, cells]]) @ cell
        crystals = read_dataset(_xyz(tmp_path / "far.xyz", cell, far), reduce=False).crystals
        torch.testing.assert_close(crystals.pos, near.pos, atol=1e-6, rtol=0)


def _xyz(path: Path, cell: np.ndarray, positions: np.ndarray) -> Path:
    lattice = " ".join(f"{x:.9f}" for x in cell.flatten())
    lines = [f"{symbol} {' '.join(f'{x:.9f}' for x in xyz)}" for symbol, xyz in zip("CO", positions, strict=True)]
    path.write_text("\n".join(["2", f'Lattice="{lattice}"', *lines]) + "\n")
    return path


# --- what must not be lost ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("a.csv", f"material_id,cif\na,{quoted(CIF)}\nb,{quoted(CIF)[:-30]}", "unexpected end of data"),
        ("a.csv", f"cif,cif\n{quoted(CIF)},{quoted(CIF)}\n", "several columns 'cif'"),
        ("a.json", '{"a": 1, "a": 2}', "'a' appears twice"),
        ("a.json", '{"structures": [1], "entries": [2]}', "lists under structures and entries"),
        ("a.json", "[" * 200_000, "not readable JSON"),
        ("a.json", '{"a": ' + "1" * 5000 + "}", "not readable JSON"),
        ("a.xyz", '2\nLATTICE="4 0 0 0 4 0 0 0 4" PBC="T T F"\nC 0 0 0\nC 2 2 2\n', "not periodic"),
        (
            "a.xyz",
            '1\nLattice="4 0 0 0 4 0 0 0 4" Properties=species:S:1:pos:R:3:occupancy:R:1\nC 0 0 0 0.5\n',
            "disordered",
        ),
        ("a.xyz", "10000000000\n\nC 0 0 0\n", "10000000000 atoms or more"),
        ("a.xyz", '1\nLattice="4 0 0 0 4 0 0 0 4"\nC 1e17 0 0\n', "lose their digits"),
        ("POSCAR", "x\n1\n4 0 0\n0 4 0\n0 0 4\nCs\n1\nDirect\n0 0 0\n0.5 0.5 0.5\n", "lists 2 coordinates"),
        ("POSCAR", "x\n1\n4 0 0\n0 4 0\n0 0 4\nCs Cl\n1\nDirect\n0 0 0\n", "names 2 elements and 1 numbers"),
    ],
)  # fmt: skip
def test_what_would_be_lost_is_refused(tmp_path: Path, name: str, text: str, reason: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=f"{name}.*{reason}"):
        read_dataset(tmp_path / name)


def test_velocities_behind_coordinates_are_no_atoms(tmp_path: Path) -> None:
    text = "x\n1\n4.12 0 0\n0 4.12 0\n0 0 4.12\nCs Cl\n1 1\nDirect\n0 0 0\n0.5 0.5 0.5\n\n0 0 0\n0 0 0\n"
    (tmp_path / "POSCAR").write_text(text)
    assert_caesium_chloride(tmp_path / "POSCAR", ids=["POSCAR"])
    (tmp_path / "POSCAR").write_text(text.replace("\n", "\r"))
    assert_caesium_chloride(tmp_path / "POSCAR", ids=["POSCAR"])


def test_files_without_crystals_in_a_folder_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.cif").write_text(CIF)
    (tmp_path / "b.cif").write_text("data_x\n_journal_name x\n")
    (tmp_path / "c.cif").write_text("")
    with pytest.raises(DataError) as caught:
        read_dataset(tmp_path)
    assert [reason.rsplit("/", 1)[1].split(":")[0] for reason in caught.value.reasons] == ["b.cif", "c.cif"]


def test_an_unknown_way_with_errors_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="on_error='Skip' is none of refuse, skip"):
        read_dataset(tmp_path, on_error="Skip")  # type: ignore[arg-type]
