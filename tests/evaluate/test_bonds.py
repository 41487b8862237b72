from __future__ import annotations

import pytest
import torch
from ase.data import covalent_radii
from pymatgen.core import Lattice, Structure

from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.evaluate.bonds import BONDED, closest_bonds, moved_bonds
from tests.small import random_crystals, rock_salt

ROCK_SALT = rock_salt(5.64)


def test_rock_salt() -> None:
    """Neighbours are half a lattice constant apart; the radii of Na and Cl are 1.66 and 1.02 Å (Cordero et al.)."""
    for bonds in closest_bonds(CrystalBatch.from_structures([ROCK_SALT, ROCK_SALT.get_primitive_structure()])):
        ((pair, distance, ratio),) = bonds
        assert (pair, distance) == ("Na-Cl", pytest.approx(2.82, abs=1e-5))
        assert ratio == pytest.approx(2.82 / (1.66 + 1.02), abs=1e-5)
        assert str(bonds[0]) == "Na-Cl 2.82 A (1.05 x radii)"


def test_every_bonded_pair_against_a_search_over_images() -> None:
    crystals = random_crystals([1, 3, 6, 6], seed=3)
    images = torch.cartesian_prod(*[torch.arange(-4, 5)] * 3).double()
    for b, found in enumerate(closest_bonds(crystals)):
        one = crystals.select([b])
        closest: dict[frozenset[int], tuple[float, float]] = {}
        for i, first in enumerate(one.species.tolist()):
            for j, second in enumerate(one.species.tolist()):
                lengths = ((one.pos[j] - one.pos[i] + images) @ one.cell[0]).norm(dim=1)
                distance = float(lengths[lengths > 1e-9].min())
                ratio = distance / (covalent_radii[first] + covalent_radii[second])
                if ratio <= BONDED:
                    pair = frozenset((first, second))
                    closest[pair] = min((distance, ratio), closest.get(pair, (9e9, 0)))
        expected = sorted(closest.values(), key=lambda values: values[1])
        assert [(bond.distance, bond.ratio) for bond in found] == [pytest.approx(values) for values in expected]


def test_atoms_that_are_far_from_each_other_have_no_bonds() -> None:
    crystal = Structure(Lattice.cubic(20.0), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    assert closest_bonds(CrystalBatch.from_structures([crystal])) == [[]]


def test_bonds_that_a_relaxation_changes_by_more_than_15_percent_are_named() -> None:
    """The radii of Na and Cl add up to 2.68 Å: bonded up to 3.22 Å, followed up to 4.02 Å."""

    def salts(*bonds: float) -> CrystalBatch:
        return CrystalBatch.from_structures([rock_salt(2 * bond) for bond in bonds])

    before, after = (2.4, 2.4, 3.9, 2.5, 8.0), (2.7, 2.9, 2.6, 4.5, 9.5)
    named = [[text for text in found if "Na-Cl" in text] for found in moved_bonds(salts(*before), salts(*after))]
    assert named == [[], ["Na-Cl 2.40 -> 2.90 A"], ["Na-Cl 3.90 -> 2.60 A"], ["Na-Cl 2.50 -> over 4.02 A"], []]
    assert moved_bonds(salts(2.5), salts(2.4)) == [[]]
