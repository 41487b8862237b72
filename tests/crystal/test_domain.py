from __future__ import annotations

import json
from itertools import combinations

import pytest
from pymatgen.core import Element

from omatg_ray.crystal.domain import Domain, Reason, Trained, judge, report_outside, share_inside
from tests.small import random_crystals

LI, OX, NA, P, CL, FE, CO = 3, 8, 11, 15, 17, 26, 27
CELLS = [
    *[[LI, OX]] * 120,
    *[[NA, CL]] * 60,
    *[[LI, FE, OX, OX]] * 119,
    [LI, FE, P, P],
]


def test_it_counts_what_occurs() -> None:
    crystals = random_crystals([1, 2, 2, 5, 7, 7, 7])
    cells = crystals.atomic_numbers
    domain = Domain.of(crystals)
    together = {frozenset(Element.from_Z(z).symbol for z in pair) for cell in cells for pair in combinations(cell, 2)}
    assert domain.pairs == {pair for pair in together if len(pair) == 2}
    assert set(domain.partners) == {Element.from_Z(z).symbol for z in crystals.species.tolist()}
    assert domain.sizes == {1: 1, 2: 2, 5: 1, 7: 3}
    assert domain.elements == {n: sum(len(set(c)) == n for c in cells) for n in sorted({len(set(c)) for c in cells})}
    assert domain.crystals == 7
    assert not any(domain.outside(cell) for cell in cells)  # one in seven is not seldom


def test_it_survives_its_file() -> None:
    domain = Domain.of(CELLS)
    text = domain.model_dump_json(indent=1)
    assert Domain.model_validate_json(text) == domain
    assert json.loads(text)["partners"]["Li"] == "O P Fe"


@pytest.mark.parametrize(
    ("cell", "reasons"),
    [
        ([LI, OX], []),
        ([OX, FE, LI, OX], []),
        ([LI, OX, OX], [("3 atoms", 0)]),
        ([NA, OX], [("Na-O", 0)]),
        ([LI, CO], [("Co", 0)]),  # pairs with an unknown element go without saying
        ([LI, FE, P, P, OX, OX], [("P-O", 0), ("4 elements", 0), ("6 atoms", 0)]),
    ],
)
def test_cells_are_outside_for_what_is_new_in_them(cell: list[int], reasons: list[tuple[str, int]]) -> None:
    assert Domain.of(CELLS).outside(cell) == [Reason(*reason) for reason in reasons]


def test_few_are_fewer_than_one_in_a_hundred() -> None:
    for few, reasons in ((1, [Reason("2 elements", 1), Reason("2 atoms", 1)]), (2, [])):
        cells = [[NA]] * (200 - few) + [[NA, CL]] * few
        assert Domain.of(cells).outside([NA, CL]) == reasons
    assert Domain.of(cells).outside_by_size(2) == []
    assert Domain.of(cells).outside_by_size(3) == [Reason("3 atoms", 0)]


def test_sizes_do_not_matter_to_a_potential() -> None:
    domain = Domain.of(CELLS, sized=False)
    assert domain.outside([LI, OX] * 40) == domain.outside_by_size(80) == []


def test_judgement_joins_what_is_known() -> None:
    model, potential = Domain.of(CELLS), Domain.of([[NA, OX], [LI, OX]], sized=False)
    both = [Trained("model a", model), Trained("potential b", potential), Trained("potential c", None)]
    assert judge(both, [LI, OX]) == "yes"
    assert judge(both, [NA, OX, OX]) == "no (Na-O, 3 atoms)"
    assert judge(both, [NA, CL]) == "no (Cl)"
    assert judge(both[2:], [NA, CL]) == judge([], [NA] * 3) == "unknown"


def test_nothing_is_inside_that_a_model_does_not_vouch_for() -> None:
    silent, potential = Trained("model a", None, is_model=True), Trained("potential b", Domain.of(CELLS, sized=False))
    assert judge([potential], [LI, OX]) == "yes"
    assert judge([silent, potential], [LI, OX]) == "unknown"
    assert judge([silent, potential], [NA, OX]) == "no (Na-O)"  # whatever the model knows
    assert share_inside(["yes", "no (Na-O)", "yes", "no (Cl)"]) == 0.5
    assert share_inside(["yes", "unknown"]) is share_inside([]) is None


def test_of_open_species_only_the_number_of_atoms_counts() -> None:
    model = Trained("model a", Domain.of(CELLS), is_model=True, open_species=True)
    potential = Trained("potential b", Domain.of(CELLS, sized=False), open_species=True)
    assert judge([model, potential], [CO, P]) == "yes"
    assert judge([model, potential], [CO] * 5) == "no (5 atoms)"
    assert judge([model._replace(domain=None), potential], [CO] * 900) == "unknown"


def test_a_report_names_each_reason_once() -> None:
    trained = [Trained("model a", Domain.of(CELLS), is_model=True), Trained("potential b", None)]
    assert report_outside(trained, [[LI, OX]] * 3, "cells") == ""
    assert report_outside(trained, [[NA, OX]], "cells") == "model a: of its 300 training crystals none has Na-O"
    text = report_outside(trained, [[NA, OX], [NA, OX, OX], [LI, OX], [LI, FE, P, P]], "cells")
    assert text == "model a, 2 of 4 cells: of its 300 training crystals none has Na-O or 3 atoms"
    few = Domain.of([[NA]] * 300 + [[NA, CL]])
    few_atoms = Trained("m", few, is_model=True, open_species=True)
    assert report_outside([few_atoms], [[NA, NA]], "cells") == "m: of its 301 training crystals 1 has 2 atoms"
    of_potential = report_outside([Trained("p", few)], [[NA, OX]], "cells")
    assert of_potential.startswith("p: of the 301 crystals in its domain none has O")
    open_species = [one._replace(open_species=True) for one in trained]
    many = report_outside(open_species, [[NA] * size for size in range(11, 20)], "cells")
    assert many.endswith("none has 11 atoms or 12 atoms or 13 atoms or 14 atoms or 15 atoms or 16 atoms, and 3 more")
