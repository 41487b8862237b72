"""Generation by Euler integration of the base model, free running, against the official implementation."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from omatg_ray.crystal.fields import displace
from omatg_ray.policy.drift import Velocity
from omatg_ray.policy.grid import time_grid
from omatg_ray.policy.hand_made import LinearSchedule
from omatg_ray.policy.policy import Policy, Step
from tests.parity.loading import crystals, peer_network

TOLERANCE = 1e-4


@pytest.mark.parametrize("name", ["sample_ode_perov5_small", "sample_ode_annealed"])
def test_ode(shared, name):
    arrays = load_file(shared / "parity" / f"{name}.safetensors")
    info = json.loads((shared / "parity" / "sample_and_training.json").read_text())[name]
    times = time_grid(info["number_of_times"])
    assert torch.equal(times, arrays["times"])

    slopes = info["velocity_annealing_factor"]
    network = peer_network(shared)
    schedule = LinearSchedule(**slopes) if any(slopes.values()) else None
    policy = Policy(Velocity(), network, network, active=(), noise={}, schedule=schedule)
    x_0 = crystals(arrays)
    steps: list[Step] = []
    final = policy.integrate(x_0, times, on_step=steps.append)

    states = [x_0]
    for step in steps:
        states.append(displace(states[-1], step.displacement))
    for row, k in enumerate(arrays["saved_state_index"].tolist()):
        check(states[k], arrays["states/pos"][row], arrays["states/cell"][row])
    check(final, arrays["x_1/pos"], arrays["x_1/cell"])


def check(state, pos, cell):
    difference = (state.pos - pos + 0.5) % 1.0 - 0.5
    assert float(difference.abs().max()) < TOLERANCE
    torch.testing.assert_close(state.cell, cell, atol=TOLERANCE, rtol=0)
