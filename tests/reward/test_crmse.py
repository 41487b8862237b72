from __future__ import annotations

import pickle
import time

import pytest
import torch

from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.errors import RewardError
from omatg_ray.reward.crmse import PolymorphMatch
from omatg_ray.reward.matching import MatchSettings
from omatg_ray.run.bounded import BoundedPool

FCC = torch.tensor([[0.0, 0.5, 0.5], [0.5, 0.0, 0.5], [0.5, 0.5, 0.0]]).double()


def salt(
    pos: tuple[float, float, float] = (0.5, 0.5, 0.5), cell: torch.Tensor = 5.64 * FCC, z: int = 17
) -> CrystalBatch:
    return CrystalBatch(
        torch.tensor([11, z]), torch.tensor([[0.0, 0.0, 0.0], pos], dtype=torch.float64), cell[None], torch.tensor([2])
    )


ROCKSALT, CSCL = salt(), salt(cell=3.5 * torch.eye(3).double())


def test_the_closest_polymorph_counts() -> None:
    reward = PolymorphMatch(CrystalBatch.cat([ROCKSALT, CSCL]))
    away = 0.03
    moved = salt((0.5 + away, 0.5, 0.5))
    result = reward(CrystalBatch.cat([ROCKSALT, CSCL, moved, salt((0.01, 0.0, 0.0))]))
    # Both atoms end up half the displacement away once the crystals are laid over each other.
    apart = 0.5 * away * 5.64 / 2**0.5 / (5.64**3 / 8) ** (1 / 3)
    torch.testing.assert_close(result.reward, torch.tensor([0.5, 0.5, 0.5 - apart, 0.0]).double(), atol=1e-6, rtol=0)
    assert result.values["rmse"].isnan().tolist() == [False, False, False, True]


def test_cells_of_another_size_have_the_same_reduced_composition() -> None:
    double = ROCKSALT.tile(2)
    cell = torch.diag(torch.tensor([1.0, 1.0, 2.0]).double()) @ ROCKSALT.cell[0]
    halved = double.pos * torch.tensor([1.0, 1.0, 0.5])
    halved[2:, 2] += 0.5
    supercell = CrystalBatch(double.species, halved, cell[None], torch.tensor([4]))
    assert float(PolymorphMatch(ROCKSALT)(supercell).reward[0]) == pytest.approx(0.5, abs=1e-6)


def test_tolerances_are_those_given() -> None:
    moved = salt((0.58, 0.5, 0.5))
    rewards = [float(PolymorphMatch(ROCKSALT, MatchSettings(stol=stol))(moved).reward[0]) for stol in (0.05, 0.3)]
    assert rewards[0] == 0.0 and 0.05 < rewards[1] < 0.3


def test_an_unknown_composition_is_named() -> None:
    reward = PolymorphMatch(ROCKSALT)
    with pytest.raises(RewardError, match=r"crmse: no reference has the composition NaBr"):
        reward(CrystalBatch.cat([ROCKSALT, salt(z=35)]))


def test_a_composition_with_invalid_references_only_is_known_and_never_matched() -> None:
    assert PolymorphMatch(salt((0.0, 0.0, 0.0)))(ROCKSALT).reward.tolist() == [0.0]


def slow_for_large(first: object, *_: object) -> float:
    if float(first.cell[0, 1]) > 2.9:  # type: ignore[attr-defined]
        time.sleep(60)
    return 0.1


@pytest.mark.processes
def test_a_time_out_fails_its_crystal_only() -> None:
    reward = PolymorphMatch(ROCKSALT)
    reward._pool = BoundedPool(slow_for_large, 1, 0.3)
    try:
        found = reward(CrystalBatch.cat([salt(cell=6.0 * FCC), ROCKSALT])).reward
        torch.testing.assert_close(found, torch.tensor([torch.nan, 0.4]).double(), equal_nan=True)
    finally:
        reward.close()


def broken_for_large(first: object, *_: object) -> float:
    if float(first.cell[0, 1]) > 2.9:  # type: ignore[attr-defined]
        raise ArithmeticError("no such lattice")
    return 0.1


@pytest.mark.parametrize("workers", [0, 1])
def test_a_comparison_that_raises_fails_its_crystal_only(workers: int) -> None:
    reward = PolymorphMatch(ROCKSALT)
    reward._pool = BoundedPool(broken_for_large, workers)
    try:
        found = reward(CrystalBatch.cat([salt(cell=6.0 * FCC), ROCKSALT])).reward
        torch.testing.assert_close(found, torch.tensor([torch.nan, 0.4]).double(), equal_nan=True)
    finally:
        reward.close()


@pytest.mark.processes
def test_it_travels_without_its_workers() -> None:
    reward = PolymorphMatch(ROCKSALT, workers=1)
    try:
        assert reward(ROCKSALT).reward.tolist() == pytest.approx([0.5])
        copy = pickle.loads(pickle.dumps(reward))
        assert copy._pool._idle == [] and copy._pool.workers == 1
    finally:
        reward.close()
