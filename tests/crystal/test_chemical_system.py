from __future__ import annotations

import math

import pytest
from pymatgen.core import Composition

from omatg_ray.crystal.chemical_system import ATOMS, system_formulas
from omatg_ray.crystal.formula import parse_formula
from omatg_ray.errors import FormulaError


def test_stoichiometries_are_those_of_the_elements_in_their_order() -> None:
    assert system_formulas("Li-Fe-P-O", ["1:1:1:4", "2:1:2:7"]) == ["LiFePO4", "Li2FeP2O7"]
    assert system_formulas("Si", ["8"]) == ["Si8"]


def test_without_them_all_neutral_formulas_come_small_ones_first() -> None:
    found = system_formulas("Li-P-S")
    assert {"Li3PS4", "LiPS3"} <= set(found) and "LiPS4" not in found
    sizes = [sum(parse_formula(formula).values()) for formula in found]
    assert sizes == sorted(sizes) and sizes[-1] <= ATOMS
    for formula in found:
        counts = parse_formula(formula)
        assert list(counts) == ["Li", "P", "S"] and math.gcd(*counts.values()) == 1
        assert Composition(formula).oxi_state_guesses(all_oxi_states=True), formula
    assert "Ca3Ti2O7" in system_formulas("Ca-Ti-O") and "K2Cr2O7" in system_formulas("K-Cr-O")
    assert "CuZn" in system_formulas("Cu-Zn"), "of metals all"
    assert system_formulas("Si") == ["Si"]


@pytest.mark.parametrize(
    "system, stoichiometries, said",
    [
        ("Li-Qq", [], "'Qq', which is not an element"),
        ("Li-Li", [], "name each element once"),
        ("Li--O", [], "empty"),
        ("LiO", [], "name each element once"),
        ("Li-O", ["1:1:1"], "'1:1:1' does not fit Li-O; give 2 numbers, like 1:1"),
        ("Li-O", ["1:0"], "'1:0' does not fit"),
        ("He-Ne", [], "no formula of He-Ne with up to 12 atoms.*like 1:1"),
    ],
)
def test_what_cannot_be_read_is_refused(system: str, stoichiometries: list[str], said: str) -> None:
    with pytest.raises(FormulaError, match=said):
        system_formulas(system, stoichiometries)
