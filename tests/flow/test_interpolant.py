"""Families of interpolants: end points, derivatives and closed forms; what goes with a path and what does not."""

from __future__ import annotations

import math

import pytest
import torch
from pydantic import ValidationError

from omatg_ray.flow.interpolant import EncoderDecoder, Linear, Mirror, Trigonometric, VarianceExploding
from omatg_ray.flow.time_functions import ConstantEpsilon, LinearTau, SqrtGamma
from tests.flow.families import DIFFUSION, FAMILIES, TRAINABLE

ENDS = torch.tensor([0.0, 1.0], dtype=torch.float64)


@pytest.mark.parametrize("name", ["linear", "trigonometric", "encoder_decoder", "vp_constant", "vp_cosine"])
def test_from_base_to_data(name):
    path = FAMILIES[name]
    alpha, beta = path.weights(ENDS)
    torch.testing.assert_close(alpha, 1 - ENDS, atol=1e-12, rtol=0)
    torch.testing.assert_close(beta, ENDS, atol=1e-12, rtol=0)


def test_ends_of_the_others():
    inside = torch.tensor([1e-6, 1.0], dtype=torch.float64)
    torch.testing.assert_close(FAMILIES["vp_linear"].weights(inside)[1], ENDS, atol=1e-12, rtol=0)
    sigma = torch.tensor([math.sqrt(0.5**2 - 0.005**2), 0.0], dtype=torch.float64)
    torch.testing.assert_close(FAMILIES["ve"].weights(ENDS)[0], sigma, atol=1e-12, rtol=0)
    for path in (FAMILIES["ve"], FAMILIES["mirror"]):
        assert path.weights(ENDS)[1].tolist() == [1.0, 1.0]
    assert FAMILIES["mirror"].weights(ENDS)[0].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("name", FAMILIES)
def test_derivatives(name):
    path = FAMILIES[name]
    t = torch.linspace(0.01, 0.99, 29, dtype=torch.float64, requires_grad=True)
    for weight, rate in zip(path.weights(t), path.rates(t), strict=True):
        # Some weights are constant, and no function of t to autograd.
        (expected,) = torch.autograd.grad((weight + 0.0 * t).sum(), t, retain_graph=True)
        torch.testing.assert_close(rate.detach(), expected, atol=1e-9, rtol=1e-9)


def test_values_at_one_third():
    third = torch.tensor(1 / 3, dtype=torch.float64)
    assert float(Linear().weights(third)[0]) == pytest.approx(2 / 3)
    assert float(Trigonometric().weights(third)[0]) == pytest.approx(math.sqrt(3) / 2)
    assert float(Trigonometric().weights(third)[1]) == pytest.approx(1 / 2)
    assert float(EncoderDecoder().weights(third)[0]) == pytest.approx(math.cos(math.pi / 3) ** 2)
    assert float(EncoderDecoder(switch_time=1 / 4).weights(third)[1]) == pytest.approx(math.cos(0.6 * math.pi) ** 2)


def test_encoder_decoder_forgets_before_it_makes():
    path = EncoderDecoder(switch_time=0.6, power=2.0)
    t = torch.tensor([0.3, 0.6, 0.8], dtype=torch.float64)
    alpha, beta = path.weights(t)
    assert float(alpha[0]) > 0.1 and float(beta[0]) == 0
    assert float(alpha[1]) < 1e-30 and float(beta[1]) == 0
    assert float(alpha[2]) == 0 and float(beta[2]) > 0.1


@pytest.mark.parametrize("name", ["vp_constant", "vp_linear", "vp_cosine"])
def test_variance_is_preserved(name):
    path = FAMILIES[name]
    t = torch.linspace(0.01, 1.0, 17, dtype=torch.float64)
    alpha, beta = path.weights(t)
    torch.testing.assert_close(alpha.square() + beta.square(), torch.ones_like(t))


def test_weight_of_the_gaussian_that_the_denoiser_predicts():
    t = torch.tensor([0.2, 0.5], dtype=torch.float64)
    assert Linear(gamma=SqrtGamma(a=0.36)).latent_scale(t).tolist() == pytest.approx([0.24, 0.3])
    assert Linear(one_sided=True).latent_scale(t).tolist() == pytest.approx([0.8, 0.5])
    for path in DIFFUSION.values():
        assert path.has_denoiser and torch.equal(path.latent_scale(t), path.weights(t)[0])
    assert not any(path.has_denoiser for path in TRAINABLE.values())


def test_what_does_not_go_together():
    with pytest.raises(ValidationError, match="one-sided path takes no gamma"):
        Linear(one_sided=True, gamma=SqrtGamma(a=1.0))
    with pytest.raises(ValidationError, match="needs a denoiser"):
        Mirror(epsilon=ConstantEpsilon(c=1.0))
    with pytest.raises(ValidationError, match=r"sigma_max must be larger than sigma_min = 0\.5, not 0\.5"):
        VarianceExploding(sigma_min=0.5, sigma_max=0.5)
    with pytest.raises(ValidationError, match=r"beta_max must be larger than beta_min = 2\.0, not 1\.0"):
        LinearTau(beta_min=2.0, beta_max=1.0)
    with pytest.raises(ValidationError, match="one_sided"):
        VarianceExploding(sigma_min=0.1, sigma_max=0.5, one_sided=False)
    with pytest.raises(ValidationError, match="power"):
        EncoderDecoder(power=0.4)
