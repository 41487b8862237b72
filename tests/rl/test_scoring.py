from __future__ import annotations

import math

import pytest
import torch

from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.errors import TrainingError
from omatg_ray.reward.protocol import RewardResult
from omatg_ray.rl.advantage import group_advantages
from omatg_ray.rl.scoring import ScoredItem, reward_metrics, rewards_of, score_item
from omatg_ray.rl.work import WorkItem
from tests.small import random_crystals

NAN = math.nan


class Size:
    """Rewards a crystal for its number of atoms, whatever its coordinates."""

    name, elements = "size", None

    def __call__(self, crystals: CrystalBatch) -> RewardResult:
        return RewardResult(crystals.n_atoms.double(), {"doubled": 2.0 * crystals.n_atoms.double()})


def test_crystals_that_overflowed_have_no_reward() -> None:
    crystals = random_crystals([2, 3, 4, 5])
    crystals.pos[3, 1] = math.inf  # an atom of the second
    crystals.cell[3, 0, 0] = NAN
    scored = score_item(crystals, Size())
    assert scored.finite.tolist() == [True, False, True, False]
    assert scored.result.reward.isnan().tolist() == [False, True, False, True]
    assert scored.result.reward[[0, 2]].tolist() == [2.0, 4.0]
    assert scored.result.values["doubled"].tolist() == [4.0, 6.0, 8.0, 10.0]


def items(*groups: int) -> list[WorkItem]:
    """Items of so many groups of ten members each, all of NaCl in iteration 4."""
    return [WorkItem(3, ((11, 17),) * n, tuple(range(10 * n)), 5) for n in groups]


def verdict(reward: list[float], finite: bool = True) -> ScoredItem:
    values = torch.tensor(reward, dtype=torch.float64)
    return ScoredItem(torch.full((len(reward),), finite), RewardResult(values, {}), [(11, 17)] * len(reward))


def test_rewards_keep_the_order_of_items_of_several_sizes() -> None:
    rewards = rewards_of(
        items(2, 1), [verdict([float(i) for i in range(20)]), verdict([float(i) for i in range(20, 30)])]
    )
    assert rewards.tolist() == [[float(10 * group + member) for member in range(10)] for group in range(3)]


def test_one_failure_in_twenty_may_be_two_may_not() -> None:
    assert int(rewards_of(items(2), [verdict([NAN] + 19 * [1.0])]).isnan().sum()) == 1
    with pytest.raises(TrainingError, match=r"^2 of 20 rewards failed in iteration 4 \(5% allowed\): NaCl$"):
        rewards_of(items(2), [verdict([NAN, NAN] + 18 * [1.0])])


def test_what_is_not_finite_is_named_as_such() -> None:
    with pytest.raises(TrainingError, match=r"^10 of 20 trajectories are not finite in iteration 4"):
        rewards_of(items(1, 1), [verdict([1.0] * 10), verdict([NAN] * 10, finite=False)])


def metrics_of(reward: list[list[float]], energy: list[float], valid: list[float]) -> dict[str, float]:
    rewards = torch.tensor(reward, dtype=torch.float64)
    values = {"energy_per_atom": torch.tensor(energy).double(), "valid": torch.tensor(valid).double()}
    return reward_metrics(rewards, group_advantages(rewards), [RewardResult(rewards.flatten(), values)])


def test_metrics_where_everything_is_invalid() -> None:
    metrics = metrics_of([[-3.0, -3.0], [-3.0, -3.0]], [NAN] * 4, [0.0] * 4)
    assert metrics["invalid_share"] == 1.0
    assert metrics["reward_mean"] == -3.0
    assert metrics["groups_skipped"] == 2
    assert math.isnan(metrics["energy_mean"]) and math.isnan(metrics["energy_median"])


def test_metrics_leave_out_what_failed() -> None:
    metrics = metrics_of([[1.0, NAN, 3.0], [NAN, NAN, NAN]], [-1.0, NAN, -3.0, NAN, NAN, NAN], [1.0] * 6)
    assert metrics["reward_mean"] == 2.0
    assert metrics["reward_std"] == 1.0
    assert metrics["energy_mean"] == -2.0
    assert metrics["failed_share"] == pytest.approx(4 / 6)
    assert metrics["groups_skipped"] == 1


def test_metrics_of_a_reward_without_energies_have_no_energies() -> None:
    rewards = torch.tensor([[0.0, 1.0]], dtype=torch.float64)
    metrics = reward_metrics(rewards, group_advantages(rewards), [RewardResult(rewards.flatten(), {})])
    assert metrics.keys() == {"reward_mean", "reward_std", "failed_share", "groups_skipped"}


def test_every_value_of_a_reward_has_a_mean() -> None:
    rewards = torch.tensor([[0.0, 1.0], [2.0, 3.0]], dtype=torch.float64)
    results = [
        RewardResult(row, {"valid": torch.tensor([1.0, 0.0]).double(), "crmse": row, "crmse.rmse": other})
        for row, other in zip(rewards, torch.tensor([[1.0, NAN], [NAN, 2.0]]).double(), strict=True)
    ]
    # A value that only some items have.
    results[0].values["mine.x"] = torch.tensor([4.0, 6.0]).double()
    metrics = reward_metrics(rewards, group_advantages(rewards), results)
    assert metrics["invalid_share"] == 0.5
    assert metrics["reward_crmse_mean"] == metrics["reward_crmse.rmse_mean"] == 1.5
    assert metrics["reward_mine.x_mean"] == 5.0
    assert not {"energy_mean", "second_shift", "reward_valid_mean"} & metrics.keys()


def test_a_second_potential_is_compared_group_by_group() -> None:
    """The potentials agree within the first group and rank the second backwards."""
    first = torch.tensor([[1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 3.0, 4.0]], dtype=torch.float64)
    second = torch.tensor([[11.0, 13.0, 14.0, 19.0], [4.0, 3.0, 2.0, 1.0]], dtype=torch.float64)
    results = [
        RewardResult(-a, {"second.energy_per_atom": b, "second.difference": b - a, "second.shift": b - a - 1.0})
        for a, b in zip(first, second, strict=True)
    ]
    metrics = reward_metrics(-first, group_advantages(-first), results)
    assert metrics["second_rank_correlation"] == pytest.approx(0.0)
    assert metrics["second_shift"] == pytest.approx(float((second - first).mean()) - 1.0)
