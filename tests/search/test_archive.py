from __future__ import annotations

import pytest
import torch
from pymatgen.core import Lattice, Structure

from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.search.archive import SAME_ENERGY, Archive
from tests.small import rock_salt


def batch(*structures: Structure) -> CrystalBatch:
    return CrystalBatch.from_structures(structures, torch.float64)


def caesium_chloride(length: float = 3.5) -> Structure:
    return Structure(Lattice.cubic(length), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])


def primitive(length: float = 5.69) -> Structure:
    return rock_salt(length).get_primitive_structure()


def add(archive: Archive, structure: Structure, energy: float, sample: int, converged: bool = True) -> None:
    archive.add(batch(structure), torch.tensor([energy]), torch.tensor([converged]), [sample])


def test_equal_crystals_are_counted_and_the_lowest_kept() -> None:
    archive = Archive()
    moved = primitive(5.70)
    moved.translate_sites([0, 1], [0.3, 0.1, 0.2])
    add(archive, primitive(), -3.0, 1, converged=False)
    add(archive, caesium_chloride(), -2.9, 2)
    add(archive, moved, -3.001, 3)
    add(archive, primitive(), -2.997, 4)
    found = archive.all
    assert len(archive) == len(found.energy) == 2
    by_energy = found.energy.argsort()
    assert found.energy[by_energy].tolist() == pytest.approx([-3.001, -2.9])
    assert found.count[by_energy].tolist() == [3, 1]
    assert found.first[by_energy].tolist() == [1, 2]
    assert found.converged[by_energy].tolist() == [True, True]
    kept = found.crystals.select([int(by_energy[0])])
    torch.testing.assert_close(kept.pos, batch(moved).pos)


def test_other_energies_and_other_cells_are_other_crystals() -> None:
    archive = Archive()
    add(archive, primitive(), -3.0, 1)
    add(archive, primitive(), -3.0 + 1.5 * SAME_ENERGY, 2)  # equal but in scale: under strain
    add(archive, rock_salt(), -3.0, 3)
    assert len(archive) == 3
    with pytest.raises(ValueError, match="nothing"):
        _ = Archive().all


def test_what_is_kept_is_restored() -> None:
    archive, other = Archive(), Archive()
    for sample, structure in enumerate([primitive(), caesium_chloride(), rock_salt(), primitive()]):
        add(archive, structure, -3.0 + 0.001 * sample, sample)
    other.load_state_dict(archive.state_dict())
    for one in (archive, other):
        add(one, caesium_chloride(3.52), -3.002, 9)
    first, second = archive.state_dict(), other.state_dict()
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert sorted(second["count"].tolist()) == [1, 2, 2]
    other.load_state_dict(Archive().state_dict())
    assert len(other) == 0
