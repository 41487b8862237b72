"""The flow-matching loss."""

from __future__ import annotations

import pytest
import torch

from omatg_ray.flow.loss import PathSettings, velocity_loss
from tests.small import random_crystals, small_network

SIZES = [3, 1, 4]


def silent_network():
    """A network that predicts no velocity at all."""
    network = small_network()
    with torch.no_grad():
        network.coord_out.weight.zero_()
        network.lattice_out.weight.zero_()
    return network


def test_loss_of_a_silent_network_is_the_mean_square_of_the_targets():
    x_0, x_1 = random_crystals(SIZES, seed=1), random_crystals(SIZES, seed=2)
    loss = velocity_loss(silent_network(), PathSettings(), x_0, x_1, torch.tensor([0.1, 0.6, 0.9], dtype=torch.float64))
    assert float(loss.cell.detach()) == pytest.approx(float((x_1.cell - x_0.cell).square().mean()))
    difference = (x_1.pos - x_0.pos + 0.5) % 1.0 - 0.5
    centred = torch.cat([part - part.mean(0) for part in difference.split(SIZES)])
    assert float(loss.pos.detach()) == pytest.approx(float(centred.square().mean()))


def test_loss_is_the_error_at_the_interpolated_state():
    network = small_network()
    x_0, x_1 = random_crystals(SIZES, seed=1), random_crystals(SIZES, seed=2)
    t = torch.tensor([0.1, 0.6, 0.9], dtype=torch.float64)
    loss = velocity_loss(network, PathSettings(), x_0, x_1, t)
    pos, cell = [], []
    for b in range(len(SIZES)):
        start, end = x_0.select([b]), x_1.select([b])
        difference = (end.pos - start.pos + 0.5) % 1.0 - 0.5
        state = end.replace((start.pos + t[b] * difference) % 1.0, (1 - t[b]) * start.cell + t[b] * end.cell)
        out = network(state, t[b : b + 1])
        pos.append(out.pos_b - (difference - difference.mean(0)))
        cell.append(out.cell_b - (end.cell - start.cell))
    assert float(loss.pos.detach()) == pytest.approx(float(torch.cat(pos).detach().square().mean()), rel=1e-9)
    assert float(loss.cell.detach()) == pytest.approx(float(torch.cat(cell).detach().square().mean()), rel=1e-9)


def test_both_fields_have_gradients():
    network = small_network()
    x_0, x_1 = random_crystals(SIZES, seed=1), random_crystals(SIZES, seed=2)
    t = torch.full((3,), 0.5, dtype=torch.float64)
    loss = velocity_loss(network, PathSettings(pos="trigonometric", cell="trigonometric"), x_0, x_1, t)
    loss.pos.backward(retain_graph=True)
    assert network.coord_out.weight.grad is not None and network.lattice_out.weight.grad is None
    loss.cell.backward()
    assert network.lattice_out.weight.grad is not None
