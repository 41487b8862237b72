"""How far bfloat16 moves the steps of a policy."""

from __future__ import annotations

import pytest
import torch

from omatg_ray.crystal.fields import displace
from omatg_ray.policy.annealing import LearnedAnnealing, LearnedSchedule
from omatg_ray.policy.drift import Scale
from omatg_ray.policy.policy import Policy, draw_noise
from omatg_ray.policy.precision import shifts
from tests.small import NOISE, random_crystals, small_network, velocity_policy

SIZES, STEPS, SEEDS = [3, 1, 4], 6, [5, 6, 7]


@torch.no_grad()
def test_shifts_are_measured_against_the_noise():
    network = small_network(0, torch.float32)
    policy = velocity_policy(network, small_network(1, torch.float32))
    x_0 = random_crystals(SIZES, dtype=torch.float32)
    noise, times = draw_noise(x_0, STEPS, SEEDS, policy.active), policy.times(STEPS)
    state, errors, spreads = x_0, {"pos": 0.0, "cell": 0.0}, {"pos": 0.0, "cell": 0.0}
    for k, dt in enumerate(times.diff()):
        t = times[k]
        exact, coarse = network(state, t), network(state, t, "bfloat16")
        added = {
            "pos": 0.1668 * ((1 - t) / t * dt).sqrt() * noise["pos"][k],
            "cell": 0.2 * dt.sqrt() * noise["cell"][k],
        }
        moved = {}
        for field, ours, theirs in (("pos", exact.pos_b, coarse.pos_b), ("cell", exact.cell_b, coarse.cell_b)):
            errors[field] += float(((ours - theirs) * dt).square().sum())
            spreads[field] += float(added[field].square().sum())
            moved[field] = ours * dt + added[field]
        state = displace(state, moved)
    found = shifts(policy, "bfloat16", x_0, STEPS, SEEDS)
    for field in ("pos", "cell"):
        expected = (errors[field] / spreads[field]) ** 0.5
        assert found[field] == pytest.approx(expected, rel=5e-3) and found[field] > 0
    assert shifts(policy, "float32", x_0, STEPS, SEEDS) == {"pos": 0.0, "cell": 0.0}


def test_less_noise_makes_the_same_errors_larger():
    networks = small_network(0, torch.float32), small_network(1, torch.float32)
    x_0 = random_crystals(SIZES, dtype=torch.float32)
    much = velocity_policy(*networks)
    little = {field: settings.model_copy(update={"a": settings.a / 100}) for field, settings in NOISE.items()}
    found = [shifts(velocity_policy(*networks, noise=n), "bfloat16", x_0, STEPS, SEEDS) for n in (NOISE, little)]
    assert much.precision == "float32"
    for field in ("pos", "cell"):
        assert 50 < found[1][field] / found[0][field] < 200


def test_of_a_learned_schedule_they_are_measured_on_what_it_moves():
    base = small_network(1, torch.float32)
    schedule = LearnedAnnealing(LearnedSchedule(fields=["pos", "cell"]))
    policy = Policy(Scale(schedule), base, base, ["pos", "cell"], NOISE)
    found = shifts(policy, "bfloat16", random_crystals(SIZES, dtype=torch.float32), STEPS, SEEDS)
    assert all(0 < shift < 0.2 for shift in found.values())
