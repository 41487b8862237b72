"""ε: values and where it vanishes."""

from __future__ import annotations

import pytest
import torch

from omatg_ray.flow.epsilon import ConstantEpsilon, VanishingEpsilon


def test_constant():
    assert ConstantEpsilon(c=2.5).value(torch.tensor([0.0, 0.3, 1.0])).tolist() == [2.5, 2.5, 2.5]


def test_vanishing_is_on_inside_half_at_mu_and_off_at_the_ends():
    epsilon = VanishingEpsilon(c=4.0, mu=0.2, width=0.01)
    values = epsilon.value(torch.tensor([0.0, 0.2, 0.5, 0.8, 1.0], dtype=torch.float64)).tolist()
    assert values[0] == pytest.approx(0.0, abs=1e-8)
    assert values[4] == pytest.approx(0.0, abs=1e-8)
    assert values[1:4] == pytest.approx([2.0, 4.0, 2.0])


def test_vanishing_is_a_product_of_two_fermi_functions():
    t = torch.rand(9, dtype=torch.float64)
    fermi = 1 / (1 + torch.exp(-(t - 0.3) / 0.2)) / (1 + torch.exp(-(0.7 - t) / 0.2))
    torch.testing.assert_close(VanishingEpsilon(c=1.5, mu=0.3, width=0.2).value(t), 1.5 * fermi)


def test_no_overflow_in_float32():
    values = VanishingEpsilon(c=9.4, mu=0.197, width=0.001).value(torch.tensor([0.001, 0.5, 0.999]))
    assert bool(torch.isfinite(values).all())
