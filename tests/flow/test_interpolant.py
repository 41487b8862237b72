"""Interpolants: end points, derivatives and the torus, against closed forms."""

from __future__ import annotations

import math

import pytest
import torch

from omatg_ray.crystal.batch import Layout
from omatg_ray.flow.interpolant import INTERPOLANTS, interpolate, path, torus_path
from tests.small import random_crystals

NAMES = list(INTERPOLANTS)
SIZES = [3, 1, 4]


def torus_distance(left, right):
    return float(((left - right + 0.5) % 1.0 - 0.5).abs().max())


@pytest.mark.parametrize("name", NAMES)
def test_end_points(name):
    weights = INTERPOLANTS[name]
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
    torch.testing.assert_close(weights.alpha(ends), 1 - ends, atol=1e-15, rtol=0)
    torch.testing.assert_close(weights.beta(ends), ends, atol=1e-15, rtol=0)


@pytest.mark.parametrize("name", NAMES)
def test_derivatives(name):
    weights = INTERPOLANTS[name]
    t = torch.linspace(0.01, 0.99, 17, dtype=torch.float64, requires_grad=True)
    for value, derivative in ((weights.alpha, weights.alpha_dot), (weights.beta, weights.beta_dot)):
        (expected,) = torch.autograd.grad(value(t).sum(), t)
        torch.testing.assert_close(derivative(t).detach(), expected, atol=1e-12, rtol=0)


def test_values_at_one_third():
    third = torch.tensor(1 / 3, dtype=torch.float64)
    assert float(INTERPOLANTS["linear"].alpha(third)) == pytest.approx(2 / 3)
    assert float(INTERPOLANTS["trigonometric"].alpha(third)) == pytest.approx(math.sqrt(3) / 2)
    assert float(INTERPOLANTS["trigonometric"].beta(third)) == pytest.approx(1 / 2)


@pytest.mark.parametrize("name", NAMES)
def test_flat_velocity_is_the_derivative_of_the_state(name):
    x_0, x_1 = torch.randn(2, 4, 3, 3, dtype=torch.float64)
    t = torch.full((4, 1, 1), 0.37, dtype=torch.float64)
    h = 1e-6
    above, below = (path(INTERPOLANTS[name], x_0, x_1, t + s)[0] for s in (h, -h))
    torch.testing.assert_close(path(INTERPOLANTS[name], x_0, x_1, t)[1], (above - below) / (2 * h), atol=1e-8, rtol=0)


@pytest.mark.parametrize("name", NAMES)
def test_torus_path_joins_its_ends(name):
    layout = Layout(torch.tensor(SIZES))
    x_0, x_1 = torch.rand(2, sum(SIZES), 3, dtype=torch.float64)
    for end, expected in ((0.0, x_0), (1.0, x_1)):
        t = torch.full((sum(SIZES), 1), end, dtype=torch.float64)
        state, _ = torus_path(INTERPOLANTS[name], x_0, x_1, t, layout)
        assert torus_distance(state, expected) < 1e-12


def test_linear_torus_path_is_the_shortest_and_has_no_centre_of_mass_motion():
    layout = Layout(torch.tensor(SIZES))
    x_0, x_1 = torch.rand(2, sum(SIZES), 3, dtype=torch.float64)
    t = torch.rand(sum(SIZES), 1, dtype=torch.float64)
    _, velocity = torus_path(INTERPOLANTS["linear"], x_0, x_1, t, layout)
    images = torch.stack([x_1 + shift - x_0 for shift in (-1.0, 0.0, 1.0)])
    shortest = images.gather(0, images.abs().argmin(0, keepdim=True))[0]
    start = 0
    for n in SIZES:
        part = slice(start, start + n)
        torch.testing.assert_close(velocity[part], shortest[part] - shortest[part].mean(0), atol=1e-12, rtol=0)
        start += n


@pytest.mark.parametrize("name", NAMES)
def test_target_does_not_depend_on_the_origin(name):
    layout = Layout(torch.tensor(SIZES))
    x_0, x_1 = torch.rand(2, sum(SIZES), 3, dtype=torch.float64)
    t = torch.tensor([0.2, 0.5, 0.8], dtype=torch.float64)[layout.batch][:, None]
    shift = torch.tensor([0.013, 0.007, -0.011], dtype=torch.float64)
    # A shift that carries no atom of x_0 across the cell's faces; across them the non-linear path differs.
    x_0 = 0.1 + 0.8 * x_0
    _, before = torus_path(INTERPOLANTS[name], x_0, x_1, t, layout)
    _, after = torus_path(INTERPOLANTS[name], x_0 + shift, x_1 + shift, t, layout)
    torch.testing.assert_close(after, before, atol=1e-12, rtol=0)


def test_interpolate_gives_every_structure_its_time():
    x_0, x_1 = random_crystals(SIZES, seed=1), random_crystals(SIZES, seed=2)
    t = torch.tensor([0.1, 0.6, 0.9], dtype=torch.float64)
    linear, trigonometric = INTERPOLANTS["linear"], INTERPOLANTS["trigonometric"]
    state, pos_velocity, cell_velocity = interpolate(linear, trigonometric, x_0, x_1, t)
    assert torch.equal(state.species, x_1.species)
    for b in range(len(SIZES)):
        angle = math.pi * float(t[b]) / 2
        expected = math.cos(angle) * x_0.cell[b] + math.sin(angle) * x_1.cell[b]
        torch.testing.assert_close(state.cell[b], expected, atol=1e-12, rtol=0)
        slope = math.pi / 2 * (-math.sin(angle) * x_0.cell[b] + math.cos(angle) * x_1.cell[b])
        torch.testing.assert_close(cell_velocity[b], slope, atol=1e-12, rtol=0)
        atoms = slice(*x_1.ptr[b : b + 2].tolist())
        difference = (x_1.pos[atoms] - x_0.pos[atoms] + 0.5) % 1.0 - 0.5
        assert torus_distance(state.pos[atoms], x_0.pos[atoms] + t[b] * difference) < 1e-12
        torch.testing.assert_close(pos_velocity[atoms], difference - difference.mean(0), atol=1e-12, rtol=0)
