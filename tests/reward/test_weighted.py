from __future__ import annotations

import pickle

import pytest
import torch

from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.errors import RewardError
from omatg_ray.reward.protocol import Once, RewardResult
from omatg_ray.reward.weighted import Weighted
from tests.small import random_crystals

NAN = torch.nan


class Given:
    """Rewards that were made up; counts how often it is asked."""

    def __init__(
        self, reward: list[float], values: dict[str, list[float]] | None = None, elements: frozenset[int] | None = None
    ) -> None:
        self.name, self.elements = "given", elements
        self.reward, self.values, self.asked, self.device, self.closed = reward, values or {}, 0, "", False

    def __call__(self, crystals: CrystalBatch) -> RewardResult:
        self.asked += 1
        values = {name: torch.tensor(value).double() for name, value in self.values.items()}
        return RewardResult(torch.tensor(self.reward, dtype=torch.float64), values)

    def to(self, device: str) -> None:
        self.device = device

    def close(self) -> None:
        self.closed = True


TWO = random_crystals([2, 3])


def test_a_failed_part_fails_the_structure_unless_it_is_only_monitored() -> None:
    parts = {"a": (0.5, Given([1.0, NAN])), "b": (0.0, Given([NAN, NAN])), "c": (-2.0, Given([3.0, 4.0]))}
    result = Weighted(parts)(TWO)
    torch.testing.assert_close(result.reward, torch.tensor([-5.5, NAN]).double(), equal_nan=True)
    assert result.values["b"].isnan().all()
    assert result.values["c"].tolist() == [3.0, 4.0]


def test_one_part_of_weight_one_gives_its_rewards_bit_for_bit() -> None:
    numbers = torch.randn(2, dtype=torch.float64).tolist()
    assert Weighted({"energy": (1.0, Given(numbers))})(TWO).reward.tolist() == numbers


def test_values_of_parts_do_not_collide_and_those_of_the_energy_keep_their_names() -> None:
    parts = {
        "energy": (1.0, Given([0.0, 0.0], {"valid": [1.0, 0.0], "x": [1.0, 1.0]})),
        "a": (1.0, Given([1.0, 2.0], {"x": [5.0, 6.0]})),
        "b": (0.0, Given([3.0, 4.0], {"x": [7.0, 8.0]})),
    }
    values = Weighted(parts)(TWO).values
    assert {name: value.tolist() for name, value in values.items()} == {
        "energy": [0.0, 0.0], "valid": [1.0, 0.0], "x": [1.0, 1.0],
        "a": [1.0, 2.0], "a.x": [5.0, 6.0], "b": [3.0, 4.0], "b.x": [7.0, 8.0],
    }  # fmt: skip


def test_without_energies_validity_is_still_known() -> None:
    """Atoms on top of each other."""
    crystals = TWO.replace(pos=torch.zeros_like(TWO.pos))
    assert Weighted({"a": (1.0, Given([1.0, 2.0]))})(crystals).values["valid"].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("broken", [Given([1.0]), Given([1.0, 2.0], {"x": [1.0, 2.0, 3.0]})])
def test_a_part_of_the_wrong_length_is_named(broken: Given) -> None:
    with pytest.raises(RewardError, match=r"^reward b: its .* has shape .*, not \(2,\)"):
        Weighted({"a": (1.0, Given([1.0, 2.0])), "b": (0.0, broken)})(TWO)


def test_something_must_be_there() -> None:
    with pytest.raises(RewardError, match="at least one part"):
        Weighted({})


def test_values_of_the_same_name_are_refused() -> None:
    energy = Given([0.0, 0.0], {"volume": [1.0, 1.0]})
    with pytest.raises(RewardError, match="^reward volume: two values are called volume"):
        Weighted({"energy": (1.0, energy), "volume": (0.0, Given([1.0, 2.0]))})(TWO)


class Sodium:
    """Knows sodium alone, and is never shown anything else."""

    name, elements = "sodium", frozenset({11})

    def __call__(self, crystals: CrystalBatch) -> RewardResult:
        assert set(crystals.species.tolist()) == {11}
        return RewardResult(crystals.n_atoms.double(), {"valid": torch.ones(len(crystals), dtype=torch.float64)})


def test_what_only_monitors_leaves_out_what_it_does_not_know() -> None:
    crystals = TWO.replace(species=torch.tensor([8, 8, 11, 11, 11]))
    for part, valid in (("a", "a.valid"), ("energy", "valid")):
        reward = Weighted({part: (0.0, Sodium()), "b": (1.0, Given([1.0, 2.0]))})
        assert reward.elements is None
        result = reward(crystals)
        assert result.reward.tolist() == [1.0, 2.0]
        torch.testing.assert_close(result.values[part], torch.tensor([NAN, 3.0]).double(), equal_nan=True)
        assert valid in result.values and not result.values["valid"].isnan().any()


def test_elements_are_those_that_all_parts_with_a_weight_know() -> None:
    everything, some, others = Given([0.0]), Given([0.0], None, frozenset({1, 8})), Given([0.0], None, frozenset({8}))
    assert Weighted({"a": (1.0, everything)}).elements is None
    assert Weighted({"a": (1.0, everything), "b": (1.0, some), "c": (2.0, others)}).elements == {8}
    assert Weighted({"a": (1.0, everything), "b": (1.0, some), "c": (0.0, others)}).elements == {1, 8}


def test_devices_and_processes_reach_all_parts() -> None:
    given, shared = Given([0.0]), Given([0.0])
    reward = Weighted({"a": (1.0, given), "b": (1.0, Once(shared))})
    assert reward.to("cpu") is reward
    reward.close()
    assert (given.device, shared.device, given.closed, shared.closed) == ("cpu", "cpu", True, True)


def test_what_is_shared_is_asked_once_per_batch() -> None:
    given = Given([1.0, 2.0])
    shared = Once(given)
    reward = Weighted({"a": (1.0, shared), "b": (2.0, shared)})
    assert reward(TWO).reward.tolist() == [3.0, 6.0]
    assert given.asked == 1
    reward(random_crystals([2, 3]))
    assert given.asked == 2
    copied = pickle.loads(pickle.dumps(shared))
    copied(TWO)
    assert copied.reward.asked == 3
