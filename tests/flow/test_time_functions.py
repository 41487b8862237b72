"""γ, ε and τ: values, ends and derivatives."""

from __future__ import annotations

import math

import pytest
import torch

from omatg_ray.flow.time_functions import ConstantEpsilon, EncoderDecoderGamma, LinearTau, SqrtGamma, VanishingEpsilon
from tests.flow.families import GAMMAS


@pytest.mark.parametrize("name", GAMMAS)
def test_zero_at_the_ends_and_positive_between_them(name):
    t = torch.linspace(0.0, 1.0, 101, dtype=torch.float64)
    values = GAMMAS[name].value(t)
    assert float(values[[0, -1]].abs().max()) < 1e-15
    assert bool((values[1:-1] > 0).all())


@pytest.mark.parametrize("name", GAMMAS)
def test_derivative(name):
    t = torch.linspace(0.01, 0.99, 33, dtype=torch.float64, requires_grad=True)
    (expected,) = torch.autograd.grad(GAMMAS[name].value(t).sum(), t)
    torch.testing.assert_close(GAMMAS[name].derivative(t).detach(), expected, atol=1e-12, rtol=1e-12)


def test_largest_values():
    assert float(SqrtGamma(a=0.36).value(torch.tensor(0.5))) == pytest.approx(0.3)
    gamma = EncoderDecoderGamma(a=0.36, switch_time=0.7, power=1.5)
    assert float(gamma.value(torch.tensor(0.7, dtype=torch.float64))) == pytest.approx(0.6)
    quarter = EncoderDecoderGamma().value(torch.tensor(0.25, dtype=torch.float64))
    assert float(quarter) == pytest.approx(math.sin(math.pi / 4) ** 2)


def test_a_pair_is_needed_where_the_derivative_has_no_bound():
    t = torch.tensor([1e-4, 1e-8], dtype=torch.float64)
    for gamma in GAMMAS.values():
        first, second = gamma.derivative(t).abs().tolist()
        assert gamma.antithetic == (second > 10 * first)


def test_constant_epsilon():
    assert ConstantEpsilon(c=2.5).value(torch.tensor([0.0, 0.3, 1.0])).tolist() == [2.5, 2.5, 2.5]


def test_vanishing_epsilon_is_on_inside_half_at_mu_and_off_at_the_ends():
    epsilon = VanishingEpsilon(c=4.0, mu=0.2, width=0.01)
    values = epsilon.value(torch.tensor([0.0, 0.2, 0.5, 0.8, 1.0], dtype=torch.float64)).tolist()
    assert values[0] == pytest.approx(0.0, abs=1e-8)
    assert values[4] == pytest.approx(0.0, abs=1e-8)
    assert values[1:4] == pytest.approx([2.0, 4.0, 2.0])


def test_vanishing_epsilon_is_a_product_of_two_fermi_functions():
    t = torch.rand(9, dtype=torch.float64)
    fermi = 1 / (1 + torch.exp(-(t - 0.3) / 0.2)) / (1 + torch.exp(-(0.7 - t) / 0.2))
    torch.testing.assert_close(VanishingEpsilon(c=1.5, mu=0.3, width=0.2).value(t), 1.5 * fermi)


def test_no_overflow_of_epsilon_in_float32():
    values = VanishingEpsilon(c=9.4, mu=0.197, width=0.001).value(torch.tensor([0.001, 0.5, 0.999]))
    assert bool(torch.isfinite(values).all())


def test_the_noise_of_a_diffusion():
    t = torch.tensor([0.0, 0.3, 1.0])
    assert torch.equal(ConstantEpsilon(c=4.5).sigma(t), torch.full_like(t, 3.0))
    epsilon = VanishingEpsilon(c=2.0)
    torch.testing.assert_close(epsilon.sigma(t), (2.0 * epsilon.value(t)).sqrt())


def test_tau_solves_the_diffusion_with_a_linear_noise_schedule():
    # Backwards in s = −ln t from the data, the amplitude obeys dτ/ds = −β(s) τ / 2 with β = β_min + (β_max − β_min) s.
    tau, s, ds = 1.0, 0.0, 1e-4
    while s < 0.5:
        middle = s + ds / 2
        tau *= math.exp(-ds * (0.3 + (4.0 - 0.3) * middle) / 2)
        s += ds
    value = LinearTau(beta_min=0.3, beta_max=4.0).value(torch.tensor(math.exp(-s), dtype=torch.float64))
    assert float(value) == pytest.approx(tau, rel=1e-6)
