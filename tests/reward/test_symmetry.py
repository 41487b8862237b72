from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch

from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.reward.protocol import Once
from omatg_ray.reward.symmetry import NonCentrosymmetric, NonTriclinic
from omatg_ray.run.bounded import BoundedPool


def crystal(species: list[int], pos: list[list[float]], cell: torch.Tensor) -> CrystalBatch:
    return CrystalBatch(
        torch.tensor(species), torch.tensor(pos).double(), cell.double()[None], torch.tensor([len(species)])
    )


FCC = torch.tensor([[0.0, 0.5, 0.5], [0.5, 0.0, 0.5], [0.5, 0.5, 0.0]])
SKEWED = torch.tensor([[4.0, 0.0, 0.0], [0.7, 4.4, 0.0], [0.3, 0.9, 5.1]])
# Space groups of textbooks: rocksalt 225, zinc blende 216, P-1 and P1 in a skewed cell.
CASES = CrystalBatch.cat(
    [
        crystal([11, 17], [[0.0, 0.0, 0.0], [0.5, 0.5, 0.5]], 5.64 * FCC),
        crystal([30, 16], [[0.0, 0.0, 0.0], [0.25, 0.25, 0.25]], 5.41 * FCC),
        crystal([6, 6], [[0.1, 0.2, 0.3], [0.9, 0.8, 0.7]], SKEWED),
        crystal([6, 8, 7], [[0.0, 0.0, 0.0], [0.31, 0.42, 0.17], [0.6, 0.1, 0.55]], SKEWED),
        crystal([6, 6], [[0.1, 0.2, 0.3], [0.1, 0.2, 0.3]], SKEWED),
    ]
)


def test_known_space_groups() -> None:
    once = Once(NonTriclinic(0.01))
    found = once(CASES)
    assert found.values["space_group"][:4].tolist() == [225, 216, 2, 1]
    assert found.values["inversion"][:4].tolist() == [1, 0, 1, 0]
    assert found.values["space_group"][4].isnan()
    assert found.reward.tolist() == [1, 1, 0, 0, 0]
    assert NonCentrosymmetric(once)(CASES).reward.tolist() == [0, 1, 0, 0, 0]


def test_symprec_decides_how_exact_a_symmetry_must_be() -> None:
    almost = CASES.select([0])
    almost = almost.replace(pos=almost.pos + torch.tensor([[0.0, 0.0, 0.0], [0.01, 0.004, 0.007]]))
    assert [float(NonTriclinic(symprec)(almost).reward[0]) for symprec in (0.2, 0.001)] == [1.0, 0.0]


def forever(*_: object) -> None:
    time.sleep(60)


@pytest.mark.processes
def test_a_time_out_is_a_failed_reward() -> None:
    reward = NonTriclinic()
    reward._pool = BoundedPool(forever, 1, 0.2)
    try:
        assert reward(CASES.select([0, 4])).reward.isnan().tolist() == [True, False]
        assert NonCentrosymmetric(reward)(CASES.select([0])).reward.isnan().all()
    finally:
        reward.close()


def broken(how: str) -> Callable[..., Any]:
    return {"raise": raising, "die": dying}[how]


def raising(*_: object) -> None:
    raise ArithmeticError("no such lattice")


def dying(*_: object) -> None:
    os._exit(3)


@pytest.mark.processes
@pytest.mark.parametrize("how", ["raise", "die"])
def test_an_exception_or_a_death_is_a_failed_reward_and_no_p1(how: str) -> None:
    reward = NonTriclinic()
    reward._pool = BoundedPool(broken(how), 1, 5.0)
    try:
        result = reward(CASES.select([0, 4]))
        assert result.reward.isnan().tolist() == [True, False]
        assert result.values["space_group"].isnan().all()
    finally:
        reward.close()


def nothing(*_: object) -> None:
    return None


def test_no_space_group_at_all_is_p1() -> None:
    reward = NonTriclinic()
    reward._pool = BoundedPool(nothing)
    result = reward(CASES.select([0]))
    assert (result.reward.tolist(), result.values["space_group"].tolist()) == ([0.0], [1.0])


@pytest.mark.processes
def test_workers_end_with_the_reward() -> None:
    reward = NonTriclinic(0.01, workers=1)
    assert reward(CASES.select([0])).reward.tolist() == [1.0]
    process = reward._pool._idle[0]._process
    reward.close()
    assert process.poll() is not None
