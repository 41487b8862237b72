"""Geometry of lattices and of the torus, against closed forms and pymatgen."""

from __future__ import annotations

import math

import pytest
import torch
from pymatgen.core import Lattice

from omatg_ray.crystal.lattice import (
    cell_from_parameters,
    cell_parameters,
    minimum_difference,
    nearest_image,
    polar_sine,
    volume,
    wrap,
)

TRICLINIC = ([3.1, 4.2, 5.3], [75.0, 95.0, 110.0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_wrap_stays_below_one(dtype):
    values = torch.tensor([-1e-9, -1e-8, -1e-20, -1.0, 0.0, 0.3, 1.0, 1.3, -2.75, 7.0], dtype=dtype)
    wrapped = wrap(values)
    assert bool((wrapped >= 0).all()) and bool((wrapped < 1).all())
    turns = (wrapped - values).double()
    torch.testing.assert_close(turns, turns.round(), atol=1e-6, rtol=0)


def test_nearest_image_is_the_nearest_of_all_images():
    generator = torch.Generator().manual_seed(0)
    target = torch.rand(200, generator=generator, dtype=torch.float64) * 4 - 2
    origin = torch.rand(200, generator=generator, dtype=torch.float64)
    images = target[:, None] + torch.arange(-4, 5)
    best = images[torch.arange(200), (images - origin[:, None]).abs().argmin(1)]
    torch.testing.assert_close(nearest_image(target, origin), best, atol=1e-12, rtol=0)


def test_half_a_cell_counts_as_minus_half():
    assert minimum_difference(torch.tensor([0.5, -0.5, 1.5, 0.0, 1.0])).tolist() == [-0.5, -0.5, -0.5, 0.0, 0.0]


def test_cell_from_parameters_of_a_triclinic_cell():
    lengths, angles = (torch.tensor(v, dtype=torch.float64) for v in TRICLINIC)
    cell = cell_from_parameters(lengths, angles)
    reference = Lattice.from_parameters(*TRICLINIC[0], *TRICLINIC[1])
    torch.testing.assert_close(cell @ cell.T, torch.as_tensor(reference.metric_tensor), atol=1e-10, rtol=0)
    assert float(cell[0, 0]) == lengths[0]
    assert cell[0, 1:].tolist() == [0.0, 0.0] and float(cell[1, 2]) == 0.0
    assert float(cell[1, 1]) > 0 and float(cell[2, 2]) > 0


def test_cell_parameters_invert_under_any_rotation():
    lengths, angles = (torch.tensor(v, dtype=torch.float64) for v in TRICLINIC)
    turn = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64)).Q
    back = cell_parameters(cell_from_parameters(lengths, angles) @ turn)
    torch.testing.assert_close(back[0], lengths)
    torch.testing.assert_close(back[1], angles)


def test_angles_without_volume_give_a_flat_cell():
    cell = cell_from_parameters(torch.ones(3), torch.tensor([60.0, 60.0, 125.0]))
    assert bool(torch.isfinite(cell).all())
    assert float(cell[2, 2]) == 0.0


def test_volume_and_polar_sine():
    lengths, angles = (torch.tensor(v, dtype=torch.float64) for v in TRICLINIC)
    cell = cell_from_parameters(lengths, angles)
    cosines = [math.cos(math.radians(a)) for a in TRICLINIC[1]]
    expected = math.sqrt(1 - sum(c * c for c in cosines) + 2 * math.prod(cosines))
    left_handed = cell[[1, 0, 2]]
    for lattice in (cell, left_handed):
        assert float(polar_sine(lattice)) == pytest.approx(expected, rel=1e-12)
        assert float(volume(lattice)) == pytest.approx(expected * math.prod(TRICLINIC[0]), rel=1e-12)
    assert float(polar_sine(torch.diag(torch.tensor([2.0, 3.0, 4.0])))) == pytest.approx(1.0)
