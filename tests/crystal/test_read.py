"""Reading data files: every format, reduction that keeps the crystal, and errors that name the row."""

from __future__ import annotations

import csv
import itertools
import json
import math
from pathlib import Path

import pytest
import torch
from pymatgen.core import Structure

from omatg_ray.crystal.formula import MAX_ATOMS_PER_CELL
from omatg_ray.crystal.read import read_dataset, survey
from omatg_ray.errors import DataError, DataWarning

pytestmark = pytest.mark.filterwarnings("ignore:Set OLD_ERROR_HANDLING:DeprecationWarning")  # spglib, about itself

CIF = """data_{name}
_symmetry_space_group_name_H-M   'P 1'
_cell_length_a   {a}
_cell_length_b   4.0
_cell_length_c   5.0
_cell_angle_alpha   90
_cell_angle_beta   {beta}
_cell_angle_gamma   90
loop_
 _symmetry_equiv_pos_site_id
 _symmetry_equiv_pos_as_xyz
  1  'x, y, z'
loop_
 _atom_site_type_symbol
 _atom_site_label
 _atom_site_fract_x
 _atom_site_fract_y
 _atom_site_fract_z
 _atom_site_occupancy
  {symbol}  A0  {x}  0.0  0.0  {occupancy}
  Cl  Cl1  0.5  0.5  0.33334  1
"""

ROCKSALT = """data_global
_journal_name 'no crystal in this block'

data_NaCl
_symmetry_space_group_name_H-M 'F m -3 m'
_cell_length_a 5.64
_cell_length_b 5.64
_cell_length_c 5.64
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
Na1 Na1+ 0 0 0
Cl1 Cl1- 0.5 0.5 0.5
"""


def cif(
    name: str = "x", symbol: str = "Na", x: str = "0.1", occupancy: str = "1", a: str = "3.5", beta: str = "100"
) -> str:
    return CIF.format(name=name, symbol=symbol, x=x, occupancy=occupancy, a=a, beta=beta)


def write_csv(path: Path, rows: list[dict[str, str]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_perovskites_stay_what_they_are(shared: Path) -> None:
    from pymatgen.analysis.structure_matcher import StructureMatcher

    path = shared / "data" / "perov_5_val.csv"
    dataset = read_dataset(path, limit=50)
    assert len(dataset) == 50
    assert dataset.crystals.dtype == torch.float32
    with path.open(newline="") as file:
        records = list(itertools.islice(csv.DictReader(file), 50))
    assert dataset.ids == [record["material_id"] for record in records]
    assert dataset.properties[0]["heat_all"] == 2.76
    assert dataset.properties[0]["formula"] == "CuCdN3"
    matcher = StructureMatcher(ltol=1e-3, stol=1e-3, angle_tol=0.1, primitive_cell=False, scale=False)
    for record, structure in zip(records, dataset.crystals.to_structures(), strict=True):
        assert matcher.fit(Structure.from_str(record["cif"], "cif"), structure)
    assert bool(((dataset.crystals.pos >= 0) & (dataset.crystals.pos < 1)).all())


# --- formats ----------------------------------------------------------------------------------------------------------


def test_csv_gives_cell_positions_ids_and_scalar_columns(tmp_path: Path) -> None:
    rows = [
        {"": "7", "material_id": "mp-1", "cif": cif(), "gap": "1.5", "spacegroup.number": "12", "note": ""},
        {"": "8", "material_id": "mp-1", "cif": cif(symbol="K"), "gap": "nan", "spacegroup.number": "2", "note": " a "},
        {"": "9", "material_id": "", "cif": cif(symbol="Rb"), "gap": "2", "spacegroup.number": "1", "note": "b"},
    ]
    dataset = read_dataset(write_csv(tmp_path / "data.csv", rows), reduce=False)
    assert dataset.ids == ["mp-1", "mp-1#2", "3"]
    assert dataset.properties == [
        {"material_id": "mp-1", "gap": 1.5, "spacegroup.number": 12},
        {"material_id": "mp-1", "spacegroup.number": 2, "note": "a"},
        {"gap": 2, "spacegroup.number": 1, "note": "b"},
    ]
    assert dataset.crystals.species.tolist() == [11, 17, 19, 17, 37, 17]
    angle = math.radians(100)
    cell = torch.tensor([[3.5, 0, 0], [0, 4, 0], [5 * math.cos(angle), 0, 5 * math.sin(angle)]])
    torch.testing.assert_close(dataset.crystals.cell[0], cell, atol=1e-6, rtol=0)
    # a coordinate near 1/3 is not rounded to it: the cell has no symmetry that would need it
    expected = torch.tensor([[0.1, 0, 0], [0.5, 0.5, 0.33334]])
    torch.testing.assert_close(dataset.crystals.pos[:2], expected, atol=1e-7, rtol=0)


def test_limit_reads_no_further(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "data.csv", [{"cif": cif()}, {"cif": cif()}, {"cif": "broken"}])
    assert read_dataset(path, limit=2).ids == ["1", "2"]
    with pytest.raises(DataError, match="row 3"):
        read_dataset(path, limit=3)
    with pytest.raises(DataError, match="limit=0"):
        read_dataset(path, limit=0)


def test_cif_symmetry_is_expanded_and_blocks_without_crystals_are_skipped(tmp_path: Path) -> None:
    (tmp_path / "salt.cif").write_text(ROCKSALT)
    dataset = read_dataset(tmp_path / "salt.cif")
    assert dataset.ids == ["salt"]
    assert sorted(dataset.crystals.species.tolist()) == [11] * 4 + [17] * 4
    torch.testing.assert_close(dataset.crystals.cell[0], 5.64 * torch.eye(3), atol=1e-5, rtol=0)


def test_cif_blocks_of_one_name_are_all_read(tmp_path: Path) -> None:
    (tmp_path / "many.cif").write_text(cif("same") + cif("same", symbol="K") + cif("other", symbol="Rb"))
    dataset = read_dataset(tmp_path / "many.cif")
    assert dataset.ids == ["same", "same#2", "other"]
    assert dataset.compositions == ["NaCl", "KCl", "RbCl"]


def test_folder_is_read_in_the_order_of_names(tmp_path: Path) -> None:
    for name, symbol in (("b", "K"), ("a", "Na"), ("c", "Rb")):
        (tmp_path / f"{name}.cif").write_text(cif(symbol=symbol))
    dataset = read_dataset(tmp_path)
    assert dataset.ids == ["a", "b", "c"]
    assert dataset.compositions == ["NaCl", "KCl", "RbCl"]


def test_files_of_a_folder_that_are_not_read_are_counted(tmp_path: Path) -> None:
    (tmp_path / "a.cif").write_text(cif())
    for name in ("a.xyz", "b.xyz", "c.CSV", "README", ".hidden.txt"):
        (tmp_path / name).write_text("")
    with pytest.warns(DataWarning, match=r": 4 files not read: 2 \.xyz, 1 \.csv, README \(without crystals"):
        assert len(read_dataset(tmp_path)) == 1


def test_a_survey_finds_all_that_is_wrong_with_a_file(tmp_path: Path) -> None:
    for number in range(25):
        (tmp_path / f"{number:02d}.cif").write_text(cif() if number == 3 else "nonsense")
    (tmp_path / "25.cif").write_text(cif(a="0.4"))
    (tmp_path / "data.csv").write_text("")
    found = survey(tmp_path)
    assert found.usable is not None and found.usable.ids == ["03"]
    assert len(found.unusable) == 25
    assert [crystal.where for crystal in found.unusable if crystal.overlaps] == [str(tmp_path / "25.cif")]
    assert found.left_out == ["data.csv"]
    (tmp_path / "none.cif").write_text("nonsense")
    assert survey(tmp_path / "none.cif").usable is None
    for on_error in ("refuse", "skip"):
        with pytest.raises(DataError, match=r"^\S*data\.csv: it has no column 'cif' "):
            read_dataset(tmp_path / "data.csv", on_error=on_error)


def test_extxyz_gives_positions_info_and_energies(tmp_path: Path) -> None:
    path = tmp_path / "data.xyz"
    path.write_text(
        '2\nLattice="4 0 0 0 5 0 0 0 6" Properties=species:S:1:pos:R:3 energy=-3.5 material_id=m7 flag=T v="1 2"\n'
        "Na 1.0 0.0 0.0\nCl -1.0 2.5 7.5\n\n"
        '1\nLattice="4 0 0 0 5 0 0 0 6" Properties=species:S:1:pos:R:3\nFe 0 0 0\n'
    )
    dataset = read_dataset(path, reduce=False)
    assert dataset.ids == ["m7", "2"]
    assert dataset.properties == [{"energy": -3.5, "material_id": "m7", "flag": 1}, {}]
    expected = torch.tensor([[0.25, 0, 0], [0.75, 0.5, 0.25], [0, 0, 0]])
    torch.testing.assert_close(dataset.crystals.pos, expected)
    torch.testing.assert_close(dataset.crystals.cell[0], torch.diag(torch.tensor([4.0, 5, 6])))


def test_orientation_of_files_that_have_one_is_kept_unless_reduced(tmp_path: Path) -> None:
    path = tmp_path / "data.extxyz"
    path.write_text('1\nLattice="0 0 6 4 0 0 0 5 0" Properties=species:S:1:pos:R:3\nFe 1 0 0\n')
    kept = read_dataset(path, reduce=False).crystals
    assert kept.cell[0].tolist() == [[0, 0, 6], [4, 0, 0], [0, 5, 0]]
    assert kept.pos[0].tolist() == [0, 0.25, 0]
    reduced = read_dataset(path).crystals
    torch.testing.assert_close(reduced.cell[0], torch.diag(torch.tensor([4.0, 5, 6])))


# --- bad input --------------------------------------------------------------------------------------------------------

BAD_CIFS = {
    "text": ("nonsense", "not a valid CIF: line 1"),
    "two": (cif() + cif("y"), "2 crystals"),
    "nan position": (cif(x="nan"), "coordinate x of site 1 .A0. is not a number: 'nan'"),
    "inf position": (cif(x="inf"), "coordinate x of site 1 .A0. is not a number: 'inf'"),
    "nan length": (cif(a="nan"), "_cell_length_a is not a number: 'nan'"),
    "flat": (cif(a="0.004"), "degenerate: its volume is 0.0788"),
    "zero angle": (cif(beta="0"), "spans no volume"),
    "partly occupied": (cif(occupancy="0.5"), "disordered"),
    "unknown element": (cif(symbol="Qq"), "no chemical element"),
    "guessed element": (cif(symbol="Fx"), "Fx"),
    "no number": (cif(x="?"), "site 1 .A0. has no coordinate x"),
    "shared site": (
        cif(x="0.5").replace("0.5  0.0  0.0", "0.5  0.5  0.33334"),
        r"atoms 1 \(Na\) and 2 \(Cl\) are 0 Å apart",
    ),
    "no atoms": (
        cif().split("loop_\n _atom_site")[0],
        "no atoms: .*_atom_site_fract_x is unknown",
    ),
}


@pytest.mark.parametrize("name", BAD_CIFS)
def test_bad_csv_row_is_named(tmp_path: Path, name: str) -> None:
    text, reason = BAD_CIFS[name]
    path = write_csv(tmp_path / "data.csv", [{"cif": cif()}, {"cif": text}])
    with pytest.raises(DataError, match=f"data.csv, row 2: .*({reason})") as caught:
        read_dataset(path)
    assert "\n" not in str(caught.value)


BAD_FRAMES = {
    "not a number": ("two\n\n", "number of atoms"),
    "torn": ('2\nLattice="4 0 0 0 5 0 0 0 6"\nNa 0 0 0\n', "ends before"),
    "no lattice": ("1\n\nNa 0 0 0\n", "lattice"),
    "slab": ('1\nLattice="4 0 0 0 5 0 0 0 6" pbc="T T F"\nNa 0 0 0\n', "periodic"),
    "nan": ('1\nLattice="4 0 0 0 5 0 0 0 6"\nNa 0 nan 0\n', "NaN"),
    "flat": ('1\nLattice="4 0 0 0 5 0 0 0 1e-3"\nNa 0 0 0\n', "degenerate"),
    "dummy": ('1\nLattice="4 0 0 0 5 0 0 0 6"\nX 0 0 0\n', "no chemical element"),
    "unknown element": ('1\nLattice="4 0 0 0 5 0 0 0 6"\nQq 0 0 0\n', "'Qq' is unknown"),
    "missing column": ('1\nLattice="4 0 0 0 5 0 0 0 6"\nNa 0 0\n', "cannot be parsed .*tuple"),
}


@pytest.mark.parametrize("name", BAD_FRAMES)
def test_bad_xyz_frame_is_named(tmp_path: Path, name: str) -> None:
    frame, reason = BAD_FRAMES[name]
    path = tmp_path / "data.extxyz"
    path.write_text('1\nLattice="4 0 0 0 5 0 0 0 6"\nNa 0 0 0\n' + frame)
    with pytest.raises(DataError, match=f"data.extxyz, row 2: .*({reason})"):
        read_dataset(path)


def test_bad_files_in_folders_and_blocks_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.cif").write_text(cif())
    (tmp_path / "b.cif").write_text(cif() + cif("second", occupancy="0.5"))
    with pytest.raises(DataError, match=r"b\.cif, block 2 \(second\): .*disordered"):
        read_dataset(tmp_path)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[", "not readable JSON"),
        ('{"structure": 1}', "'structure' holds no structures"),
        ("7", "must hold a list of objects with a key 'structure'"),
        ("[1]", "row 1: .*structure"),
        (json.dumps([{"structure": {"lattice": 3}}]), "row 1"),
        ("[]", "no crystals"),
    ],
)
def test_bad_json_is_named(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "data.json"
    path.write_text(text)
    with pytest.raises(DataError, match=f"data.json.*{reason}"):
        read_dataset(path)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("absent.csv", None, "does not exist"),
        ("data.nc", b"x", "unknown suffix"),
        ("data.vasp", b"x", "fewer than 8 lines"),
        ("empty.csv", b"", "no column 'cif'"),
        ("other.csv", b"a,b\n1,2\n", "no column 'cif'.*'a', 'b'"),
        ("header.csv", b"cif,a\n", "no crystals"),
        ("empty.xyz", b"", "no crystals"),
        ("empty.cif", b"", "no crystals"),
        ("short.csv", b"cif,a\nx\n", "row 1: the number of its fields"),
        ("long.csv", b"cif,a\nx,1,2\n", "row 1: the number of its fields"),
        ("binary.csv", b"cif\n\xff\xfe\x00", "cannot be read"),
        ("binary.json", b"\xff\xfe\x00", "cannot be read"),
    ],
)
def test_unusable_files_are_named(tmp_path: Path, name: str, content: bytes | None, reason: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=f"{name}.*{reason}"):
        read_dataset(tmp_path / name)


def test_empty_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no files of crystals; name"):
        read_dataset(tmp_path)
    (tmp_path / "a.csv").write_text("name\n")
    with pytest.raises(DataError, match=r"holds no files of crystals \(only 1 \.csv\)"):
        read_dataset(tmp_path)


# --- many bad ones ----------------------------------------------------------------------------------------------------


def frames(*shifts: float) -> str:
    """Two Na in a cell of 4 Å for each shift, that far apart in Å."""
    return "".join(f'2\nLattice="4 0 0 0 4 0 0 0 4"\nNa 0 0 0\nNa 0 0 {shift}\n' for shift in shifts)


def test_overlapping_atoms_are_refused_with_the_pair(tmp_path: Path) -> None:
    path = tmp_path / "data.xyz"
    path.write_text(frames(2.0, 0.25, 3.9))
    with pytest.raises(DataError) as caught:
        read_dataset(path)
    assert caught.value.reasons == [
        f"{path}, row 2: atoms 1 (Na) and 2 (Na) are 0.25 Å apart (at least 0.5 is needed)",
        f"{path}, row 3: atoms 1 (Na) and 2 (Na) are 0.1 Å apart (at least 0.5 is needed)",
    ]
    assert str(caught.value).startswith(f"2 of 3 crystals of {path} cannot be used; data.on_error=skip")
    assert len(read_dataset(path, allow_overlaps=True)) == 3


def test_a_vector_that_is_too_short_is_named(tmp_path: Path) -> None:
    path = tmp_path / "data.xyz"
    path.write_text('1\nLattice="0.4 0 0 0 4 0 0 0 4"\nNa 0 0 0\n')
    with pytest.raises(DataError, match=r"atom 1 \(Na\) and its own image are 0.4 Å apart"):
        read_dataset(path)


def test_skipping_goes_on_with_the_rest_and_says_what_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "data.xyz"
    path.write_text(frames(2.0, 0.1, 1.5, 0.2, 1.0))
    with pytest.warns(DataWarning, match=r"2 of 5 crystals of .*data\.xyz are left out:\n.*row 2: .*\n.*row 4: "):
        dataset = read_dataset(path, on_error="skip")
    assert dataset.ids == ["1", "3", "5"]
    torch.testing.assert_close(dataset.crystals.pos[1::2, 2], torch.tensor([0.5, 0.375, 0.25]))
    with pytest.warns(DataWarning, match="1 of 3 crystals"):  # a limit counts what is used
        assert read_dataset(path, on_error="skip", limit=2).ids == ["1", "3"]


def test_nothing_left_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "data.xyz"
    path.write_text(frames(0.1, 0.2))
    with pytest.raises(DataError, match="none of the 2 crystals of .* can be used"):
        read_dataset(path, on_error="skip")


def test_up_to_twenty_are_named(tmp_path: Path) -> None:
    path = tmp_path / "data.xyz"
    path.write_text(frames(*[0.1] * 30))
    with pytest.raises(DataError) as caught:
        read_dataset(path)
    assert len(caught.value.reasons) == 20
    path.write_text(frames(*[0.1] * 30, 2.0))
    with pytest.warns(DataWarning, match="(?s)30 of 31 .*\n  and 10 more$"):
        read_dataset(path, on_error="skip")


def test_every_bad_file_of_a_folder_is_named(tmp_path: Path) -> None:
    for name, text in (("a", cif()), ("b", "nonsense"), ("c", cif(occupancy="0.5")), ("d", cif())):
        (tmp_path / f"{name}.cif").write_text(text)
    with pytest.raises(DataError) as caught:
        read_dataset(tmp_path)
    assert [reason.split(":")[0].rsplit("/", 1)[1] for reason in caught.value.reasons] == ["b.cif", "c.cif"]
    with pytest.warns(DataWarning, match="2 of 4"):
        assert read_dataset(tmp_path, on_error="skip").ids == ["a", "d"]


def test_cells_that_no_network_could_take_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "data.xyz"
    side = 11
    grid = list(itertools.product(range(side), repeat=3))[: MAX_ATOMS_PER_CELL + 1]
    rows = "".join(f"Na {2 * x} {2 * y} {2 * z}\n" for x, y, z in grid)
    path.write_text(f'{len(grid)}\nLattice="22 0 0 0 22 0 0 0 22"\n{rows}')
    with pytest.raises(DataError, match=r"row 1: it has 1001 atoms or more; a cell may hold 1000 at most"):
        read_dataset(path)


def test_formulas_that_disagree_are_warned_of(tmp_path: Path) -> None:
    text = cif().replace("_cell_length_a", "_chemical_formula_sum 'Na Cl C2 N'\n_cell_length_a")
    (tmp_path / "a.cif").write_text(text)
    with pytest.warns(DataWarning, match=r"1 of 1 crystals .* are doubtful .*:\n.*a\.cif: Na1 Cl1 in the"):
        assert len(read_dataset(tmp_path / "a.cif")) == 1
