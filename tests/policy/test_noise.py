"""Noise schedules."""

from __future__ import annotations

import math

import pytest
import torch
from pydantic import ValidationError

from omatg_ray.errors import TrainingError
from omatg_ray.policy.drift import Velocity
from omatg_ray.policy.noise import LearnedNoise
from omatg_ray.policy.policy import Policy, draw_noise
from omatg_ray.policy.settings import NoiseSettings
from omatg_ray.rl.rollout import rollout
from tests.small import random_crystals, small_network

TIMES = torch.tensor([0.001, 0.2, 0.5, 0.999], dtype=torch.float64)


def test_constant():
    sigma = NoiseSettings(kind="constant", a=0.3).sigma(TIMES)
    assert sigma.tolist() == [0.3] * 4 and sigma.dtype == TIMES.dtype


def test_sqrt():
    sigma = NoiseSettings(kind="sqrt", a=0.1668).sigma(TIMES)
    assert sigma.tolist() == pytest.approx([0.1668 * 999**0.5, 0.1668 * 2, 0.1668, 0.1668 / 999**0.5])


@pytest.mark.parametrize("values", [{"a": 0.0}, {"a": -1.0}, {"a": float("nan")}, {"kind": "linear"}, {"b": 1.0}])
def test_refused(values):
    with pytest.raises(ValidationError):
        NoiseSettings(**values)


def test_learned_noise_starts_as_it_is_told():
    noise = LearnedNoise(NoiseSettings(kind="learned", a=0.3, hidden=8, layers=1)).double()
    torch.testing.assert_close(noise.sigma(TIMES), torch.full_like(TIMES, 0.3))
    assert noise.sigma(TIMES[:, None, None]).shape == (4, 1, 1) and noise.sigma(TIMES[0]).shape == ()
    # The output layer is zero and still learns.
    noise.sigma(TIMES).sum().backward()
    assert float(noise.mlp[-1].weight.grad.abs().max()) > 0


def test_learned_noise_is_softplus_of_its_network():
    noise = LearnedNoise(NoiseSettings(kind="learned", a=0.3, hidden=8, layers=1)).double()
    with torch.no_grad():
        noise.mlp[-1].bias.fill_(2.0)
    expected = 0.3 + math.log1p(math.exp(2.0)) - math.log(2.0)
    assert noise.sigma(TIMES).tolist() == pytest.approx([expected] * 4)


def test_noise_that_learned_to_vanish_is_refused():
    noise = LearnedNoise(NoiseSettings(kind="learned", a=0.3, hidden=8, layers=1)).double()
    with torch.no_grad():
        noise.mlp[-1].bias.fill_(-5.0)
    network = small_network()
    policy = Policy(Velocity(), network, network, ("pos",), {"pos": noise})
    with pytest.raises(TrainingError, match="objective.entropy_weight.pos"):
        rollout(policy, random_crystals([2]), TIMES, draw_noise(random_crystals([2]), 4, [1], ("pos",)))
