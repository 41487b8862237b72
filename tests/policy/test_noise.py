"""Noise schedules."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from omatg_ray.policy.noise import NoiseSettings

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
