from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from omatg_ray.crystal.base import BaseDistribution
from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.errors import TrainingError
from omatg_ray.flow.network import CSPNet
from omatg_ray.reward.gradient import Gradient
from omatg_ray.reward.protocol import REWARD, Reward, RewardResult
from omatg_ray.rl.backend import LocalTrainingBackend
from omatg_ray.rl.learner import Learner
from omatg_ray.rl.settings import (
    AdvantageSettings,
    LearnerSettings,
    ObjectiveSettings,
    RewardGradientSettings,
    RolloutSettings,
)
from omatg_ray.rl.trainer import Trainer
from tests.small import random_crystals, small_network, velocity_policy

NAN = math.nan
GROUPS, MEMBERS = 2, 12


class Scripted:
    """Gives rewards from a function of the number of structures, whatever the structures."""

    name, elements = "scripted", None

    def __init__(self, rewards: Callable[[int], Tensor]) -> None:
        self.rewards = rewards

    def __call__(self, crystals: CrystalBatch) -> RewardResult:
        reward = self.rewards(len(crystals)).double()
        return RewardResult(reward, {"energy_per_atom": -reward, "valid": reward.isfinite().double()})


def trainer(rewards: Callable[[int], Tensor], groups_per_item: int = 1) -> Trainer:
    network, base = small_network(0, torch.float32), small_network(0, torch.float32)
    policy = velocity_policy(network, base, ["pos"])
    settings = RolloutSettings(groups=GROUPS, group_size=MEMBERS, steps=3, groups_per_item=groups_per_item)
    learner = Learner(policy, ObjectiveSettings(), LearnerSettings(epochs=1, lr=1e-2))
    base_distribution = BaseDistribution.fit(random_crystals([2] * 6, dtype=torch.float32))
    description = SimpleNamespace(base_distribution=base_distribution)
    model: Any = SimpleNamespace(learned=network, description=description, device=torch.device("cpu"))
    training = LocalTrainingBackend(learner, model, Scripted(rewards))
    return Trainer(settings, [[11, 17], [12, 8, 8], [3, 9]], AdvantageSettings(), training, seed=3, total=100)


class Cubic:
    """Minus the squared deviation of the lattice from a cube, with its gradient; NaN for chosen structures."""

    name, elements = "cubic", None

    def __init__(self, failing: Sequence[int] = ()) -> None:
        self.failing = failing

    def __call__(self, crystals: CrystalBatch) -> RewardResult:
        apart = (crystals.cell.double() - 4.0 * torch.eye(3)).square().sum((1, 2))
        reward = -apart
        for row in self.failing:
            reward[row] = NAN
        return RewardResult(reward, {})

    def with_gradient(self, crystals: CrystalBatch) -> RewardResult:
        by_cell = -2.0 * (crystals.cell.double() - 4.0 * torch.eye(3))
        gradient = Gradient(torch.zeros(crystals.pos.shape, dtype=torch.float64), by_cell)
        result = self(crystals)
        rest = torch.zeros_like(result.reward)
        return replace(result, gradients={REWARD: gradient.times(result.reward.isfinite(), crystals.layout)}, rest=rest)


def gradient_trainer(reward: Reward, groups: int = 8) -> Trainer:
    network, base = small_network(0, torch.float32), small_network(0, torch.float32)
    objective = ObjectiveSettings(reward_gradient=RewardGradientSettings(transitions=2))
    learner = Learner(velocity_policy(network, base, ["cell"]), objective, LearnerSettings(epochs=1, lr=1e-2))
    description = SimpleNamespace(base_distribution=BaseDistribution.fit(random_crystals([2] * 6, dtype=torch.float32)))
    model: Any = SimpleNamespace(learned=network, description=description, device=torch.device("cpu"))
    training = LocalTrainingBackend(learner, model, reward)
    settings = RolloutSettings(groups=groups, group_size=1, steps=4, groups_per_item=groups)
    cells = [[11, 17], [12, 8, 8], [3, 9]]
    return Trainer(settings, cells, AdvantageSettings(), training, 3, 100, by_policy=False, by_gradient=True)


def test_reward_gradients_raise_the_reward_without_noise_or_groups() -> None:
    run = gradient_trainer(Cubic())
    rewards = []
    for _ in range(40):
        metrics = run.step()
        rewards.append(metrics["reward_mean"])
        assert "groups_skipped" not in metrics and "policy_loss_cell" not in metrics
    assert metrics["gradient_size"] > 0 and metrics["adjoint_growth"] > 0
    assert sum(rewards[-5:]) > 0.5 * sum(rewards[:5])  # rewards are negative: the deviation has halved


def test_a_failed_reward_has_no_gradient_and_the_others_learn() -> None:
    run = gradient_trainer(Cubic(failing=[0]), groups=40)
    before = weights(run)
    metrics = run.step()
    assert metrics["failed_share"] == 1 / 40
    assert not torch.equal(weights(run), before) and bool(weights(run).isfinite().all())


def network_of(trainer: Trainer) -> CSPNet:
    assert isinstance(trainer.backend, LocalTrainingBackend)
    return trainer.backend.learner.policy.network


def weights(trainer: Trainer) -> Tensor:
    return torch.cat([p.detach().flatten() for p in network_of(trainer).parameters()]).clone()


def ascending(n: int) -> Tensor:
    return torch.linspace(-1.0, 1.0, n)


def test_an_iteration_learns_and_counts() -> None:
    run = trainer(ascending)
    before = weights(run)
    metrics = run.step()
    assert run.iteration == 1
    assert not torch.equal(weights(run), before)
    assert metrics["reward_mean"] == pytest.approx(0.0, abs=1e-6)
    # Population standard deviation of n equidistant points over [-1, 1].
    assert metrics["reward_std"] == pytest.approx(math.sqrt((MEMBERS + 1) / (3 * (MEMBERS - 1))), rel=1e-6)
    assert metrics["failed_share"] == metrics["groups_skipped"] == metrics["invalid_share"] == 0.0
    assert {"loss", "kl_pos", "clip_fraction_pos", "time_rollout", "time_reward", "time_learn"} <= metrics.keys()
    assert metrics["log_ratio_max"] < 1e-3


def test_how_groups_are_packed_into_items_changes_rounding_only() -> None:
    alone, together = trainer(ascending), trainer(lambda n: ascending(MEMBERS).repeat(n // MEMBERS), GROUPS)
    first, second = alone.step(), together.step()
    assert first["reward_mean"] == pytest.approx(second["reward_mean"], abs=1e-9)
    assert first["loss"] == pytest.approx(second["loss"], rel=1e-3)


@pytest.mark.parametrize("constant", [-3.0, 0.1])
def test_groups_without_spread_teach_nothing(constant: float) -> None:
    run = trainer(lambda n: torch.full((n,), constant))
    before = weights(run)
    metrics = run.step()
    assert torch.equal(weights(run), before)
    assert run.iteration == 1
    assert metrics["groups_skipped"] == GROUPS
    assert metrics["reward_std"] == pytest.approx(0.0, abs=1e-12)
    assert "loss" not in metrics


def test_a_failed_reward_leaves_the_others_and_their_statistics() -> None:
    run = trainer(lambda n: torch.cat([torch.tensor([NAN]), ascending(n - 1)]) if failing.pop() else ascending(n))
    failing = [False, True]
    metrics = run.step()
    assert metrics["failed_share"] == pytest.approx(1 / (GROUPS * MEMBERS))
    assert metrics["groups_skipped"] == 0
    assert metrics["reward_mean"] == pytest.approx(0.0, abs=1e-6)
    assert all(math.isfinite(value) for value in metrics.values())


def test_too_many_failed_rewards_stop_the_run_and_are_named() -> None:
    run = trainer(lambda n: torch.cat([torch.tensor([NAN, NAN]), ascending(n - 2)]))
    before = weights(run)
    with pytest.raises(TrainingError, match=r"4 of 24 rewards failed in iteration 1 \(5% allowed\): .*(NaCl|MgO2|LiF)"):
        run.step()
    assert torch.equal(weights(run), before)
    assert run.iteration == 0


def test_a_network_that_has_diverged_stops_the_run() -> None:
    """Its crystals would be invalid, all groups without spread, and nothing would ever be learned again."""
    run = trainer(ascending)
    next(iter(network_of(run).trainable_parameters())).data.fill_(NAN)
    with pytest.raises(TrainingError, match=r"24 of 24 trajectories are not finite in iteration 1"):
        run.step()
