"""Formulas as users write them, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from omatg_ray.crystal.formula import MAX_ATOMS_PER_CELL, cell_species, parse_formula, parse_z, read_formulas
from omatg_ray.errors import DataError, FormulaError


@pytest.mark.parametrize(
    ("text", "counts"),
    [
        ("BaTiO3", {"Ba": 1, "Ti": 1, "O": 3}),
        (" TiO2\n", {"Ti": 1, "O": 2}),
        ("O2Ti", {"O": 2, "Ti": 1}),
        ("Ca3(PO4)2", {"Ca": 3, "P": 2, "O": 8}),
        ("K[Ag(CN)2]10", {"K": 1, "Ag": 10, "C": 20, "N": 20}),
        ("CH3COOH", {"C": 2, "H": 4, "O": 2}),
        ("Ba2(Ti(O2)3)2", {"Ba": 2, "Ti": 2, "O": 12}),
        ("((Ba))Ti", {"Ba": 1, "Ti": 1}),
        ("Co", {"Co": 1}),
        ("CO", {"C": 1, "O": 1}),
        ("Fe16", {"Fe": 16}),
    ],
)
def test_formulas_are_counted_in_their_order(text: str, counts: dict[str, int]) -> None:
    assert list(parse_formula(text).items()) == list(counts.items())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "  ",
        "Xx",
        "Tio2",
        "batio3",
        "D2O",
        "TO2",
        "TiO2.5",
        "Ti.5O2",
        "Ti-1O2",
        "Ti0O2",
        "C0",
        "TiO02",
        "2TiO2",
        "Ba(TiO3",
        "BaTiO3)",
        "(Ba]",
        "()",
        "Ti()2",
        "Ti4+O2",
        "TiO₂",
        "Ba Ti O3",
        "CaSO4.H2O",
        "Ti1e3",
        "TiO2,NaCl",
        "12",
        "Ba)TiO3(",
        "C(Ba)o",
        "(Ba)02",
        "(((Ba))",
        "Ba\nTiO3",
    ],
)
def test_nonsense_is_refused_with_the_text_and_an_example(text: str) -> None:
    with pytest.raises(FormulaError) as caught:
        parse_formula(text)
    assert repr(text) in str(caught.value)
    assert "BaTiO3" in str(caught.value)


def test_cell_species_groups_elements_in_the_formulas_order() -> None:
    assert cell_species("TiO2", 2) == [22, 22, 8, 8, 8, 8]
    assert cell_species("ONaO") == [8, 8, 11]


@pytest.mark.parametrize(("text", "z"), [("TiO2", 0), ("TiO2", -1), ("TiO2", MAX_ATOMS_PER_CELL), ("C999999999", 1)])
def test_impossible_cells_are_refused(text: str, z: int) -> None:
    with pytest.raises(FormulaError, match=text):
        cell_species(text, z)


@pytest.mark.parametrize(
    ("text", "numbers"),
    [("2,4", [2, 4]), ("1-4", [1, 2, 3, 4]), (" 4 , 1 - 2 ", [1, 2, 4]), ("3,3,2-3", [2, 3]), ("1", [1])],
)
def test_formula_units(text: str, numbers: list[int]) -> None:
    assert parse_z(text) == numbers


@pytest.mark.parametrize(
    "text", ["", ",", "2,", "0", "0-2", "4-1", "-1", "1-", "1-2-3", "a", "1.5", "1;2", "1001", "٣"]
)
def test_nonsense_formula_units_are_refused(text: str) -> None:
    with pytest.raises(FormulaError, match="formula units"):
        parse_z(text)


def test_formulas_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "formulas.txt"
    path.write_text("# targets\nBaTiO3\n\n  TiO2  # rutile\n")
    assert read_formulas(path) == ["BaTiO3", "TiO2"]


def test_bad_formula_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "formulas.txt"
    with pytest.raises(DataError, match=r"formulas\.txt cannot be read"):
        read_formulas(path)
    path.write_text("# nothing\n")
    with pytest.raises(DataError, match=r"formulas\.txt holds no formulas"):
        read_formulas(path)
    path.write_text("BaTiO3\n\nXy2\n")
    with pytest.raises(FormulaError, match=r"formulas\.txt, line 3: .*'Xy'"):
        read_formulas(path)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_formulas_may_follow_a_byte_order_mark(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "formulas.txt"
    path.write_text("BaTiO3\nTiO2\n", encoding=encoding)
    assert read_formulas(path) == ["BaTiO3", "TiO2"]
