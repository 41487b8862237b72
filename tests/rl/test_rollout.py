"""Trajectories: replay, selection, recorded densities and outputs of the base."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import Normal

from omatg_ray.crystal.fields import displace
from omatg_ray.policy.grid import time_grid
from omatg_ray.policy.hand_made import LinearSchedule
from omatg_ray.policy.policy import Step, draw_noise
from omatg_ray.rl.learner import Learner
from omatg_ray.rl.rollout import Trajectory, rollout
from omatg_ray.rl.settings import LearnerSettings, ObjectiveSettings
from tests.policy.test_policy import Counting
from tests.small import random_crystals, small_network, velocity_policy

SIZES, STEPS = [3, 1, 4], 9
DTYPES = [torch.float32, torch.float64]


def sample(active=("pos", "cell"), dtype=torch.float64, with_base=True, sizes=SIZES, seed=0) -> Trajectory:
    policy = velocity_policy(small_network(0, dtype), small_network(1, dtype), active)
    x_0 = random_crystals(sizes, seed, dtype)
    noise = draw_noise(x_0, STEPS, range(len(sizes)), policy.active)
    return rollout(policy, x_0, time_grid(STEPS), noise, with_base)


def equal(left: Trajectory, right: Trajectory) -> bool:
    pairs = [(left.times, right.times), *zip(left.states(), right.states(), strict=True)]
    for name in ("displacement", "log_prob", "base_outputs"):
        a, b = getattr(left, name), getattr(right, name)
        if a.keys() != b.keys():
            return False
        pairs += [(a[field], b[field]) for field in a]
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("active", [("pos",), ("cell",), ("pos", "cell")])
def test_states_are_replayed_bit_by_bit(active, dtype):
    policy = velocity_policy(small_network(0, dtype), small_network(1, dtype), active)
    x_0 = random_crystals(SIZES, dtype=dtype)
    noise = draw_noise(x_0, STEPS, range(3), policy.active)
    trajectory = rollout(policy, x_0, time_grid(STEPS), noise)

    visited = [x_0]
    record: list[Step] = []
    final = policy.integrate(x_0, time_grid(STEPS), noise, on_step=record.append)
    for step in record:
        visited.append(displace(visited[-1], step.displacement))
    pos, cell = trajectory.states()
    assert trajectory.n_steps == STEPS - 1 and len(pos) == len(cell) == STEPS
    for k, state in enumerate(visited):
        assert torch.equal(pos[k], state.pos) and torch.equal(cell[k], state.cell)
    for state in (final, visited[-1]):
        assert torch.equal(trajectory.final().pos, state.pos) and torch.equal(trajectory.final().cell, state.cell)


def test_log_probabilities_are_those_of_the_drawn_noise():
    trajectory = sample()
    network, times = small_network(0), trajectory.times
    pos, cell = trajectory.states()
    for k in range(trajectory.n_steps):
        t, dt = float(times[k]), float(times[k + 1] - times[k])
        with torch.no_grad():
            out = network(trajectory.x_0.replace(pos[k], cell[k]), times[k])
        sigma = 0.1668 * ((1 - t) / t) ** 0.5
        density = Normal(out.pos_b * dt, sigma * dt**0.5).log_prob(trajectory.displacement["pos"][k]).sum(-1)
        torch.testing.assert_close(trajectory.log_prob["pos"][k], density, atol=1e-6, rtol=1e-6)
        density = Normal(out.cell_b * dt, 0.2 * dt**0.5).log_prob(trajectory.displacement["cell"][k]).sum((-1, -2))
        torch.testing.assert_close(trajectory.log_prob["cell"][k], density, atol=1e-6, rtol=1e-6)


SOME = (2, 3, 6)


def partial(quiet: bool) -> tuple[Trajectory, dict[str, torch.Tensor]]:
    policy = velocity_policy(small_network(0), small_network(1))
    x_0 = random_crystals(SIZES)
    noise = draw_noise(x_0, STEPS, range(3), policy.active)
    return rollout(
        policy, x_0, time_grid(STEPS), noise, with_base=True, learn_from=SOME, noise_elsewhere=not quiet
    ), noise


@pytest.mark.parametrize("quiet", [False, True])
def test_only_the_steps_learned_from_are_recorded_and_they_alone_may_take_noise(quiet):
    trajectory, noise = partial(quiet)
    network, base, times = small_network(0), small_network(1), trajectory.times
    assert trajectory.n_steps == STEPS - 1 and trajectory.n_learned == 3
    pos, cell = trajectory.states()
    for k in range(STEPS - 1):
        t, dt = float(times[k]), float(times[k + 1] - times[k])
        state = trajectory.x_0.replace(pos[k], cell[k])
        with torch.no_grad():
            out, said = network(state, times[k]), base(state, times[k])
        spread = 0.1668 * ((1 - t) / t * dt) ** 0.5 * (k in SOME or not quiet)
        expected = out.pos_b * dt + spread * noise["pos"][k]
        torch.testing.assert_close(trajectory.displacement["pos"][k], expected, atol=1e-6, rtol=1e-6)
        if k in SOME:
            row = SOME.index(k)
            torch.testing.assert_close(trajectory.base_outputs["pos_b"][row], said.pos_b)
            assert torch.equal(trajectory.actions("cell")[row], trajectory.displacement["cell"][k])
            density = Normal(out.cell_b * dt, 0.2 * dt**0.5).log_prob(trajectory.displacement["cell"][k])
            torch.testing.assert_close(trajectory.log_prob["cell"][row], density.sum((-1, -2)), atol=1e-6, rtol=1e-6)
    parts = [trajectory.select(torch.tensor([b])) for b in range(3)]
    assert all(tuple(part.learn_from.tolist()) == SOME for part in (*parts, Trajectory.cat(parts)))
    assert equal(Trajectory.cat(parts), trajectory) and trajectory.to("meta").learn_from.device.type == "meta"


def test_a_limited_schedule_gives_the_learner_the_probabilities_of_the_rollout():
    """The limit depends on the length of the step, which the learner has to take from the trajectory."""
    schedule = LinearSchedule(pos=9.0, cell=5.0, limit=0.5)
    policy = velocity_policy(small_network(0), small_network(1), schedule=schedule)
    x_0 = random_crystals(SIZES)
    trajectory = rollout(policy, x_0, time_grid(STEPS), draw_noise(x_0, STEPS, range(3), policy.active), True)
    objective = ObjectiveSettings(policy_weight={"pos": 1.0, "cell": 1.0}, kl_weight={"pos": 0.0, "cell": 0.0})
    learner = Learner(policy, objective, LearnerSettings(epochs=1))
    stats = learner.update(trajectory, torch.tensor([1.0, -1.0, 0.5]))
    assert stats["log_ratio_max"] < 1e-5


def test_the_base_is_asked_only_in_steps_learned_from():
    base = Counting(small_network(1))
    policy = velocity_policy(small_network(0), base)
    x_0 = random_crystals(SIZES)
    noise = draw_noise(x_0, STEPS, range(3), policy.active)
    rollout(policy, x_0, time_grid(STEPS), noise, with_base=True, learn_from=SOME)
    assert len(base.calls) == len(SOME)


def test_base_outputs_are_those_of_the_base_at_every_state():
    trajectory, base = sample(), small_network(1)
    pos, cell = trajectory.states()
    for k in range(trajectory.n_steps):
        with torch.no_grad():
            out = base(trajectory.x_0.replace(pos[k], cell[k]), trajectory.times[k])
        torch.testing.assert_close(trajectory.base_outputs["pos_b"][k], out.pos_b)
        torch.testing.assert_close(trajectory.base_outputs["cell_b"][k], out.cell_b)


@pytest.mark.parametrize("active, calls", [(("pos", "cell"), 0), (("pos",), STEPS - 1)])
def test_the_base_runs_only_for_frozen_fields_or_when_asked(active, calls):
    base = Counting(small_network(1))
    policy = velocity_policy(small_network(0), base, active)
    x_0 = random_crystals(SIZES)
    noise = draw_noise(x_0, STEPS, range(3), policy.active)
    assert rollout(policy, x_0, time_grid(STEPS), noise).base_outputs == {}
    assert len(base.calls) == calls
    recorded = rollout(policy, x_0, time_grid(STEPS), noise, with_base=True)
    assert set(recorded.base_outputs) == {f"{field}_b" for field in active}
    assert len(base.calls) == calls + STEPS - 1


@pytest.mark.parametrize("indices", [[0, 1, 2], [2, 0], [1]])
def test_selection_is_the_rollout_of_those_structures(indices):
    trajectory = sample()
    part = trajectory.select(torch.tensor(indices))
    starts = [0, 3, 4]
    rows = [row for b in indices for row in range(starts[b], starts[b] + SIZES[b])]
    assert torch.equal(part.displacement["pos"], trajectory.displacement["pos"][:, rows])
    assert torch.equal(part.log_prob["pos"], trajectory.log_prob["pos"][:, rows])
    assert torch.equal(part.base_outputs["cell_b"], trajectory.base_outputs["cell_b"][:, indices])
    assert torch.equal(part.log_prob["cell"], trajectory.log_prob["cell"][:, indices])
    assert torch.equal(part.states()[0], trajectory.states()[0][:, rows])
    assert torch.equal(part.final().cell, trajectory.final().cell[indices])


@pytest.mark.parametrize("active", [("pos",), ("pos", "cell")])
def test_cat_inverts_select(active):
    trajectory = sample(active)
    parts = [trajectory.select(torch.tensor([b])) for b in range(3)]
    assert equal(Trajectory.cat(parts), trajectory)


def test_rollouts_record_no_graph():
    trajectory = sample()
    for fields in (trajectory.displacement, trajectory.log_prob, trajectory.base_outputs):
        assert not any(v.requires_grad for v in fields.values())


def test_all_of_a_trajectory_moves_to_a_device():
    trajectory = sample()
    assert trajectory.to("cpu") is trajectory
    moved = trajectory.to("meta")
    fields = (moved.displacement, moved.log_prob, moved.base_outputs)
    tensors = [moved.times, moved.x_0.pos, moved.x_0.species, *(value for field in fields for value in field.values())]
    assert len(tensors) == 9
    assert {tensor.device.type for tensor in tensors} == {"meta"}
    assert moved.displacement["cell"].shape == trajectory.displacement["cell"].shape
