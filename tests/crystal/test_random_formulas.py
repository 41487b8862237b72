"""Random formulas are neutral or metallic, different, and the same for the same seed."""

from __future__ import annotations

import math
from itertools import combinations, product

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
        # By pymatgen's own search, among all states that an element was ever seen in, or metals alone.
        guesses = Composition(formula).oxi_state_guesses(all_oxi_states=True, max_sites=-1)
        assert guesses or is_metallic(list(formula))
    assert any(is_metallic(list(formula)) for formula in drawn) and any("O" in formula for formula in drawn)


def test_there_may_be_fewer_than_asked_for() -> None:
    assert random_formulas(["Na", "Cl"], [2], 4, 5, seed=0) == [{"Na": 1, "Cl": 1}]
    assert random_formulas(["Na"], [2], 4, 5, seed=0) == []
    assert random_formulas(["Li"], [1], 6, 5, seed=0) == [{"Li": 1}]


def test_numbers_of_elements_and_chemical_systems_take_turns() -> None:
    drawn = random_formulas(IONIC, [3, 2], 20, 40, seed=1)
    assert [len(formula) for formula in drawn] == [3, 2] * 20
    systems = [frozenset(formula) for formula in drawn if len(formula) == 3]
    assert len(set(systems)) == 20
    everything = random_formulas(IONIC, [2], 8, 10_000, seed=1)
    pairs = combinations(IONIC, 2)
    allowed = [
        {a: n, b: m}
        for a, b in pairs
        for n, m in product(range(1, 7), repeat=2)
        if n + m <= 8 and math.gcd(n, m) == 1 and (is_metallic([a, b]) or is_neutral([a, b], [n, m]))
    ]
    assert sorted(map(str, map(sorted, (f.items() for f in everything)))) == sorted(
        map(str, map(sorted, (f.items() for f in allowed)))
    )
