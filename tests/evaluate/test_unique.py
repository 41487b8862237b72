from __future__ import annotations

import pytest
import torch
from pymatgen.core import Lattice, Structure

from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.errors import DataError
from omatg_ray.evaluate.unique import SpaceGroup, find_unique, space_groups
from omatg_ray.reward import worker_functions
from tests.evaluate.comparisons import HANGS

nan = float("nan")


def face_centred(a: float, chlorine: float) -> Structure:
    """Sodium on a face-centred cubic lattice and chlorine on the same, displaced along the diagonal (fractional)."""
    corners = [[0.0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]]
    return Structure(
        Lattice.cubic(a), ["Na"] * 4 + ["Cl"] * 4, corners + [[x + chlorine for x in corner] for corner in corners]
    )


def rock_salt() -> Structure:
    return face_centred(5.69, 0.5)


def caesium_chloride(a: float = 3.4) -> Structure:
    return Structure(Lattice.cubic(a), ["Na", "Cl"], [[0.0, 0, 0], [0.5, 0.5, 0.5]])


def zinc_blende() -> Structure:
    return face_centred(6.1, 0.25)


def collapsed() -> Structure:
    return Structure(Lattice.cubic(0.1), ["Na", "Cl"], [[0.0, 0, 0], [0.5, 0.5, 0.5]])


@pytest.fixture
def crystals() -> CrystalBatch:
    moved = rock_salt().get_primitive_structure().translate_sites(range(2), [0.1, 0.2, 0.3])
    return CrystalBatch.from_structures(
        [rock_salt(), caesium_chloride(), moved, collapsed(), zinc_blende(), caesium_chloride(), collapsed()]
    )


@pytest.mark.parametrize("workers", [0, 2])
def test_clusters_keep_the_first_without_energies(crystals: CrystalBatch, workers: int) -> None:
    found = find_unique(crystals, workers=workers, timeout=60.0)
    assert found.representatives.tolist() == [0, 1, 3, 4, 6]
    assert found.cluster.tolist() == [0, 1, 0, 2, 3, 1, 4]
    assert (found.timed_out, found.failed) == (0, 0)


def test_clusters_keep_the_lowest_energy(crystals: CrystalBatch) -> None:
    found = find_unique(crystals, torch.tensor([-3.0, -2.0, -3.1, nan, -2.5, -2.1, nan]))
    assert found.representatives.tolist() == [2, 4, 5, 3, 6]
    assert found.cluster.tolist() == [0, 2, 0, 3, 1, 2, 4]


def test_compositions_are_kept_apart_and_supercells_are_not() -> None:
    lithium, sodium = (Structure(Lattice.cubic(3.5), [symbol], [[0, 0, 0]]) for symbol in ("Li", "Na"))
    batch = CrystalBatch.from_structures([lithium, sodium, lithium * [2, 1, 1], sodium])
    found = find_unique(batch)
    assert found.representatives.tolist() == [0, 1]
    assert found.cluster.tolist() == [0, 1, 0, 1]


def test_result_is_that_of_one_after_another(monkeypatch: pytest.MonkeyPatch) -> None:
    # "Same" is not transitive: 0 ~ 2 and 2 ~ 4, but not 0 ~ 4. Neighbours closer than 3 Å in cell length are the same.
    monkeypatch.setattr(worker_functions, "is_same", lambda a, b, *_: abs(a.cell[0, 0] - b.cell[0, 0]) < 3)
    lengths = torch.tensor([4.0, 6.0, 8.0, 10.0, 5.0])
    cells = lengths[:, None, None] * torch.eye(3)
    batch = CrystalBatch(torch.full((5,), 3), torch.zeros(5, 3), cells, torch.ones(5))
    assert find_unique(batch).cluster.tolist() == [0, 0, 1, 1, 0]
    assert find_unique(batch, torch.tensor([3.0, 1.0, 0.0, 2.0, 4.0])).cluster.tolist() == [1, 0, 0, 0, 1]


@pytest.mark.processes
def test_comparison_over_the_time_bound_counts_as_different(monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.evaluate import comparisons

    monkeypatch.setattr(worker_functions, "is_same", comparisons.misbehave)
    batch = CrystalBatch(
        torch.tensor([3, 3, HANGS, HANGS]), torch.zeros(4, 3), 3.0 * torch.eye(3).repeat(4, 1, 1), torch.ones(4)
    )
    found = find_unique(batch, workers=2, timeout=1.0)
    assert found.cluster.tolist() == [0, 0, 1, 2]
    assert found.timed_out == 1


def test_nothing_and_wrong_energies() -> None:
    assert find_unique(CrystalBatch.from_structures([])).cluster.tolist() == []
    with pytest.raises(DataError, match="energies"):
        find_unique(CrystalBatch.from_structures([rock_salt()]), torch.zeros(2))


@pytest.mark.parametrize("workers", [0, 2])
def test_space_groups_of_known_crystals(crystals: CrystalBatch, workers: int) -> None:
    groups = space_groups(crystals, workers=workers, timeout=60.0)
    salt, cubic, blende = SpaceGroup("Fm-3m", 225), SpaceGroup("Pm-3m", 221), SpaceGroup("F-43m", 216)
    assert groups == [salt, cubic, salt, None, blende, cubic, None]


def test_space_group_depends_on_symprec() -> None:
    structure = caesium_chloride()
    structure.translate_sites([1], [0.03 / 3.4, 0, 0])
    batch = CrystalBatch.from_structures([structure])
    assert space_groups(batch, 0.1) == [SpaceGroup("Pm-3m", 221)]
    assert space_groups(batch, 0.01) == [SpaceGroup("P4mm", 99)]


def test_space_group_is_none_where_spglib_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise ValueError("spglib found no symmetry")

    monkeypatch.setattr(worker_functions, "space_group", fails)
    assert space_groups(CrystalBatch.from_structures([rock_salt()])) == [None]
