"""What a CIF means: symmetry, sites and composition; and what is refused, since it would have to be guessed."""

from __future__ import annotations

from collections import Counter

import gemmi
import numpy as np
import pytest

from omatg_ray.crystal.cif import row_of_block
from omatg_ray.crystal.cif_block import Block, read_blocks
from omatg_ray.crystal.composition import parse_formula_sum
from omatg_ray.crystal.row import Row
from omatg_ray.errors import DataError

RUTILE_SITES = [("Ti1", "Ti", "0 0 0"), ("O1", "O", "0.305 0.305 0")]
RUTILE_OPERATIONS = [
    "x,y,z", "-x,-y,z", "-y+1/2,x+1/2,z+1/2", "y+1/2,-x+1/2,z+1/2", "-x+1/2,y+1/2,-z+1/2", "x+1/2,-y+1/2,-z+1/2",
    "y,x,-z", "-y,-x,-z", "-x,-y,-z", "x,y,-z", "y+1/2,-x+1/2,-z+1/2", "-y+1/2,x+1/2,-z+1/2", "x+1/2,-y+1/2,z+1/2",
    "-x+1/2,y+1/2,z+1/2", "-y,-x,z", "y,x,z",
]  # fmt: skip


def cif(
    cell: str,
    sites: list[tuple[str, str | None, str]],
    items: str = "",
    operations: list[str] | None = None,
    columns: str = "",
) -> str:
    """A CIF: lengths and angles, items, operations, and sites (label, type, coordinates and further columns)."""
    names = ("length_a", "length_b", "length_c", "angle_alpha", "angle_beta", "angle_gamma")
    lines = ["data_test", *(f"_cell_{name} {value}" for name, value in zip(names, cell.split(), strict=True)), items]
    if operations is not None:
        lines += ["loop_", "_symmetry_equiv_pos_as_xyz", *(f"'{operation}'" for operation in operations)]
    typed = sites and sites[0][1] is not None
    lines += ["loop_", "_atom_site_label", *(["_atom_site_type_symbol"] if typed else [])]
    lines += [f"_atom_site_fract_{axis}" for axis in "xyz"] + columns.split()
    lines += [" ".join(filter(None, site)) for site in sites]
    return "\n".join(lines) + "\n"


def read(text: str) -> Row:
    (block,) = read_blocks(text)
    return row_of_block(block, block.name)


def atoms(row: Row) -> dict[str, int]:
    return dict(Counter(gemmi.Element(z).name for z in row.numbers))


def rutile(items: str = "", operations: list[str] | None = None, columns: str = "", **more: str) -> str:
    sites = [(label, symbol, f"{xyz} {more.get(label, '')}") for label, symbol, xyz in RUTILE_SITES]
    return cif("4.594 4.594 2.959 90 90 90", sites, items, operations, columns)


# --- symmetry ---------------------------------------------------------------------------------------------------------


def test_operations_make_the_atoms_of_the_cell() -> None:
    row = read(rutile("_chemical_formula_sum 'Ti O2'\n_cell_formula_units_Z 2", RUTILE_OPERATIONS))
    assert atoms(row) == {"Ti": 2, "O": 4}
    expected = [[0.305, 0.305, 0], [0.695, 0.695, 0], [0.195, 0.805, 0.5], [0.805, 0.195, 0.5]]
    oxygen = row.frac[np.array(row.numbers) == 8] % 1
    assert np.array(sorted(oxygen.round(9).tolist())) == pytest.approx(np.array(sorted(expected)))
    assert row.cell == pytest.approx(np.diag([4.594, 4.594, 2.959]))


# The right number of atoms of each: from the Wyckoff positions in International Tables.
NAMED = {
    "fcc": ("3.52 3.52 3.52 90 90 90", [("Ni", "Ni", "0 0 0")], "_symmetry_space_group_name_H-M 'F m -3 m'", {"Ni": 4}),
    "other tag": ("3.6 3.6 3.6 90 90 90", [("Cu", "Cu", "0 0 0")], "_space_group_name_H-M_ref 'F m -3 m'", {"Cu": 4}),
    "screw axes of SHELX": (
        "5 6 7 90 100 90",
        [("K", "K", "0.1 0.2 0.3")],
        "_symmetry_space_group_name_H-M P2(1)/c\n_space_group_IT_number 14",
        {"K": 4},
    ),
    "spelled out": (
        "5.64 5.64 5.64 90 90 90",
        [("Na", "Na", "0 0 0"), ("Cl", "Cl", "0.5 0.5 0.5")],
        "_space_group_name_H-M_alt 'F 4/m -3 2/m'",
        {"Na": 4, "Cl": 4},
    ),
    "number": ("3.52 3.52 3.52 90 90 90", [("Ni", "Ni", "0 0 0")], "_space_group_IT_number 225", {"Ni": 4}),
    "hall": (
        "5.43 5.43 5.43 90 90 90",
        [("Si", "Si", "0 0 0")],
        "_space_group_name_Hall 'F 4d 2 3 -1d'",
        {"Si": 8},
    ),
    "old symbol, choice 2 by the number of atoms": (
        "5.43 5.43 5.43 90 90 90",
        [("Si", "Si", "0.125 0.125 0.125")],
        "_symmetry_space_group_name_H-M 'F d 3 m'\n_chemical_formula_sum Si\n_cell_formula_units_Z 8",
        {"Si": 8},
    ),
    "choice 2 by its mark": (
        "5.43 5.43 5.43 90 90 90",
        [("Si", "Si", "0.125 0.125 0.125")],
        "_symmetry_space_group_name_H-M 'F d -3 m Z'",
        {"Si": 8},
    ),
    "choice 2 after a colon": (
        "5.43 5.43 5.43 90 90 90",
        [("Si", "Si", "0.125 0.125 0.125")],
        "_symmetry_space_group_name_H-M 'Fd-3m:2'",
        {"Si": 8},
    ),
    "rhombohedral axes": (
        "4.0718 4.0718 4.0718 90.459 90.459 90.459",
        [("S", "S", "0.2521 0.2521 0.2521"), ("Ni", "Ni", "0.5 0.2449 -0.2449")],
        "_symmetry_space_group_name_H-M 'R 3 2'",
        {"Ni": 3, "S": 2},
    ),
    "hexagonal axes": (
        "2.875 2.875 7.131 90 90 120",
        [("Ni", "Ni", "0 0.2449 0.5"), ("S", "S", "0 0 0.2521")],
        "_symmetry_space_group_name_H-M 'R 3 2 :H'",
        {"Ni": 9, "S": 6},
    ),
    "unique axis": (
        "5 6 7 90 90 95",
        [("K", "K", "0.1 0.2 0.3")],
        "_symmetry_space_group_name_H-M 'P 1 1 21/b'",
        {"K": 4},
    ),
}


@pytest.mark.parametrize("name", NAMED)
@pytest.mark.parametrize("listed", [False, True])
def test_a_named_group_is_applied_where_its_operations_are_missing(name: str, listed: bool) -> None:
    cell, sites, items, expected = NAMED[name]
    if (
        listed and "_units_Z" not in items
    ):  # the identity alone beside the name of another group: the formula must decide
        atoms_of_one = Counter({site[1]: expected[str(site[1])] for site in sites})
        units = np.gcd.reduce(list(expected.values()))
        formula = " ".join(f"{symbol}{n // units}" for symbol, n in atoms_of_one.items())
        items += f"\n_chemical_formula_sum '{formula}'\n_cell_formula_units_Z {units}"
    row = read(cif(cell, sites, items, ["x,y,z"] if listed else None))
    assert atoms(row) == expected


def test_a_named_group_of_a_cell_that_is_listed_as_a_whole_changes_nothing() -> None:
    sites = [(f"Na{i}", "Na", xyz) for i, xyz in enumerate(["0 0 0", "0 0.5 0.5", "0.5 0 0.5", "0.5 0.5 0"])]
    for operations in (None, ["x,y,z"]):
        row = read(cif("4 4 4 90 90 90", sites, "_symmetry_space_group_name_H-M 'F m -3 m'", operations))
        assert atoms(row) == {"Na": 4}


@pytest.mark.parametrize(
    ("items", "operations", "reason"),
    [
        ("_symmetry_space_group_name_H-M 'Q 9'", None, "Q 9.* is unknown"),
        ("_symmetry_space_group_name_H-M 'F d -3 m'", None, "atoms open.*F d -3 m:1, F d -3 m:2"),
        ("_symmetry_space_group_name_H-M 'F m -3 m'", ["x,y,z"], "atoms open.*the identity alone"),
        ("_symmetry_space_group_name_H-M 'P 63'", None, "cell does not have the symmetry.*P 63"),
        (
            "_symmetry_space_group_name_H-M 'F m -3 m'\n_space_group_IT_number 221",
            None,
            "more than one space group: F m -3 m .number 225., number 221",
        ),
        ("", ["x,y,z", "-y,x-y,z", "-x+y,-x,z"], "do not fit its cell"),
        ("", ["x,y,z", "y,z,x"], "not a group"),
        ("", ["x,y,z", "2x,y,z"], "'2x,y,z' cannot be read"),
        ("_space_group_IT_number 225", ["x,y,z", "-x,-y,-z"], "lists 2 .*number 225.* has 48"),
    ],
)
def test_symmetry_that_is_unknown_or_contradicts_itself_is_refused(
    items: str, operations: list[str] | None, reason: str
) -> None:
    with pytest.raises(DataError, match=reason):
        read(cif("4 4 4 90 90 90", [("Si", "Si", "0 0 0")], items, operations))


CUBE = "5.64 5.64 5.64 90 90 90"
SALT = [("Na", "Na", "0 0 0"), ("Cl", "Cl", "0.5 0.5 0.5")]


def primitive_operations(symbol: str) -> list[str]:
    """Those of a group without the centring translations that its cell has."""
    group = gemmi.SpaceGroup(symbol).operations()
    return [op.triplet() for op in group.sym_ops]


@pytest.mark.parametrize(
    ("cell", "sites", "items", "operations", "reason"),
    [
        # centring translations left out: a quarter of the atoms
        (CUBE, SALT, "_space_group_IT_number 225", primitive_operations("F m -3 m"), "lack the centring"),
        (
            "4.5 4.5 11.8 90 90 120",
            [("Bi", "Bi", "0 0 0.23")],
            "_symmetry_space_group_name_H-M 'R -3 m'",
            primitive_operations("R -3 m:H"),
            "lack the centring translations of its space group .R -3 m.: it lists 12 of 36",
        ),
        # one long vector hides nothing
        ("4 3 40 90 90 90", SALT, "", primitive_operations("P 4"), "do not fit its cell"),
        ("4 3 40 90 90 90", SALT, "_symmetry_space_group_name_H-M 'P 4'", None, "cell does not have the symmetry"),
        # names that contradict each other
        (CUBE, SALT, "_symmetry_space_group_name_H-M 'P 1'\n_space_group_IT_number 225", None, "more than one"),
        (
            CUBE,
            SALT,
            "_symmetry_space_group_name_H-M 'P 1'\n_symmetry_space_group_name_Hall '-F 4 2 3'",
            ["x,y,z"],
            "more than one space group: P 1 .number 1., -F 4 2 3 .number 225.",
        ),
        # items that are not known, which say something of symmetry
        (CUBE, SALT, "_symmetry_space_group_name 'F m -3 m'", None, "_symmetry_space_group_name is"),
        (CUBE, SALT, "_space_group_name_Schoenflies Oh^5", ["x,y,z"], "schoenflies is 'Oh.5'"),
        (CUBE, SALT, "_symmetry_cell_setting cubic", None, "_symmetry_cell_setting is 'cubic'"),
        (CUBE, SALT, "_space_group_magn.name_BNS 'P_S1'", None, "_space_group_magn_name_bns is"),
        (CUBE, SALT, "_space_group_ssg_name 'Im-3m(00g)'", None, "incommensurate"),
    ],
)
def test_symmetry_that_would_be_lost_is_refused(
    cell: str, sites: list[tuple[str, str | None, str]], items: str, operations: list[str] | None, reason: str
) -> None:
    with pytest.raises(DataError, match=reason):
        read(cif(cell, sites, items, operations))


def test_what_says_that_there_is_no_symmetry_is_understood() -> None:
    items = "_symmetry_cell_setting triclinic\n_space_group_name_Schoenflies C1^1\n_symmetry_equiv_pos_site_id 1"
    assert atoms(read(cif("5.64 5.64 5.64 90 90 90", SALT, items, ["x,y,z"]))) == {"Na": 1, "Cl": 1}


def test_the_whole_of_a_primitive_cell_may_go_under_the_name_of_a_centred_group() -> None:
    items = "_symmetry_space_group_name_H-M 'F m -3 m'\n_chemical_formula_sum 'Na Cl'\n_cell_formula_units_Z 1"
    assert atoms(read(cif("3.99 3.99 3.99 60 60 60", SALT, items, ["x,y,z"]))) == {"Na": 1, "Cl": 1}
    with pytest.raises(DataError, match="its formula"):
        read(cif("3.99 3.99 3.99 60 60 60", SALT, items.replace("Z 1", "Z 4"), ["x,y,z"]))


def test_listed_atoms_of_a_centred_cell_need_no_centring() -> None:
    sites = [(f"Ni{i}", "Ni", xyz) for i, xyz in enumerate(["0 0 0", "0 0.5 0.5", "0.5 0 0.5", "0.5 0.5 0"])]
    items = "_symmetry_space_group_name_H-M 'F m -3 m'"
    row = read(cif("3.52 3.52 3.52 90 90 90", sites, items, primitive_operations("F m -3 m")))
    assert atoms(row) == {"Ni": 4}


def test_a_large_group_of_many_sites_is_too_large() -> None:
    sites = [(f"Si{i}", "Si", f"{0.05 + i / 100} {0.2 + i / 100} {0.37 + i / 100}") for i in range(6)]
    with pytest.raises(DataError, match="atoms or more; a cell may hold 1000"):
        read(cif("40 40 40 90 90 90", sites, "_symmetry_space_group_name_H-M 'F m -3 m'"))


@pytest.mark.parametrize("digits", [3, 4, 5])
def test_rounded_special_positions_give_the_atoms_that_are_meant(digits: int) -> None:
    """Wurtzite: 4 atoms, whose coordinates 1/3 and 2/3 are rounded; and the crystal is the exact one."""
    third, two_thirds = f"{1 / 3:.{digits}f}", f"{2 / 3:.{digits}f}"
    operations = [op.triplet() for op in gemmi.SpaceGroup("P 63 m c").operations()]
    sites = [(z, z, f"{third} {two_thirds} {height}") for z, height in (("Zn", "0"), ("O", "0.345"))]
    row = read(cif("3.2495 3.2495 5.2069 90 90 120", sites, "_chemical_formula_sum 'Zn O'", operations))
    assert atoms(row) == {"Zn": 2, "O": 2}
    assert row.frac[:, :2] % 1 == pytest.approx(np.array([[1 / 3, 2 / 3], [2 / 3, 1 / 3]] * 2), abs=1e-9)


def test_an_atom_near_a_mirror_is_on_it_and_one_further_off_is_two() -> None:
    mirror = ["x,y,z", "-x,y,z"]
    assert atoms(read(cif("10 4 5 90 90 90", [("K", "K", "0.003 0 0")], "", mirror))) == {"K": 1}
    assert read(cif("10 4 5 90 90 90", [("K", "K", "0.003 0 0")], "", mirror)).frac[0, 0] == pytest.approx(0)
    assert atoms(read(cif("10 4 5 90 90 90", [("K", "K", "0.1 0 0")], "", mirror))) == {"K": 2}


def test_sites_that_symmetry_makes_of_others_are_the_same_atoms() -> None:
    sites = [("K1", "K", "0.1 0 0"), ("K1_2", "K", "0.9 1 0"), ("Cl1", "Cl", "0.3 0.2 0.1")]
    assert atoms(read(cif("10 4 5 90 90 90", sites, "", ["x,y,z", "-x,-y,-z"]))) == {"K": 2, "Cl": 2}


def test_unquoted_operations_are_put_together() -> None:
    text = rutile(operations=["x, y, z", "-x, -y, -z"]).replace("'", "")
    assert atoms(read(text)) == {"Ti": 1, "O": 2}


def test_magnetic_operations_with_centrings_move_atoms_without_their_time_reversal() -> None:
    text = cif("4 4 6.4 90 90 90", [("Mn", "Mn", "0 0 0"), ("O", "O", "0.5 0.5 0.25")])
    magnetic = """loop_
_space_group_symop_magn_operation.id
_space_group_symop_magn_operation.xyz
1 x,y,z,+1
loop_
_space_group_symop_magn_centering.id
_space_group_symop_magn_centering.xyz
1 x,y,z,+1
2 x,y,z+1/2,-1
"""
    assert atoms(read(text + magnetic)) == {"Mn": 2, "O": 2}


# --- sites ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("occupancy", [".", "?", "1", "1.000(3)", "0.999"])
def test_an_occupancy_that_is_not_given_is_one(occupancy: str) -> None:
    text = rutile(columns="_atom_site_occupancy", Ti1="1", O1=occupancy)
    assert atoms(read(text)) == {"Ti": 1, "O": 1}


@pytest.mark.parametrize(
    ("symbol", "element"),
    [("Na1+", "Na"), ("Na+", "Na"), ("O2-", "O"), ("O-2", "O"), ("Fe+3", "Fe"), ("FE", "Fe"), ("Sival", "Si"),
     ("C", "C"), ("D", "H"), ("Cs", "Cs"), ("Zn2", "Zn"), ("Zn(2+)", "Zn"), ("Cval", "C"), ("Cu2+33", "Cu")],
)  # fmt: skip
def test_type_symbols_name_elements_in_many_spellings(symbol: str, element: str) -> None:
    assert atoms(read(cif("4 4 4 90 90 90", [("X1", symbol, "0 0 0")]))) == {element: 1}


@pytest.mark.parametrize("symbol", ["O-H", "OH", "Wat", "Qq", "X", "T", "Na1+x"])
def test_type_symbols_that_are_no_element_are_refused(symbol: str) -> None:
    with pytest.raises(DataError, match=f"site 1 .X1. is not an atom: its type symbol '{symbol.replace('+', '.')}'"):
        read(cif("4 4 4 90 90 90", [("X1", symbol, "0 0 0")]))


@pytest.mark.parametrize(
    ("label", "formula", "element"),
    [
        ("Na1", "", "Na"),
        ("O12A", "", "O"),
        ("Cl", "", "Cl"),
        ("CO1", "C1 O1", "C"),
        ("HO1", "H1", "H"),
        ("Ow1", "O1", "O"),
        ("OH", "O1", "O"),
        ("CA1", "Ca1", "Ca"),
        ("Ca1", "C1 Ca1", "Ca"),
        ("SIT", "Si1", "Si"),
        ("D1", "D1", "H"),
        ("CL2", "Cl1", "Cl"),
    ],
)
def test_labels_name_elements_with_the_help_of_the_formula(label: str, formula: str, element: str) -> None:
    row = read(cif("4 4 4 90 90 90", [(label, None, "0 0 0")], f"_chemical_formula_sum '{formula}'" if formula else ""))
    assert gemmi.Element(row.numbers[0]).name == element


@pytest.mark.parametrize(
    ("label", "formula"),
    [("T1", "Si1 O2"), ("T1", ""), ("OH", ""), ("Wat", ""), ("Wat", "H2 O1"), ("CO1", ""), ("CL1", ""), ("M2", ""),
     ("CA1", "C1 Ca1"), ("1", "")],
)  # fmt: skip
def test_labels_that_may_be_something_else_are_refused(label: str, formula: str) -> None:
    with pytest.raises(DataError, match=rf"site 1 \({label}\) is not an atom: its label '{label}'"):
        read(cif("4 4 4 90 90 90", [(label, None, "0 0 0")], f"_chemical_formula_sum '{formula}'" if formula else ""))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (cif("4 4 4 90 90 90", [("Cs1", "Cs", "0 0 0"), ("H1", "H", ". . .")]), r"site 2 \(H1\) has no coordinate x"),
        (cif("4 4 4 90 90 90", [("Cs1", "Cs", "0 x 0")]), r"coordinate y of site 1 \(Cs1\) is not a number: 'x'"),
        (cif("4 4 4 90 90 90", []).replace("_atom_site_label", "_atom_site_label\n_atom_site_type_symbol"), "no atoms"),
        (cif("4 4 4 90 90 0", [("Cs1", "Cs", "0 0 0")]), "spans no volume"),
        (cif("? 4 4 90 90 90", [("Cs1", "Cs", "0 0 0")]), "_cell_length_a is unknown or missing"),
        (rutile(columns="_atom_site_occupancy", Ti1="1", O1="0.5"), r"site 2 \(O1\) is disordered \(occupancy 0.5\)"),
        (
            rutile(columns="_atom_site_attached_hydrogens", Ti1="0", O1="1"),
            r"site 2 \(O1\) has 1 attached hydrogens without positions",
        ),
        (rutile(columns="_atom_site_disorder_group", Ti1="1", O1="2"), "alternatives of disorder .*1, 2"),
        (rutile(columns="_atom_site_disorder_group", Ti1=".", O1="-1"), "alternatives of disorder .*-1"),
        (rutile("_chemical_formula_sum 'Ti O2 H'"), "formula H1 O2 Ti1 has hydrogen, but no site holds it"),
        (
            cif("4 4 4 90 90 90", [("X1", "CO", "0 0 0")], "_chemical_formula_sum 'C O'"),
            r"site 1 \(X1\) is not an atom: its type symbol 'CO'",
        ),
        (
            rutile("_chemical_formula_sum 'Ti O'\n_cell_formula_units_Z 2"),
            "it has O1 Ti1 in the cell, but its formula O1 Ti1 times 2",
        ),
        (
            rutile("_chemical_formula_sum 'Ti2 O2'"),
            "it has O1 Ti1 in the cell, but its formula O2 Ti2 says otherwise",
        ),
        (
            rutile("_chemical_formula_sum 'Ti O'\n_cell_formula_units_Z 1", RUTILE_OPERATIONS),
            "O4 Ti2 in the cell, more than its formula O1 Ti1 times 1",
        ),
        (
            rutile(operations=RUTILE_OPERATIONS, columns="_atom_site_symmetry_multiplicity", Ti1="2", O1="8"),
            r"site 2 \(O1\) gives 4 atoms, but its multiplicity is 8",
        ),
    ],
)  # fmt: skip
def test_what_is_missing_or_contradicts_itself_is_refused(text: str, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        read(text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (rutile() + "_cell_length_a 5\n", "_cell_length_a appears twice, with different values"),
        (rutile() + "loop_\n_atom_site_label\nK1\n", "_atom_site_label appears twice"),
        (rutile() + "loop_\n_atom_site_occupancy\n1\n", "inconsistent: their columns"),
        (rutile(columns="_atom_site_calc_flag", Ti1="d", O1="dum"), r"site 2 \(O1\) is a dummy"),
        (rutile("_chemical_formula_sum 'K Br'"), "it has O1 Ti1 in the cell, but none of its formula K1 Br1"),
        (rutile("_chemical_formula_structural 'Ti (O H)2'"), "has hydrogen, but no site holds it"),
        (rutile("_chemical_formula_sum '(Ti'\n_chemical_formula_moiety 'Ti O2 H'"), "has hydrogen, but no site holds"),
    ],
)  # fmt: skip
def test_torn_files_are_refused(text: str, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        read(text)


def test_a_formula_that_cannot_be_read_is_a_doubt() -> None:
    assert read(rutile("_chemical_formula_sum '(Ti'")).doubt == "its formula '(Ti' cannot be read"


def test_a_tetrahedral_site_is_no_tritium_beside_hydrogen() -> None:
    sites = [("T1", None, "0 0 0"), ("O1", None, "0.3 0 0"), ("H1", None, "0.5 0.1 0")]
    with pytest.raises(DataError, match=r"site 1 \(T1\) is not an atom"):
        read(cif("5 5 5 90 90 90", sites, "_chemical_formula_sum 'Si O H'"))


@pytest.mark.parametrize("given", [("2", "4"), ("8", "4")])  # atoms of the site, or operations that keep it (SHELX)
def test_multiplicities_may_count_atoms_or_operations(given: tuple[str, str]) -> None:
    columns = "_atom_site_symmetry_multiplicity"
    assert atoms(read(rutile("", RUTILE_OPERATIONS, columns, Ti1=given[0], O1=given[1]))) == {"Ti": 2, "O": 4}


@pytest.mark.parametrize(
    "formula", ["'Ti O2'\n_cell_formula_units_Z 2", "'Ti2 O4'\n_cell_formula_units_Z 2", "'Ti2 O4'", "TiO2", "'TI O2'"]
)
def test_a_formula_may_be_of_a_unit_or_of_the_cell(formula: str) -> None:
    row = read(rutile(f"_chemical_formula_sum {formula}", RUTILE_OPERATIONS))
    assert atoms(row) == {"Ti": 2, "O": 4}
    assert row.doubt is None


def test_a_number_of_formula_units_may_be_that_of_a_primitive_cell() -> None:
    """Files of R-3c give it for either cell; any other number is refused (tests above)."""
    operations = [op.triplet() for op in gemmi.SpaceGroup("F m -3 m").operations()]
    items = "_chemical_formula_sum Ni\n_cell_formula_units_Z 1"
    row = read(cif("3.52 3.52 3.52 90 90 90", [("Ni", "Ni", "0 0 0")], items, operations))
    assert atoms(row) == {"Ni": 4}
    assert row.doubt == "its number of formula units (1) is that of a primitive cell, but it has Ni4 in this one"


def test_solvents_that_are_left_out_are_a_doubt_and_no_refusal() -> None:
    row = read(rutile("_chemical_formula_sum 'Ti O2 C2 N'", RUTILE_OPERATIONS))
    assert row.doubt == "O4 Ti2 in the cell is not its formula C2 N1 O2 Ti1"
    assert read(rutile("_chemical_formula_sum 'Ti F2'")).doubt == "O1 Ti1 in the cell is not its formula F2 Ti1"
    assert read(rutile("_chemical_formula_sum 'Ti O5'\n_cell_formula_units_Z 2", RUTILE_OPERATIONS)).doubt


# --- syntax -----------------------------------------------------------------------------------------------------------


def test_names_in_other_cases_and_of_newer_dictionaries_are_the_same() -> None:
    plain = read(rutile())
    text = rutile()
    for spelled in (
        text.replace("_cell_l", "_Cell_L").replace("_atom_site", "_ATOM_SITE").replace("loop_", "LOOP_"),
        text.replace("_cell_", "_cell.").replace("_atom_site_", "_atom_site."),
        text.replace("\n", "\r\n"),
        text.replace("\n", "\r"),
        text + "loop_\n_atom_site_aniso_label\n_atom_site_aniso_U_11\n",
        text.replace("data_test", "data_test\n_journal_note\n;\ndata_second is what it was called\n;"),
    ):
        row = read(spelled)
        assert row.numbers == plain.numbers
        assert row.frac.tolist() == plain.frac.tolist()
        assert row.cell.tolist() == plain.cell.tolist()


def test_numbers_have_uncertainties_and_fractions() -> None:
    row = read(cif("4.0(2) 4. 4.000 90 90 90", [("K", "K", "1/3 -.25 0.220(15)")]))
    assert row.frac[0] == pytest.approx([1 / 3, -0.25, 0.22])


def test_a_text_that_is_no_cif_names_the_line() -> None:
    with pytest.raises(DataError, match="not a valid CIF: line 3"):
        read_blocks("data_x\n_cell_length_a 4\n'unfinished\n")


def test_blocks_without_atoms_are_no_crystals() -> None:
    blocks = read_blocks("data_global\n_cell_length_a 4\n" + rutile())
    assert [block.name for block in blocks] == ["test"]
    assert isinstance(blocks[0], Block)


@pytest.mark.parametrize(
    ("text", "amounts"),
    [
        ("C2 H6 O", {6: 2, 1: 6, 8: 1}),
        ("C2H6O", {6: 2, 1: 6, 8: 1}),
        ("SI1 O2", {14: 1, 8: 2}),
        ("D2 O", {1: 2, 8: 1}),
        ("H1 D1 O", {1: 2, 8: 1}),
        ("Fe0.98 O1.", {26: 0.98, 8: 1}),
        ("(Na Cl)4", {11: 4, 17: 4}),
        ("Mg (O H)2", {12: 1, 8: 2, 1: 2}),
        ("(Na", {}),
        ("?", {}),
        (None, {}),
        ("Xx2", {}),
    ],
)
def test_formulas_as_files_write_them(text: str | None, amounts: dict[int, float]) -> None:
    assert parse_formula_sum(text) == amounts
