"""Drifts: what each variant makes of a network's outputs."""

from __future__ import annotations

import math

import pytest
import torch

from omatg_ray.policy.drift import Annealed, Scale, Score, Velocity
from omatg_ray.policy.hand_made import LinearSchedule
from omatg_ray.policy.schedule import LearnedSchedule
from omatg_ray.policy.settings import LearnedScheduleSettings, NoiseSettings
from tests.small import random_crystals

CRYSTALS = random_crystals([3, 1])
TIMES = torch.tensor([0.2, 0.7], dtype=torch.float64)


def outputs():
    rng = torch.Generator().manual_seed(0)
    rows = {"pos": (4, 3), "cell": (2, 3, 3)}
    return {
        f"{field}_{kind}": torch.randn(*rows[field], generator=rng, dtype=torch.float64)
        for field in rows
        for kind in ("b", "eta")
    }


def test_velocity_is_that_of_the_network():
    given, drift = outputs(), Velocity()
    for field in ("pos", "cell"):
        assert drift.outputs(field) == (f"{field}_b",)
        assert torch.equal(drift.rate(field, given, TIMES, CRYSTALS), given[f"{field}_b"])
    assert not drift.per_structure and drift.trained() == []


def test_annealing_gives_every_structure_the_factor_of_its_time():
    given, plain = outputs(), Velocity()
    annealed = Annealed(plain, LinearSchedule(pos=5.0, cell=-0.5))
    pos_factor = torch.tensor([[2.0]] * 3 + [[4.5]], dtype=torch.float64)
    cell_factor = torch.tensor([[[0.9]], [[0.65]]], dtype=torch.float64)
    torch.testing.assert_close(annealed.rate("pos", given, TIMES, CRYSTALS), pos_factor * given["pos_b"])
    torch.testing.assert_close(annealed.rate("cell", given, TIMES, CRYSTALS), cell_factor * given["cell_b"])
    at_once = annealed.rate("pos", given, TIMES[0], CRYSTALS)
    torch.testing.assert_close(at_once, 2.0 * given["pos_b"])


def test_score_subtracts_the_denoiser_with_its_weight():
    noise = {"pos": NoiseSettings(kind="sqrt", a=0.3), "cell": NoiseSettings(kind="constant", a=0.5)}
    gamma = {"pos": lambda t: (0.2 * t * (1 - t)).sqrt(), "cell": lambda t: 2.0 + t}
    given, drift = outputs(), Score(noise, gamma)
    assert drift.outputs("cell") == ("cell_b", "cell_eta")
    for b, t in enumerate(TIMES.tolist()):
        atoms = slice(0, 3) if b == 0 else slice(3, 4)
        pos = 0.09 * (1 - t) / t / (2 * math.sqrt(0.2 * t * (1 - t)))
        cell = 0.25 / (2 * (2 + t))
        for field, rows, weight in (("pos", atoms, pos), ("cell", slice(b, b + 1), cell)):
            expected = given[f"{field}_b"][rows] - weight * given[f"{field}_eta"][rows]
            torch.testing.assert_close(drift.rate(field, given, TIMES, CRYSTALS)[rows], expected)


@pytest.mark.parametrize("t", [TIMES, TIMES[1]])
def test_scale_is_one_number_for_each_structure(t):
    drift = Scale(LinearSchedule(pos=2.0, cell=1.0))
    assert drift.per_structure and drift.outputs("pos") == ()
    torch.testing.assert_close(drift.rate("pos", {}, t, CRYSTALS), (1 + 2 * t).expand(2))
    assert Scale(None).rate("cell", {}, t, CRYSTALS).tolist() == [1.0, 1.0]


def test_only_a_trained_schedule_has_weights():
    schedule = LearnedSchedule(LearnedScheduleSettings(hidden=4, layers=1, fields=["pos"]))
    assert len(Scale(schedule).trained()) == len(list(schedule.parameters())) > 0
    assert Annealed(Velocity(), schedule).trained() == []
    assert Scale(LinearSchedule()).trained() == [] and Scale(None).trained() == []
