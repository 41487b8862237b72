"""Densities and divergences against torch.distributions."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import Normal
from torch.distributions import kl_divergence as reference_kl

from omatg_ray.policy.gaussian import kl_divergence, log_density, noise_log_density


def draw(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def test_log_density():
    action, mean = draw(2, 5, 3)
    variance = torch.rand(5, 1, dtype=torch.float64) + 0.01
    expected = Normal(mean, variance.sqrt()).log_prob(action)
    torch.testing.assert_close(log_density(action, mean, variance), expected)
    noise = (action - mean) / variance.sqrt()
    torch.testing.assert_close(noise_log_density(noise, variance), expected)


def test_kl_divergence():
    rate, base_rate = draw(2, 6, 3)
    sigma, sigma_ref = (torch.rand(6, 1, dtype=torch.float64) + 0.1 for _ in range(2))
    dt = torch.rand(6, 1, dtype=torch.float64) * 0.1 + 0.01
    policy = Normal(rate * dt, sigma * dt.sqrt())
    reference = Normal(base_rate * dt, sigma_ref * dt.sqrt())
    expected = reference_kl(policy, reference)
    torch.testing.assert_close(kl_divergence(rate - base_rate, sigma, sigma_ref, dt), expected)
    assert bool((expected >= 0).all())


def test_kl_of_equal_policies_is_zero():
    sigma = torch.tensor([0.005, 0.3, 5.0])
    assert torch.equal(kl_divergence(torch.zeros(3), sigma, sigma, torch.tensor(0.02)), torch.zeros(3))


def test_kl_equals_the_mean_log_ratio():
    rate, sigma, sigma_ref, dt = (torch.tensor(v, dtype=torch.float64) for v in (0.8, 0.3, 0.4, 0.05))
    action = rate * dt + sigma * dt.sqrt() * draw(200_000)
    ratio = log_density(action, rate * dt, sigma.square() * dt) - log_density(action, 0 * dt, sigma_ref.square() * dt)
    expected = float(kl_divergence(rate, sigma, sigma_ref, dt))
    assert float(ratio.mean()) == pytest.approx(expected, abs=5 * float(ratio.std()) / 200_000**0.5)
