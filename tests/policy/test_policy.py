"""The step policy: displacements, which networks run, noise, symmetries."""

from __future__ import annotations

import pytest
import torch

from omatg_ray.crystal.fields import displace
from omatg_ray.errors import ModelError
from omatg_ray.policy.drift import Annealed, Scale, Score, Velocity
from omatg_ray.policy.grid import time_grid
from omatg_ray.policy.hand_made import LinearSchedule
from omatg_ray.policy.noise import LearnedNoise
from omatg_ray.policy.policy import Policy, draw_noise
from omatg_ray.policy.schedule import LearnedSchedule
from omatg_ray.policy.settings import LearnedScheduleSettings, NoiseSettings
from tests.small import NOISE, random_crystals, small_network, velocity_policy

SIZES = [3, 1, 4]
T, DT = torch.tensor(0.4, dtype=torch.float64), torch.tensor(0.05, dtype=torch.float64)
ACTIVE = [("pos",), ("cell",), ("pos", "cell"), ()]


class Counting:
    """A network that remembers which outputs it was asked for, call by call."""

    def __init__(self, network) -> None:
        self.network = network
        self.calls: list[set[str]] = []

    def __call__(self, crystals, t, precision):
        self.calls.append(set())
        return _Asked(self.network(crystals, t, precision), self.calls[-1])


class _Asked:
    def __init__(self, out, asked: set[str]) -> None:
        self._out, self._asked = out, asked

    def __getattr__(self, name):
        self._asked.add(name)
        return getattr(self._out, name)


def noise_of(crystals, fields, steps=2):
    return {
        field: v.to(crystals.dtype) for field, v in draw_noise(crystals, steps, range(len(crystals)), fields).items()
    }


def test_time_grid():
    grid = time_grid(50)
    assert len(grid) == 50 and grid.dtype == torch.float32
    assert float(grid[0]) == pytest.approx(1e-3) and float(grid[-1]) == pytest.approx(0.999)
    assert float(grid.diff().max() - grid.diff().min()) < 1e-6
    with pytest.raises(ModelError, match="at least 2"):
        time_grid(1)


@pytest.mark.parametrize("schedule", [None, LinearSchedule(pos=3.0, cell=0.5)])
@pytest.mark.parametrize("active", ACTIVE)
@torch.no_grad()
def test_displacements_follow_the_equations(active, schedule):
    network, base, crystals = small_network(0), small_network(1), random_crystals(SIZES)
    policy = velocity_policy(network, base, active, schedule=schedule)
    noise = {field: v[0] for field, v in noise_of(crystals, active).items()}
    step = policy.step(crystals, T, DT, noise, with_base=True)
    sigma = {"pos": 0.1668 * (0.6 / 0.4) ** 0.5, "cell": 0.2}
    factor = {"pos": 1 + 3.0 * 0.4, "cell": 1 + 0.5 * 0.4} if schedule else {"pos": 1.0, "cell": 1.0}
    outputs, base_outputs = (
        {"pos": out.pos_b, "cell": out.cell_b} for out in (network(crystals, T), base(crystals, T))
    )
    for field in ("pos", "cell"):
        if field in active:
            expected = factor[field] * outputs[field] * 0.05 + sigma[field] * 0.05**0.5 * noise[field]
            torch.testing.assert_close(step.base_outputs[f"{field}_b"], base_outputs[field])
        else:
            expected = factor[field] * base_outputs[field] * 0.05
            assert f"{field}_b" not in step.base_outputs
        torch.testing.assert_close(step.displacement[field], expected)


@pytest.mark.parametrize(
    "active, with_base, policy_calls, base_calls",
    [
        (("pos", "cell"), False, [{"pos_b", "cell_b"}], []),
        (("pos", "cell"), True, [{"pos_b", "cell_b"}], [{"pos_b", "cell_b"}]),
        (("pos",), False, [{"pos_b"}], [{"cell_b"}]),
        (("pos",), True, [{"pos_b"}], [{"pos_b", "cell_b"}]),
        (("cell",), False, [{"cell_b"}], [{"pos_b"}]),
        ((), False, [], [{"pos_b", "cell_b"}]),
    ],
)
def test_networks_run_only_where_they_are_needed(active, with_base, policy_calls, base_calls):
    network, base = Counting(small_network(0)), Counting(small_network(1))
    policy = velocity_policy(network, base, active)
    crystals = random_crystals(SIZES)
    policy.step(crystals, T, DT, {}, with_base)
    assert network.calls == policy_calls and base.calls == base_calls


def test_without_noise_the_policy_is_the_euler_sampler():
    network, crystals = small_network(), random_crystals(SIZES)
    policy = velocity_policy(network, small_network(1))
    times = time_grid(7).double()
    state = crystals
    with torch.no_grad():
        for k in range(6):
            out, dt = network(state, times[k]), times[k + 1] - times[k]
            state = state.replace((state.pos + out.pos_b * dt) % 1.0, state.cell + out.cell_b * dt)
    final = policy.integrate(crystals, times)
    torch.testing.assert_close(final.pos, state.pos, atol=1e-12, rtol=0)
    torch.testing.assert_close(final.cell, state.cell, atol=1e-12, rtol=0)


@pytest.mark.parametrize("active", [("pos", "cell"), ("pos",)])
def test_a_policy_that_acts_later_is_its_base_until_then(active):
    """Bit for bit, with noise or without; from then on its steps are those of a policy that always acts."""
    network, base, crystals, times = small_network(0), small_network(1), random_crystals(SIZES), time_grid(10).double()
    gated = velocity_policy(network, base, active, acts_from=0.6)
    always, frozen = velocity_policy(network, base, active), velocity_policy(network, base, ())
    assert gated.first_step(times) == 6 and float(times[6]) == pytest.approx(0.6663, abs=1e-4)
    noise = noise_of(crystals, active, steps=10)
    state = crystals
    with torch.no_grad():
        for k, dt in enumerate(times.diff()):
            drawn = {field: values[k] for field, values in noise.items()}
            found = gated.step(state, times[k], dt, drawn).displacement
            expected = always.step(state, times[k], dt, drawn) if k >= 6 else frozen.step(state, times[k], dt, {})
            other = always.step(state, times[k], dt, drawn) if k < 6 else frozen.step(state, times[k], dt, {})
            for field in ("pos", "cell"):
                assert torch.equal(found[field], expected.displacement[field])
            assert not torch.equal(found["pos"], other.displacement["pos"])
            state = displace(state, found)
    assert torch.equal(gated.integrate(crystals, times, noise).pos, state.pos)


@pytest.mark.parametrize("active", [("pos", "cell"), ("pos",)])
@pytest.mark.parametrize("schedule", [None, LinearSchedule(pos=3.0, cell=0.5)])
@torch.no_grad()
def test_guidance_weighs_what_the_policy_changes(active, schedule):
    """b⁰ + w (b − b⁰) structure by structure, noise apart; frozen fields, and steps before it acts, are the base's."""
    network, base, crystals = small_network(0), small_network(1), random_crystals(SIZES)
    weights = torch.tensor([0.0, 1.0, 2.5], dtype=torch.float64)
    policy = velocity_policy(network, base, active, schedule=schedule, acts_from=0.3)
    noise = {field: v[0] for field, v in noise_of(crystals, active).items()}
    guided, plain, reference = (
        each.step(crystals, T, DT, noise if each is not frozen else {}).displacement
        for frozen in [velocity_policy(network, base, (), schedule=schedule)]
        for each in (policy.guided(weights), policy, frozen)
    )
    of_noise = {"pos": 0.1668 * 1.5**0.5, "cell": 0.2}
    for field in ("pos", "cell"):
        w = weights[crystals.batch][:, None] if field == "pos" else weights[:, None, None]
        drawn = of_noise[field] * 0.05**0.5 * noise[field] if field in active else torch.zeros(())
        expected = reference[field] + drawn + w * (plain[field] - drawn - reference[field])
        torch.testing.assert_close(guided[field], expected if field in active else reference[field])
    early = torch.tensor(0.2, dtype=torch.float64)
    assert torch.equal(
        policy.guided(weights).step(crystals, early, DT, noise).displacement["pos"],
        policy.step(crystals, early, DT, noise).displacement["pos"],
    )
    assert policy.guidance is None


def test_a_grid_point_at_the_time_to_act_is_one_that_acts():
    times = time_grid(10)
    policies = [velocity_policy(small_network(), small_network(1), acts_from=float(times[k])) for k in range(9)]
    assert [policy.first_step(times) for policy in policies] == list(range(9))
    never = velocity_policy(small_network(), small_network(1), acts_from=0.9)
    assert never.first_step(times) == 9


def test_noise_has_its_scale():
    crystals = random_crystals([20] * 10)
    policy = velocity_policy(small_network(), small_network(1))
    noise = {field: v[0] for field, v in noise_of(crystals, ("pos", "cell")).items()}
    with torch.no_grad():
        noisy, plain = (policy.step(crystals, T, DT, n).displacement for n in (noise, {}))
    for field, sigma in (("pos", 0.1668 * 1.5**0.5), ("cell", 0.2)):
        spread = float((noisy[field] - plain[field]).std())
        assert spread == pytest.approx(sigma * 0.05**0.5, rel=0.2)


def test_noise_of_a_structure_does_not_depend_on_its_neighbours():
    crystals = random_crystals(SIZES)
    together = draw_noise(crystals, 6, [11, 12, 13], ("pos", "cell"))
    alone = draw_noise(crystals.select([2]), 6, [13], ("pos", "cell"))
    assert torch.equal(together["pos"][:, 4:], alone["pos"])
    assert torch.equal(together["cell"][:, 2:], alone["cell"])
    assert together["pos"].shape == (5, 8, 3) and together["cell"].shape == (5, 3, 3, 3)
    only = draw_noise(crystals, 6, [11, 12, 13], ("cell",))
    assert set(only) == {"cell"} and torch.equal(only["cell"], together["cell"])


def test_noise_is_standard_normal_and_differs_between_fields_steps_and_structures():
    crystals = random_crystals([20] * 20)
    noise = draw_noise(crystals, 11, range(20), ("pos", "cell"))
    values = noise["pos"].flatten()
    assert abs(float(values.mean())) < 5 / len(values) ** 0.5
    assert abs(float(values.std()) - 1) < 5 / (2 * len(values)) ** 0.5
    assert len(values.unique()) > 0.99 * len(values)
    assert not torch.equal(noise["pos"][:, :3].flatten()[:9], noise["cell"][:, 0].flatten()[:9])


def test_integration_commutes_with_translations():
    crystals = random_crystals(SIZES)
    policy = velocity_policy(small_network(), small_network(1))
    noise = noise_of(crystals, ("pos", "cell"), steps=8)
    shift = torch.tensor([0.3, 0.55, 0.9], dtype=torch.float64)
    moved = crystals.replace(pos=(crystals.pos + shift) % 1.0)
    before, after = (policy.integrate(x_0, time_grid(8), noise) for x_0 in (crystals, moved))
    difference = (after.pos - before.pos - shift + 0.5) % 1.0 - 0.5
    assert float(difference.abs().max()) < 1e-10
    torch.testing.assert_close(after.cell, before.cell, atol=1e-10, rtol=0)


def test_integrated_positions_are_wrapped():
    crystals = random_crystals([20] * 10, dtype=torch.float32)
    policy = velocity_policy(small_network(dtype=torch.float32), small_network(1, dtype=torch.float32))
    final = policy.integrate(crystals, time_grid(10), draw_noise(crystals, 10, range(10), ("pos", "cell")))
    assert float(final.pos.min()) >= 0 and float(final.pos.max()) < 1


def test_an_active_field_needs_noise():
    network = small_network()
    with pytest.raises(ModelError, match="cell"):
        Policy(Velocity(), network, network, ("pos", "cell"), {"pos": NOISE["pos"]})


# --- other variants ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("active", [("pos",), ("cell",), ("pos", "cell")])
@torch.no_grad()
def test_annealing_scales_the_velocity_of_the_base(active):
    base, crystals = Counting(small_network(1)), random_crystals(SIZES)
    policy = Policy(Scale(LinearSchedule(pos=3.0, cell=0.5)), base, base, active, NOISE)
    noise = draw_noise(crystals, 2, range(3), active, per_structure=True)
    assert {values.shape for values in noise.values()} == {(1, 3)}
    step = policy.step(crystals, T, DT, {field: v[0].double() for field, v in noise.items()})
    assert len(base.calls) == 1
    out = base.network(crystals, T)
    sigma = {"pos": 0.1668 * (0.6 / 0.4) ** 0.5, "cell": 0.2}
    factor = {"pos": 1 + 3.0 * 0.4, "cell": 1 + 0.5 * 0.4}
    assert set(step.action) == set(active)
    for field, velocity in (("pos", out.pos_b), ("cell", out.cell_b)):
        if field not in active:
            torch.testing.assert_close(step.displacement[field], 0.05 * velocity)
            continue
        action = 0.05 * factor[field] + sigma[field] * 0.05**0.5 * noise[field][0].double()
        torch.testing.assert_close(step.action[field], action)
        of_rows = action[crystals.batch, None] if field == "pos" else action[:, None, None]
        torch.testing.assert_close(step.displacement[field], of_rows * velocity)


@torch.no_grad()
def test_a_score_policy_without_noise_follows_the_velocity():
    network, crystals = Counting(small_network()), random_crystals(SIZES)
    gamma = {field: (lambda t: 0.3 * torch.ones_like(t)) for field in ("pos", "cell")}
    policy = Policy(Score(NOISE, gamma), network, small_network(1), ("pos", "cell"), NOISE)
    noise = {field: v[0] for field, v in noise_of(crystals, ("pos",)).items()}
    step = policy.step(crystals, T, DT, noise)
    out = network.network(crystals, T)
    weight = 0.1668**2 * (0.6 / 0.4) / 0.6
    expected = 0.05 * (out.pos_b - weight * out.pos_eta) + 0.1668 * (0.6 / 0.4 * 0.05) ** 0.5 * noise["pos"]
    torch.testing.assert_close(step.displacement["pos"], expected)
    torch.testing.assert_close(step.displacement["cell"], 0.05 * out.cell_b)
    assert network.calls[0] == {"pos_b", "pos_eta", "cell_b"}


def test_velocity_is_what_a_step_without_noise_adds():
    crystals = random_crystals(SIZES)
    policy = velocity_policy(small_network(), small_network(1), ("pos",), schedule=LinearSchedule(pos=2.0, cell=1.0))
    with torch.no_grad():
        velocity, step = policy.velocity(crystals, T), policy.step(crystals, T, DT, {})
    for field in ("pos", "cell"):
        torch.testing.assert_close(0.05 * velocity[field], step.displacement[field])


def test_what_is_trained():
    network, base = small_network(0), small_network(1)
    schedule = LearnedSchedule(LearnedScheduleSettings(hidden=4, layers=1, fields=["pos"]))
    learned = LearnedNoise(NoiseSettings(kind="learned", a=0.3, hidden=4, layers=1))
    noise = {"pos": learned, "cell": NOISE["cell"]}
    of_noise = len(list(learned.parameters()))
    frozen_heads = sum(p.numel() for h in ("type_out", "type_out_2") for p in network.get_submodule(h).parameters())
    scale = Policy(Scale(schedule), base, base, ("pos",), noise).trainable_parameters()
    assert len(scale) == len(list(schedule.parameters())) + of_noise
    both = Policy(Velocity(), network, base, ("pos", "cell"), noise).trainable_parameters()
    gamma = dict.fromkeys(("pos", "cell"), torch.ones_like)
    score = Policy(Score(noise, gamma), network, base, ("pos", "cell"), noise).trainable_parameters()
    # The two bias-free denoiser heads, of positions and lattices.
    assert sum(p.numel() for p in score) - sum(p.numel() for p in both) == 16 * (3 + 9)
    everything = sum(p.numel() for p in network.parameters()) + sum(p.numel() for p in learned.parameters())
    assert everything - sum(p.numel() for p in score) == frozen_heads
    annealed = Policy(Annealed(Velocity(), schedule), network, base, ("pos",), noise, schedule).trainable_parameters()
    assert not {id(p) for p in annealed} & {id(p) for p in schedule.parameters()}
