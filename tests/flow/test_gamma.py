"""γ: values, ends and derivatives."""

from __future__ import annotations

import math

import pytest
import torch

from omatg_ray.flow.gamma import EncoderDecoderGamma, SqrtGamma
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
