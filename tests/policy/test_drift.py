"""The velocity drift."""

from __future__ import annotations

import torch

from omatg_ray.policy.annealing import LinearAnnealing
from omatg_ray.policy.drift import AnnealedDrift, VelocityDrift
from tests.small import random_crystals, small_network


def test_velocity_drift_is_the_velocity_of_the_fields_asked_for():
    network, crystals = small_network(), random_crystals([3, 1])
    t = torch.tensor([0.2, 0.7], dtype=torch.float64)
    out = network(crystals, t)
    drift = VelocityDrift(network)
    both = drift(crystals, t, ("pos", "cell"))
    assert torch.equal(both["pos"], out.pos_b) and torch.equal(both["cell"], out.cell_b)
    assert set(drift(crystals, t, ("cell",))) == {"cell"}


def test_annealed_drift_gives_every_structure_the_factor_of_its_time():
    network, crystals = small_network(), random_crystals([3, 1])
    t = torch.tensor([0.2, 0.7], dtype=torch.float64)
    plain = VelocityDrift(network)
    annealed = AnnealedDrift(plain, LinearAnnealing(pos=5.0, cell=-0.5))
    before, after = (drift(crystals, t, ("pos", "cell")) for drift in (plain, annealed))
    pos_factor = torch.tensor([[2.0]] * 3 + [[4.5]], dtype=torch.float64)
    cell_factor = torch.tensor([[[0.9]], [[0.65]]], dtype=torch.float64)
    torch.testing.assert_close(after["pos"], pos_factor * before["pos"])
    torch.testing.assert_close(after["cell"], cell_factor * before["cell"])
    at_once = annealed(crystals, torch.tensor(0.2, dtype=torch.float64), ("pos",))
    torch.testing.assert_close(at_once["pos"][:3], after["pos"][:3])
