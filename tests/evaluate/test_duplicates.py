from __future__ import annotations

from pymatgen.core import Lattice, Structure

from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.evaluate.duplicates import find_duplicates
from tests.evaluate.test_unique import caesium_chloride, collapsed, rock_salt, zinc_blende

PRIMITIVE = rock_salt().get_primitive_structure()
LITHIUM = Structure(Lattice.cubic(3.5), ["Li", "Li"], [[0, 0, 0], [0.5, 0.5, 0.5]])


def test_equal_crystals_point_to_the_first_one() -> None:
    structures = [rock_salt(), LITHIUM, caesium_chloride(), PRIMITIVE, zinc_blende(), LITHIUM, collapsed(), collapsed()]
    found = find_duplicates(CrystalBatch.from_structures(structures))
    assert found.of == {3: 0, 5: 1}
    assert (found.compared, found.left_out, found.failed) == (8, 0, 0)


def test_compositions_beyond_the_bound_are_left_out_and_counted() -> None:
    """Two of lithium are one comparison, three of rock salt three more, and one alone none."""
    alone = Structure(Lattice.cubic(4), ["Ar"], [[0, 0, 0]])
    crystals = CrystalBatch.from_structures([rock_salt(), LITHIUM, PRIMITIVE, LITHIUM, zinc_blende(), alone])
    for most, expected, left_out in ((4, {2: 0, 3: 1}, 0), (3, {3: 1}, 3), (0, {}, 5)):
        found = find_duplicates(crystals, most)
        assert (found.of, found.left_out, found.compared) == (expected, left_out, 6 - left_out)
