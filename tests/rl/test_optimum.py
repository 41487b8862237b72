"""TrainLoop finds the optimum of landscapes whose best policy is known in closed form.

Both landscapes are quadratic in the final state. A drift can correct the noise of every step but the last: with a
constant noise σ the best expected reward is minus the variance σ² dt of that step for every component that counts.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from omatg_ray.crystal.base import BaseDistribution
from omatg_ray.crystal.batch import CrystalBatch, Layout
from omatg_ray.crystal.fields import FieldName
from omatg_ray.flow.settings import NetworkSettings
from omatg_ray.policy.grid import time_grid
from omatg_ray.policy.settings import NoiseSettings
from omatg_ray.rl.advantage import group_advantages
from omatg_ray.rl.learner import Learner
from omatg_ray.rl.rollout import Trajectory, rollout
from omatg_ray.rl.settings import FieldWeights, LearnerSettings, ObjectiveSettings
from tests.small import small_network, velocity_policy

STEPS, LEARNING_RATE = 3, 5e-3
SIZE = NetworkSettings(hidden=32, layers=2, frequencies=3, time_features=8)
BASE = BaseDistribution(log_length_mean=(1.4, 1.4, 1.4), log_length_std=(0.05, 0.05, 0.05))
GROUPS, MEMBERS, FRESH = 16, 16, 1024
LENGTHS = torch.tensor([4.6, 4.3, 3.6])


def separation_reward(crystals: CrystalBatch) -> Tensor:
    """Minus the squared distance of the two atoms' separation from (½, ½, ½)."""
    return -((crystals.pos[1::2] - crystals.pos[::2]) % 1.0 - 0.5).square().sum(1)


def length_reward(crystals: CrystalBatch) -> Tensor:
    """Minus the squared deviation of the vectors' lengths from targets, in Å²; blind to turns, as the drift is."""
    return -(crystals.cell.norm(dim=2) - LENGTHS).square().sum(1)


@pytest.mark.parametrize(
    "field, species, reward, components, sigma, iterations, start, slack",
    [
        # Both atoms take the noise of the last step in three components each.
        pytest.param("pos", [55, 17], separation_reward, 6, 0.1, 200, -0.2, 0.02, marks=pytest.mark.long),
        # To leading order a length feels the noise along its vector alone.
        ("cell", [13], length_reward, 3, 0.2, 90, -0.4, 0.02),
    ],
)
def test_the_policy_gradient_finds_the_optimum(
    field: FieldName,
    species: list[int],
    reward: Callable[[CrystalBatch], Tensor],
    components: int,
    sigma: float,
    iterations: int,
    start: float,
    slack: float,
):
    network, base = (small_network(seed, torch.float32, SIZE) for seed in (0, 1))
    with torch.no_grad():  # start nearly at rest
        for head in (network.coord_out, network.lattice_out):
            head.weight.mul_(0.1)
    policy = velocity_policy(network, base, (field,), {field: NoiseSettings(kind="constant", a=sigma)})
    objective = ObjectiveSettings(clip=0.2, policy_weight=FieldWeights(), kl_weight=FieldWeights(pos=0, cell=0))
    learner = Learner(policy, objective, LearnerSettings(epochs=4, lr=LEARNING_RATE))
    rng = torch.Generator().manual_seed(0)
    times = time_grid(STEPS)

    def sample(starts: int, members: int) -> Trajectory:
        """Trajectories in groups that share x_0, so that a group's rewards differ by the noise alone."""
        pos, cell = BASE.draw(torch.tensor(species * starts), Layout(torch.full((starts,), len(species))), rng)
        x_0 = CrystalBatch(
            torch.tensor(species * starts * members),
            pos.view(starts, -1, 3).repeat_interleave(members, 0).flatten(0, 1),
            cell.repeat_interleave(members, 0),
            torch.full((starts * members,), len(species)),
        )
        shape = x_0.pos.shape if field == "pos" else x_0.cell.shape
        return rollout(policy, x_0, times, {field: torch.randn(STEPS - 1, *shape, generator=rng)})

    before = reward(sample(FRESH, 1).final())
    for iteration in range(iterations):
        for group in learner.optimizer.param_groups:
            group["lr"] = LEARNING_RATE * (1 - iteration / iterations)
        trajectory = sample(GROUPS, MEMBERS)
        advantages = group_advantages(reward(trajectory.final()).view(GROUPS, MEMBERS))
        learner.update(trajectory, advantages.values.flatten())
    after = reward(sample(FRESH, 1).final())

    optimum = -components * sigma**2 * float(times[-1] - times[-2])
    standard_error = float(after.std()) / FRESH**0.5
    assert float(before.mean()) < start
    assert float(after.mean()) > optimum - slack
    # No policy beats the optimum.
    assert float(after.mean()) < optimum + 4 * standard_error
