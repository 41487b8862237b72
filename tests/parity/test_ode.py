"""Generation of the base model by a solver of torchdiffeq against the official implementation, which uses the same."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from omatg_ray.policy.ode import solve
from tests.parity.loading import crystals, peer_network


@pytest.mark.parametrize("name", ["sample_ode_perov5_small", "sample_ode_annealed"])
def test_euler(shared, name):
    arrays = load_file(shared / "parity" / f"{name}.safetensors")
    info = json.loads((shared / "parity" / "sample_and_training.json").read_text())[name]
    network, slopes = peer_network(shared), info["velocity_annealing_factor"]

    def velocity(state, t):
        out = network(state, t)
        return {"pos": (1 + slopes["pos"] * t) * out.pos_b, "cell": (1 + slopes["cell"] * t) * out.cell_b}

    final = solve(velocity, crystals(arrays), arrays["times"], "euler")
    difference = (final.pos - arrays["x_1/pos"] + 0.5) % 1.0 - 0.5
    assert float(difference.abs().max()) < 1e-4
    torch.testing.assert_close(final.cell, arrays["x_1/cell"], atol=1e-4, rtol=0)
