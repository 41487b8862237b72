"""The base distribution: fit, moments and independence of the structures."""

from __future__ import annotations

import math

import pytest
import torch
from pydantic import ValidationError

from omatg_ray.crystal.base import ANGLE_RANGE, MIN_LOG_STD, BaseDistribution
from omatg_ray.crystal.lattice import cell_from_parameters, cell_parameters, volume
from omatg_ray.seeding import generator

BASE = BaseDistribution(log_length_mean=(1.2, 1.4, 1.7), log_length_std=(0.1, 0.2, 0.3))


def test_fit_is_maximum_likelihood():
    lengths = torch.tensor([[2.0, 3.0, 4.0], [8.0, 3.0, 4.0]], dtype=torch.float64)
    angles = torch.tensor([[90.0, 90.0, 90.0], [70.0, 80.0, 100.0]], dtype=torch.float64)
    base = BaseDistribution.fit(cell_from_parameters(lengths, angles))
    assert base.log_length_mean == pytest.approx((math.log(4.0), math.log(3.0), math.log(4.0)))
    assert base.log_length_std == pytest.approx((math.log(2.0), MIN_LOG_STD, MIN_LOG_STD))


def test_moments_of_draws():
    n = 20_000
    pos, cell = BASE.draw(n, n, generator("moments"))
    lengths, angles = cell_parameters(cell.double())
    standard_error = torch.tensor(BASE.log_length_std) / math.sqrt(n)
    log_lengths = lengths.log()
    assert bool(((log_lengths.mean(0) - torch.tensor(BASE.log_length_mean)).abs() < 5 * standard_error).all())
    assert bool(((log_lengths.std(0) / torch.tensor(BASE.log_length_std) - 1).abs() < 5 / math.sqrt(2 * n)).all())
    low, high = ANGLE_RANGE
    assert float(angles.min()) > low - 0.01 and float(angles.max()) < high + 0.01
    spread = (high - low) / math.sqrt(12)
    assert bool(((angles.mean(0) - 90).abs() < 5 * spread / math.sqrt(n)).all())
    assert bool(((angles.std(0) / spread - 1).abs() < 0.03).all())
    assert float(pos.min()) >= 0 and float(pos.max()) < 1
    assert bool(((pos.mean(0) - 0.5).abs() < 5 / math.sqrt(12 * n)).all())
    assert bool(((pos.std(0) - 1 / math.sqrt(12)).abs() < 0.01).all())
    assert bool((volume(cell) > 0).all())
    assert torch.equal(cell, cell.tril())


def test_x_0_does_not_depend_on_neighbours():
    together = BASE.sample([[56, 22, 8, 8, 8], [11], [55, 17]], seeds=[7, 8, 9])
    alone = BASE.sample([[55, 17]], seeds=[9])
    assert together.species.tolist() == [56, 22, 8, 8, 8, 11, 55, 17]
    assert torch.equal(together.pos[6:], alone.pos) and torch.equal(together.cell[2:], alone.cell)
    assert not torch.equal(BASE.sample([[55, 17]], seeds=[8]).pos, alone.pos)


def test_more_species_than_seeds_is_an_error():
    with pytest.raises(ValueError):
        BASE.sample([[1], [1]], seeds=[0])


def test_infinite_parameters_are_refused():
    with pytest.raises(ValidationError):
        BaseDistribution(log_length_mean=(float("-inf"), 1.0, 1.0), log_length_std=(0.1, 0.1, 0.1))
