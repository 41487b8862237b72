"""How far bfloat16 moves the actions of a policy."""

from __future__ import annotations

import pytest
import torch

from omatg_ray.crystal.fields import displace
from omatg_ray.policy.drift import Scale
from omatg_ray.policy.policy import Policy, draw_noise
from omatg_ray.policy.precision import Shift, has_bfloat16, shifts
from omatg_ray.policy.schedule import LearnedSchedule
from omatg_ray.policy.settings import LearnedScheduleSettings
from tests.small import NOISE, random_crystals, small_network, velocity_policy

SIZES, STEPS, SEEDS = [3, 1, 4], 6, [5, 6, 7]


@torch.no_grad()
def test_shifts_are_in_units_of_the_standard_deviation_step_by_step():
    """Square-root noise is 30 times as strong at the start: all of the shift is at the end."""
    network = small_network(0, torch.float32)
    policy = velocity_policy(network, small_network(1, torch.float32))
    x_0 = random_crystals(SIZES, dtype=torch.float32)
    noise, times = draw_noise(x_0, STEPS, SEEDS, policy.active), policy.times(STEPS)
    state, expected = x_0, {"pos": [], "cell": []}
    for k, dt in enumerate(times.diff()):
        t = times[k]
        exact, coarse = network(state, t), network(state, t, "bfloat16")
        deviation = {"pos": 0.1668 * ((1 - t) / t * dt).sqrt(), "cell": 0.2 * dt.sqrt()}
        moved = {}
        for field, ours, theirs in (("pos", exact.pos_b, coarse.pos_b), ("cell", exact.cell_b, coarse.cell_b)):
            standardised = (ours - theirs) * dt / deviation[field]
            expected[field].append(float(standardised.square().mean()))
            moved[field] = ours * dt + deviation[field] * noise[field][k]
        state = displace(state, moved)
    found = shifts(policy, "bfloat16", x_0, STEPS, SEEDS)
    for field, squares in expected.items():
        rms, worst = (sum(squares) / len(squares)) ** 0.5, max(squares) ** 0.5
        # Displacements of the first steps are large beside what they differ by, in float32.
        assert found[field].rms == pytest.approx(rms, rel=0.02) and rms > 0
        assert found[field].worst == pytest.approx(worst, rel=0.02)
        assert found[field].t == pytest.approx(float(times[squares.index(max(squares))]))
    assert found["pos"].t == pytest.approx(float(times[-2]))
    assert {(shift.rms, shift.worst) for shift in shifts(policy, "float32", x_0, STEPS, SEEDS).values()} == {(0.0, 0.0)}


def test_less_noise_makes_the_same_errors_larger():
    networks = small_network(0, torch.float32), small_network(1, torch.float32)
    x_0 = random_crystals(SIZES, dtype=torch.float32)
    little = {field: settings.model_copy(update={"a": settings.a / 100}) for field, settings in NOISE.items()}
    found = [shifts(velocity_policy(*networks, noise=n), "bfloat16", x_0, STEPS, SEEDS) for n in (NOISE, little)]
    for field in ("pos", "cell"):
        assert 50 < found[1][field].rms / found[0][field].rms < 200


def test_only_some_steps_of_long_trajectories_are_compared(monkeypatch):
    policy = velocity_policy(small_network(0, torch.float32), small_network(1, torch.float32))
    asked = []
    step = Policy.step
    monkeypatch.setattr(Policy, "step", lambda self, *a, **k: asked.append(self.precision) or step(self, *a, **k))
    found = shifts(policy, "bfloat16", random_crystals(SIZES, dtype=torch.float32), 41, SEEDS)
    assert asked.count("float32") == 40 and asked.count("bfloat16") == 10 and asked[-1] == "bfloat16"
    assert isinstance(found["pos"], Shift) and found["pos"].rms > 0


def test_of_a_learned_schedule_they_are_those_of_what_its_actions_move():
    base = small_network(1, torch.float32)
    schedule = LearnedSchedule(LearnedScheduleSettings(fields=["pos", "cell"]))
    policy = Policy(Scale(schedule), base, base, ["pos", "cell"], NOISE)
    x_0 = random_crystals(SIZES, dtype=torch.float32)
    found = shifts(policy, "bfloat16", x_0, 2, SEEDS)
    t, (dt,) = policy.times(2)[0], policy.times(2).diff()
    noise = draw_noise(x_0, 2, SEEDS, ("pos", "cell"), per_structure=True)["cell"][0]
    with torch.no_grad():
        exact, coarse = base(x_0, t).cell_b, base(x_0, t, "bfloat16").cell_b
    action = dt + policy.noise["cell"].sigma(t) * dt.sqrt() * noise
    error = (coarse - exact) * action[:, None, None]
    spread = exact.square() * policy.noise["cell"].sigma(t).square() * dt
    assert found["cell"].rms == pytest.approx(float(error.square().sum() / spread.sum()) ** 0.5, rel=0.02)


def test_bfloat16_is_had_where_an_instruction_multiplies_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for capabilities, expected in (
        ({"avx2": True, "avx512_bf16": False}, False),
        ({"neon": True}, False),
        ({"avx512_bf16": True}, True),
        ({"avx512_bf16": False, "amx_bf16": True}, True),
    ):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda capabilities=capabilities: capabilities)
        assert has_bfloat16(torch.device("cpu")) is expected
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5) if device.index else (8, 0))
    assert has_bfloat16(torch.device("cuda:0")) and not has_bfloat16(torch.device("cuda:1"))
    assert not has_bfloat16(torch.device("mps"))
