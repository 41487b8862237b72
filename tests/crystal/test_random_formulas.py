"""Random formulas are neutral or metallic, different, and the same for the same seed."""

from __future__ import annotations

import math

import pytest
from pymatgen.core import Composition

from omatg_ray.crystal.random_formulas import is_metallic, is_neutral, random_formulas

IONIC = ["Li", "Na", "Mg", "Ti", "Fe", "O", "S", "Cl"]


@pytest.mark.parametrize(
    "formula, neutral",
    [("NaCl", True), ("TiO2", True), ("Fe3O4", False), ("Fe2O3", True), ("NaCl2", False), ("MgAl2O4", True)],
)
def test_charges_are_balanced_with_common_oxidation_states(formula: str, neutral: bool) -> None:
    """One state for each element: Fe3O4 has two of them."""
    counts = Composition(formula).get_el_amt_dict()
    assert is_neutral(list(counts), [int(n) for n in counts.values()]) == neutral


def test_drawn_formulas_are_what_was_asked_for() -> None:
    drawn = random_formulas(IONIC, [2, 3], 12, 60, seed=1)
    assert len(drawn) == 60 and drawn == random_formulas(IONIC, [2, 3], 12, 60, seed=1)
    assert drawn != random_formulas(IONIC, [2, 3], 12, 60, seed=2)
    assert len({frozenset(formula.items()) for formula in drawn}) == 60
    assert {len(formula) for formula in drawn} == {2, 3}
    for formula in drawn:
        assert sum(formula.values()) <= 12 and math.gcd(*formula.values()) == 1 and set(formula) <= set(IONIC)
        # By pymatgen's own search, or metals alone.
        guesses = Composition(formula).oxi_state_guesses(max_sites=-1)
        assert guesses or is_metallic(list(formula))
    assert any(is_metallic(list(formula)) for formula in drawn) and any("O" in formula for formula in drawn)


def test_there_may_be_fewer_than_asked_for() -> None:
    assert random_formulas(["Na", "Cl"], [2], 4, 5, seed=0) == [{"Na": 1, "Cl": 1}]
    assert random_formulas(["Na"], [2], 4, 5, seed=0) == []
