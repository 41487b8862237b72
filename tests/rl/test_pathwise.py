"""Reward gradients through the steps of a trajectory, against finite differences and closed forms."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.crystal.fields import FIELDS, FieldName
from omatg_ray.flow.activations import saved_bytes
from omatg_ray.flow.network import CSPNet
from omatg_ray.flow.settings import NetworkSettings
from omatg_ray.policy.grid import time_grid
from omatg_ray.policy.hand_made import LinearSchedule
from omatg_ray.policy.policy import Policy
from omatg_ray.reward.gradient import Gradient
from omatg_ray.rl.learner import Learner
from omatg_ray.rl.pathwise import Pathwise
from omatg_ray.rl.rollout import Trajectory, rollout
from omatg_ray.rl.settings import LearnerSettings, ObjectiveSettings, RewardGradientSettings
from tests.rl.test_learner import OUT_OF_MEMORY, SmallMemory
from tests.small import perturbed, random_crystals, small_network, velocity_policy

STEPS = 6
FREE = 1e9
"""A limit that limits nothing."""


def reward(crystals: CrystalBatch) -> Tensor:
    """A smooth periodic reward (B,) of positions and lattices."""
    waves = torch.cos(2 * math.pi * crystals.pos + torch.arange(3.0)).sum(1)
    return crystals.layout.sum(waves) - (crystals.cell @ crystals.cell.mT - 15.0).square().sum((1, 2)) / 100


def reward_gradient(crystals: CrystalBatch) -> Gradient:
    pos, cell = crystals.pos.detach().requires_grad_(), crystals.cell.detach().requires_grad_()
    return Gradient(*torch.autograd.grad(reward(crystals.replace(pos, cell)).sum(), (pos, cell)))


def sample(policy: Policy, x_0: CrystalBatch) -> Trajectory:
    """A trajectory without noise, with given species."""
    zero = {field: torch.zeros(STEPS - 1, *getattr(x_0, field).shape, dtype=x_0.dtype) for field in policy.active}
    return rollout(policy, x_0, time_grid(STEPS), zero)


def pathwise(
    policy: Policy, parameters: list[nn.Parameter], steps: int, limit: float, growth: float, distance: float = 0.0
) -> Pathwise:
    settings = RewardGradientSettings(transitions=steps, limit=limit, growth=growth, distance=distance)
    return Pathwise(policy, parameters, settings)


def update(
    policy: Policy, x_0: CrystalBatch, steps: int, limit: float = FREE, growth: float = FREE, distance: float = 0.0
) -> list[Tensor]:
    """Gradients of minus the mean reward by the parameters that reinforcement trains."""
    parameters = policy.trainable_parameters()
    trajectory = sample(policy, x_0)
    gradient = reward_gradient(trajectory.final())
    pathwise(policy, parameters, steps, limit, growth, distance).accumulate(
        trajectory, trajectory.states(), gradient, 1.0 / len(x_0)
    )
    return [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]


def shifted(network: CSPNet, directions: list[Tensor], parameters: list[int], by: float) -> CSPNet:
    other = copy.deepcopy(network)
    own = list(other.parameters())
    with torch.no_grad():
        for index, direction in zip(parameters, directions, strict=True):
            own[index].add_(by * direction)
    return other


@pytest.mark.parametrize("schedule", [None, LinearSchedule(pos=2.0, cell=1.0)], ids=["plain", "annealed"])
@pytest.mark.parametrize("active", [("pos", "cell"), ("pos",), ("cell",)])
@pytest.mark.parametrize("steps, distance", [(1, 0.0), (3, 0.0), (STEPS - 1, 0.0), (1, 0.7), (3, 0.7)])
def test_the_update_is_the_derivative_of_the_mean_reward(
    active: tuple[FieldName, ...], steps: int, distance: float, schedule: LinearSchedule | None
) -> None:
    """Against finite differences of a sampler in which only the last steps use the changed weights.

    With a weight of the distance, that of the reward less the distance to the base's velocity in these steps.
    """
    base = small_network(0)
    network = perturbed(base, 0.05)
    x_0 = random_crystals([1, 3, 4], seed=3)
    policy = velocity_policy(network, base, active, schedule=schedule)
    gradients = update(policy, x_0, steps, distance=distance)
    parameters = policy.trainable_parameters()
    position = {id(p): index for index, p in enumerate(network.parameters())}
    indices = [position[id(p)] for p in parameters]
    rng = torch.Generator().manual_seed(5)
    directions = [torch.randn(p.shape, generator=rng, dtype=p.dtype) for p in parameters]

    def mean_reward(by: float) -> float:
        late = velocity_policy(shifted(network, directions, indices, by), base, active, schedule=schedule)
        times, state, apart = time_grid(STEPS).double(), x_0, torch.zeros(len(x_0)).double()
        unchanged = velocity_policy(base, base, active, schedule=schedule)
        with torch.no_grad():
            for k, dt in enumerate(times.diff()):
                used = policy if k < STEPS - 1 - steps else late
                moved = used.step(state, times[k], dt, {}).displacement
                if used is late:
                    other = unchanged.step(state, times[k], dt, {}).displacement
                    for b, atoms in enumerate(torch.arange(len(x_0.species)).split(x_0.layout.sizes)):
                        pos, cell = moved["pos"][atoms] - other["pos"][atoms], moved["cell"][b] - other["cell"][b]
                        squares = (pos @ state.cell[b]).square().sum() / len(atoms), cell.square().sum() / 3
                        apart[b] += sum(squares) / dt
                state = state.replace((state.pos + moved["pos"]) % 1.0, state.cell + moved["cell"])
        return float((reward(state) - distance * apart).mean())

    h = 2e-6
    expected = (mean_reward(h) - mean_reward(-h)) / (2 * h)
    found = -sum(float((g * d).sum()) for g, d in zip(gradients, directions, strict=True))
    assert found == pytest.approx(expected, rel=1e-5, abs=1e-8)


def test_a_later_start_counts_fewer_steps() -> None:
    base = small_network(0)
    policy = velocity_policy(perturbed(base, 0.05), base)
    one, all_steps = (update(copied, random_crystals([3, 4]), steps) for copied, steps in ((policy, 1), (policy, 99)))
    assert not any(torch.allclose(a, b) for a, b in zip(one, all_steps, strict=True) if b.abs().max() > 1e-6)


def test_steps_before_the_policy_acts_do_not_count() -> None:
    base = small_network(0)
    network, x_0 = perturbed(base, 0.05), random_crystals([3, 4])
    late = float(time_grid(STEPS)[-3])
    gated = update(velocity_policy(network, base, acts_from=late), x_0, 4)
    network.zero_grad()
    trajectory = sample(velocity_policy(network, base, acts_from=late), x_0)
    policy = velocity_policy(network, base)
    gradient = reward_gradient(trajectory.final())
    pathwise(policy, policy.trainable_parameters(), 2, FREE, FREE).accumulate(
        trajectory, trajectory.states(), gradient, 0.5
    )
    two = [torch.zeros_like(p) if p.grad is None else p.grad for p in policy.trainable_parameters()]
    assert any(g.abs().max() > 1e-6 for g in gated)
    assert all(torch.equal(one, other) for one, other in zip(gated, two, strict=True))


def test_structures_are_limited_one_by_one() -> None:
    """With the limit at half the size of one structure's gradient, its share halves, and others' shares stay."""
    base = small_network(0)
    policy = velocity_policy(perturbed(base, 0.05), base)
    big, small = random_crystals([3], seed=1), random_crystals([4], seed=2)
    sizes = [float(reward_gradient(sample(policy, x).final()).size(sample(policy, x).final())) for x in (big, small)]
    assert sizes[0] != pytest.approx(sizes[1], rel=0.2)
    if sizes[0] < sizes[1]:
        big, small, sizes = small, big, sizes[::-1]
    limit = max(0.5 * sizes[0], 1.001 * sizes[1])
    parts = []
    for crystals, factor in ((big, limit / sizes[0]), (small, 1.0)):
        policy.network.zero_grad()
        parts.append([0.5 * factor * g for g in update(policy, crystals, 2)])
    policy.network.zero_grad()
    together = update(policy, CrystalBatch.cat([big, small]), 2, limit=limit)
    for found, one, other in zip(together, *parts, strict=True):
        torch.testing.assert_close(found, one + other, rtol=1e-8, atol=1e-12)


def test_a_structure_without_a_finite_gradient_teaches_nothing() -> None:
    base = small_network(0)
    policy = velocity_policy(perturbed(base, 0.05), base)
    x_0 = random_crystals([3, 4])
    trajectory = sample(policy, x_0)
    gradient = reward_gradient(trajectory.final())
    gradient.pos[0] = math.nan
    parameters = policy.trainable_parameters()
    stats = pathwise(policy, parameters, 3, FREE, FREE).accumulate(trajectory, trajectory.states(), gradient, 1.0)
    found = [p.grad.clone() for p in parameters if p.grad is not None]
    policy.network.zero_grad()
    alone = [g for g in update(policy, x_0.select([1]), 3) if g.abs().max() > 0]
    assert all(math.isfinite(value) for value in stats.values())
    for one, other in zip([g for g in found if g.abs().max() > 0], alone, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def test_the_adjoint_is_limited_to_a_multiple_of_where_it_starts() -> None:
    """With growth 1 and a network that multiplies the adjoint, no step takes more than the size of the last."""
    base = small_network(0)
    policy = velocity_policy(perturbed(base, 0.3), base, schedule=LinearSchedule(pos=20.0, cell=20.0))
    x_0 = random_crystals([3, 4])
    trajectory = sample(policy, x_0)
    gradient, parameters = reward_gradient(trajectory.final()), policy.trainable_parameters()
    free = pathwise(policy, parameters, 5, FREE, FREE).accumulate(trajectory, trajectory.states(), gradient, 0.5)
    assert free["adjoint_growth"] > 1.5  # or this tests nothing
    unlimited = [p.grad.clone() for p in parameters if p.grad is not None]
    policy.network.zero_grad()
    pathwise(policy, parameters, 5, FREE, 1.0).accumulate(trajectory, trajectory.states(), gradient, 0.5)
    limited = [p.grad.clone() for p in parameters if p.grad is not None]

    def norm(values: list[Tensor]) -> float:
        return float(torch.cat([v.flatten() for v in values]).norm())

    assert norm(limited) < norm(unlimited)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_gives_what_the_cpu_gives() -> None:
    """Gradients of rewards come from the CPU, wherever crystals and networks are."""
    base, found = small_network(0), []
    network = perturbed(base, 0.05)
    sampled = sample(velocity_policy(network, base), random_crystals([1, 3, 4], seed=3))
    gradient = reward_gradient(sampled.final())
    for device in ("cpu", "cuda"):
        policy = velocity_policy(copy.deepcopy(network).to(device), copy.deepcopy(base).to(device))
        trajectory, parameters = sampled.to(device), policy.trainable_parameters()
        pathwise(policy, parameters, 3, 0.5, 2.0, 0.1).accumulate(trajectory, trajectory.states(), gradient, 1.0)
        found.append([p.grad.cpu() for p in parameters if p.grad is not None])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-9)


def test_the_adjoint_of_one_step_is_where_it_starts() -> None:
    base = small_network(0)
    policy = velocity_policy(perturbed(base, 0.3), base)
    trajectory = sample(policy, random_crystals([3, 4]))
    gradient, parameters = reward_gradient(trajectory.final()), policy.trainable_parameters()
    stats = pathwise(policy, parameters, 1, FREE, 1.0).accumulate(trajectory, trajectory.states(), gradient, 0.5)
    assert stats["adjoint_growth"] == pytest.approx(1.0, abs=1e-12)


def test_a_collapsed_lattice_ends_nothing() -> None:
    base = small_network(0)
    policy = velocity_policy(perturbed(base, 0.05), base)
    x_0 = random_crystals([3, 4])
    trajectory = sample(policy, x_0)
    gradient, (pos, cell) = reward_gradient(trajectory.final()), trajectory.states()
    cell[-1, 0] = 0.0
    parameters = policy.trainable_parameters()
    stats = pathwise(policy, parameters, 3, FREE, 4.0).accumulate(trajectory, (pos, cell), gradient, 1.0)
    assert all(math.isfinite(value) for value in stats.values())
    found = [p.grad.clone() for p in parameters if p.grad is not None]
    policy.network.zero_grad()
    alone = update(policy, x_0.select([1]), 3, growth=4.0)
    for one, other in zip(found, alone, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def test_parameters_that_no_step_depends_on_get_zeros() -> None:
    """So that the optimizer has a state for every one of them, and a run can be resumed."""
    base = small_network(0)
    policy = velocity_policy(perturbed(base, 0.05), base)
    idle = nn.Parameter(torch.ones(2, dtype=torch.float64))
    trajectory = sample(policy, random_crystals([3, 4]))
    by_gradient = pathwise(policy, [*policy.trainable_parameters(), idle], 2, FREE, FREE)
    by_gradient.accumulate(trajectory, trajectory.states(), reward_gradient(trajectory.final()), 1.0)
    assert idle.grad is not None and not idle.grad.any()


def by_gradient_alone(network: CSPNet, **values: object) -> Learner:
    objective = ObjectiveSettings(reward_gradient=RewardGradientSettings(transitions=3))
    return Learner(velocity_policy(network, small_network(1)), objective, LearnerSettings(epochs=1, **values))


@pytest.mark.parametrize("backward", [False, True])
def test_memory_that_runs_out_halves_what_is_replayed(
    backward: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    trajectory = sample(velocity_policy(small_network(0), small_network(1)), random_crystals([3, 1, 4, 3]))
    gradient = reward_gradient(trajectory.final())
    networks = [small_network(0) for _ in range(2)]
    roomy, tight = (by_gradient_alone(network, lr=1e-3, microbatch_pairs=120) for network in networks)
    expected = roomy.update(trajectory, None, gradient=gradient)
    memory = SmallMemory(20, OUT_OF_MEMORY[0], monkeypatch, backward)
    found = tight.update(trajectory, None, gradient=gradient)
    assert found.pop("microbatch_pairs") == tight.microbatch_pairs and memory.sizes[0] == 35
    assert found == pytest.approx(expected, rel=1e-8)
    assert f"continues with {35 // 2}" in caplog.text
    for name, value in networks[0].state_dict().items():
        torch.testing.assert_close(networks[1].state_dict()[name], value, rtol=0, atol=1e-10)


def test_a_trial_measures_one_step_however_many_are_differentiated() -> None:
    trajectory = sample(velocity_policy(small_network(0), small_network(1)), random_crystals([3, 1, 4, 3]))
    three = by_gradient_alone(small_network(0)).trial(trajectory, by_policy=False)
    assert three.pairs == 35 and three.seconds > 0
    one_step = velocity_policy(small_network(0), small_network(1))
    with saved_bytes() as saved:
        one_step.outputs(trajectory.x_0, torch.tensor(0.5).double())
    assert sum(saved.values()) == pytest.approx(three.memory, rel=0.2)


def test_frozen_fields_pass_the_adjoint_on() -> None:
    """With positions active, the reward of the lattice alone reaches them through the base's drift of the lattice."""
    base = small_network(0)
    policy = velocity_policy(perturbed(base, 0.05), base, ("pos",))
    x_0 = random_crystals([3, 4])
    trajectory = sample(policy, x_0)
    gradient = reward_gradient(trajectory.final())
    only_cell = Gradient(torch.zeros_like(gradient.pos), gradient.cell)
    parameters = policy.trainable_parameters()
    pathwise(policy, parameters, 1, FREE, FREE).accumulate(trajectory, trajectory.states(), only_cell, 1.0)
    assert all(p.grad is None or not p.grad.any() for p in parameters)
    pathwise(policy, parameters, 3, FREE, FREE).accumulate(trajectory, trajectory.states(), only_cell, 1.0)
    assert any(p.grad is not None and bool(p.grad.any()) for p in parameters)
    assert FIELDS == ("pos", "cell")


def test_the_update_finds_the_optimum() -> None:
    """Two atoms whose separation should be (½, ½, ½): without noise the best reward is 0."""
    size = NetworkSettings(hidden=32, layers=2, frequencies=3, time_features=8)
    network, base = (small_network(seed, torch.float32, size) for seed in (0, 1))
    policy = velocity_policy(network, base, ("pos",))
    parameters = policy.trainable_parameters()
    optimizer, rng = torch.optim.Adam(parameters, lr=3e-3), torch.Generator().manual_seed(0)
    rewards = []
    for _ in range(150):
        pos = torch.rand(32, 2, 3, generator=rng) * 0.2 + torch.tensor([[[0.1] * 3], [[0.4] * 3]]).view(1, 2, 3)
        x_0 = CrystalBatch(
            torch.tensor([55, 17] * 32), pos.flatten(0, 1), 4.0 * torch.eye(3).repeat(32, 1, 1), torch.full((32,), 2)
        )
        trajectory = sample(policy, x_0)
        final = trajectory.final()
        apart = (final.pos[1::2] - final.pos[::2]) % 1.0 - 0.5
        rewards.append(float(-apart.square().sum(1).mean()))
        by_pos = torch.stack([2 * apart, -2 * apart], 1).flatten(0, 1).double()
        gradient = Gradient(by_pos, torch.zeros(32, 3, 3).double())
        optimizer.zero_grad()
        pathwise(policy, parameters, 3, FREE, 4.0).accumulate(trajectory, trajectory.states(), gradient, 1 / 32)
        optimizer.step()
    assert rewards[0] < -0.1 and sum(rewards[-10:]) / 10 > -0.01
