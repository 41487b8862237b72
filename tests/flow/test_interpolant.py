"""Families of interpolants: end points, derivatives and closed forms; what goes with a path and what does not."""

from __future__ import annotations

import math

import pytest
import torch
from pydantic import ValidationError

from omatg_ray.errors import ModelError
from omatg_ray.flow.epsilon import ConstantEpsilon
from omatg_ray.flow.gamma import SqrtGamma
from omatg_ray.flow.interpolant import EncoderDecoder, Linear, Mirror, Trigonometric, VarianceExploding
from omatg_ray.flow.tau import LinearTau
from tests.flow.families import DIFFUSION, FAMILIES, TRAINABLE

ENDS = torch.tensor([0.0, 1.0], dtype=torch.float64)


@pytest.mark.parametrize("name", ["linear", "trigonometric", "encoder_decoder", "vp_constant", "vp_cosine"])
def test_from_base_to_data(name):
    path = FAMILIES[name]
    torch.testing.assert_close(path.alpha(ENDS), 1 - ENDS, atol=1e-12, rtol=0)
    torch.testing.assert_close(path.beta(ENDS), ENDS, atol=1e-12, rtol=0)


def test_ends_of_the_others():
    inside = torch.tensor([1e-6, 1.0], dtype=torch.float64)
    torch.testing.assert_close(FAMILIES["vp_linear"].beta(inside), ENDS, atol=1e-12, rtol=0)
    sigma = torch.tensor([math.sqrt(0.5**2 - 0.005**2), 0.0], dtype=torch.float64)
    torch.testing.assert_close(FAMILIES["ve"].alpha(ENDS), sigma, atol=1e-12, rtol=0)
    for path in (FAMILIES["ve"], FAMILIES["mirror"]):
        assert path.beta(ENDS).tolist() == [1.0, 1.0]
    assert FAMILIES["mirror"].alpha(ENDS).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("name", FAMILIES)
def test_derivatives(name):
    path = FAMILIES[name]
    t = torch.linspace(0.01, 0.99, 29, dtype=torch.float64, requires_grad=True)
    for value, derivative in ((path.alpha, path.alpha_dot), (path.beta, path.beta_dot)):
        # Some weights are constant, and no function of t to autograd.
        (expected,) = torch.autograd.grad((value(t) + 0.0 * t).sum(), t)
        torch.testing.assert_close(derivative(t).detach(), expected, atol=1e-9, rtol=1e-9)


def test_values_at_one_third():
    third = torch.tensor(1 / 3, dtype=torch.float64)
    assert float(Linear().alpha(third)) == pytest.approx(2 / 3)
    assert float(Trigonometric().alpha(third)) == pytest.approx(math.sqrt(3) / 2)
    assert float(Trigonometric().beta(third)) == pytest.approx(1 / 2)
    assert float(EncoderDecoder().alpha(third)) == pytest.approx(math.cos(math.pi / 3) ** 2)
    assert float(EncoderDecoder(switch_time=1 / 4).beta(third)) == pytest.approx(math.cos(0.6 * math.pi) ** 2)


def test_encoder_decoder_forgets_before_it_makes():
    path = EncoderDecoder(switch_time=0.6, power=2.0)
    t = torch.tensor([0.3, 0.6, 0.8], dtype=torch.float64)
    alpha, beta = path.alpha(t), path.beta(t)
    assert float(alpha[0]) > 0.1 and float(beta[0]) == 0
    assert float(alpha[1]) < 1e-30 and float(beta[1]) == 0
    assert float(alpha[2]) == 0 and float(beta[2]) > 0.1


@pytest.mark.parametrize("name", ["vp_constant", "vp_linear", "vp_cosine"])
def test_variance_is_preserved(name):
    path = FAMILIES[name]
    t = torch.linspace(0.01, 1.0, 17, dtype=torch.float64)
    torch.testing.assert_close(path.alpha(t).square() + path.beta(t).square(), torch.ones_like(t))


def test_tau_solves_the_diffusion_with_a_linear_noise_schedule():
    # Backwards in s = −ln t from the data, the amplitude obeys dτ/ds = −β(s) τ / 2 with β = β_min + (β_max − β_min) s.
    tau, s, ds = 1.0, 0.0, 1e-4
    while s < 0.5:
        middle = s + ds / 2
        tau *= math.exp(-ds * (0.3 + (4.0 - 0.3) * middle) / 2)
        s += ds
    value = LinearTau(beta_min=0.3, beta_max=4.0).value(torch.tensor(math.exp(-s), dtype=torch.float64))
    assert float(value) == pytest.approx(tau, rel=1e-6)


def test_weight_of_the_gaussian_that_the_denoiser_predicts():
    t = torch.tensor([0.2, 0.5], dtype=torch.float64)
    assert Linear(gamma=SqrtGamma(a=0.36)).latent_scale(t).tolist() == pytest.approx([0.24, 0.3])
    assert Linear(one_sided=True).latent_scale(t).tolist() == pytest.approx([0.8, 0.5])
    for path in DIFFUSION.values():
        assert path.has_denoiser and torch.equal(path.latent_scale(t), path.alpha(t))
    for path in TRAINABLE.values():
        assert not path.has_denoiser
        with pytest.raises(ModelError, match=f"a {path.kind} path without gamma has no denoiser"):
            path.latent_scale(t)


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
