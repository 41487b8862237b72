"""The flow as an ODE: closed forms, orders of convergence, the torus, and what is refused."""

from __future__ import annotations

import math

import pytest
import torch
from torchdiffeq._impl.odeint import SOLVERS

from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.errors import ModelError
from omatg_ray.policy.ode import METHODS, solve
from tests.small import random_crystals

TIMES = torch.linspace(0.1, 0.9, 9, dtype=torch.float64)


def linear_field(crystals, t):
    """Positions move by t², lattices grow as exp(t)."""
    return {"pos": 2 * t * torch.ones_like(crystals.pos), "cell": crystals.cell}


def test_the_methods_are_those_of_the_library():
    assert set(METHODS) <= set(SOLVERS)
    assert {"euler", "midpoint", "rk4", "dopri5", "scipy_solver"} <= set(METHODS)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("method", METHODS)
def test_closed_form(method, dtype):
    x_0 = random_crystals([2, 3]).to(dtype=dtype)
    grid = torch.linspace(0.1, 0.9, 2001) if method == "euler" else torch.linspace(0.1, 0.9, 101)
    final = solve(linear_field, x_0, grid, method)
    assert final.pos.dtype == dtype
    torch.testing.assert_close(final.cell, x_0.cell * math.exp(0.8), atol=0, rtol=5e-4)
    difference = (final.pos - x_0.pos - (0.9**2 - 0.1**2) + 0.5) % 1.0 - 0.5
    assert float(difference.abs().max()) < 5e-4
    assert bool(((final.pos >= 0) & (final.pos < 1)).all())


@pytest.mark.parametrize("method, order", [("euler", 1), ("midpoint", 2), ("heun2", 2), ("heun3", 3), ("rk4", 4)])
def test_order_of_convergence(method, order):
    x_0 = random_crystals([1])
    errors = []
    for points in (9, 17):
        grid = torch.linspace(0.1, 0.9, points, dtype=torch.float64)
        final = solve(linear_field, x_0, grid, method)
        errors.append(float((final.cell / x_0.cell - math.exp(0.8)).abs().max()))
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.15)


def test_euler_is_the_plain_sampler_on_any_grid():
    def turning(crystals, t):
        angle = 2 * math.pi * crystals.pos
        lengths = crystals.cell.norm(dim=-1).sum(-1)[crystals.batch][:, None]
        return {
            "pos": t * angle.sin() * lengths / 10,
            "cell": crystals.cell * crystals.layout.mean(angle.cos())[:, None],
        }

    x_0 = random_crystals([2, 4])
    times = torch.tensor([0.0, 0.1, 0.15, 0.4, 0.9, 1.0], dtype=torch.float64)
    state = x_0
    for t, dt in zip(times, times.diff(), strict=False):
        rates = turning(state, t)
        state = state.replace((state.pos + rates["pos"] * dt) % 1.0, state.cell + rates["cell"] * dt)
    final = solve(turning, x_0, times, "euler")
    torch.testing.assert_close(final.pos, state.pos, atol=1e-12, rtol=0)
    torch.testing.assert_close(final.cell, state.cell, atol=1e-12, rtol=0)


@pytest.mark.parametrize("method", ["rk4", "dopri5"])
def test_positions_are_wrapped_for_the_network_alone(method):
    seen = []

    def fast(crystals: CrystalBatch, t):
        seen.append(crystals.pos.clone())
        # Depends on the wrapped position smoothly, and carries atoms through many cells.
        return {"pos": 7.0 + (2 * math.pi * crystals.pos).sin(), "cell": torch.zeros_like(crystals.cell)}

    x_0 = random_crystals([3])
    fine = torch.linspace(0.0, 1.0, 2001, dtype=torch.float64)
    final = solve(fast, x_0, fine if method == "rk4" else fine[[0, -1]], method, rtol=1e-9, atol=1e-9)
    assert all(bool(((pos >= 0) & (pos < 1)).all()) for pos in seen)
    # dx/dt = 7 + sin(2πx): an atom needs T = 1 / √48 for every cell, and x(t) is known in between.
    root = math.sqrt(48.0)
    for start, end in zip(x_0.pos.flatten().tolist(), final.pos.flatten().tolist(), strict=True):
        phase = math.atan((7 * math.tan(math.pi * start) + 1) / root) + math.pi * root
        expected = math.atan((root * math.tan(phase) - 1) / 7) / math.pi
        assert abs((end - expected + 0.5) % 1.0 - 0.5) < 1e-6


def test_tolerances_hold_for_every_structure_of_a_large_batch():
    """One structure that turns quickly among many that rest."""
    sizes = [1] * 400

    def one_turns(crystals, t):
        rates = torch.zeros_like(crystals.cell)
        rates[0] = 20 * math.cos(20 * float(t))
        return {"pos": torch.zeros_like(crystals.pos), "cell": rates}

    x_0 = random_crystals(sizes)
    final = solve(one_turns, x_0, TIMES, "dopri5", rtol=0.0, atol=1e-6)
    expected = math.sin(20 * 0.9) - math.sin(20 * 0.1)
    assert float((final.cell[0] - x_0.cell[0] - expected).abs().max()) < 1e-5
    torch.testing.assert_close(final.cell[1:], x_0.cell[1:])


def test_no_gradients_are_kept():
    x_0 = random_crystals([2])
    x_0 = x_0.replace(cell=x_0.cell.requires_grad_())
    assert not solve(linear_field, x_0, TIMES, "rk4").cell.requires_grad


def test_an_unknown_method_and_a_grid_without_a_step_are_refused():
    with pytest.raises(ModelError, match="unknown ODE method 'rk5'; one of euler, midpoint"):
        solve(linear_field, random_crystals([1]), TIMES, "rk5")
    with pytest.raises(ModelError, match="1 times: an integration needs at least 2"):
        solve(linear_field, random_crystals([1]), TIMES[:1], "euler")


def test_tolerances_that_cannot_be_kept_are_an_error():
    def broken(crystals, t):
        return {"pos": torch.full_like(crystals.pos, math.nan), "cell": crystals.cell}

    with pytest.raises(ModelError, match=r"dopri5 gave up at rtol=1e-05, atol=1e-05 .*fixed-step method"):
        solve(broken, random_crystals([1]), TIMES, "dopri5")
