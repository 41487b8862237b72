"""The pretraining loss and its gradient on one batch against the official implementation."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from omatg_ray.flow.interpolant import INTERPOLANTS, interpolate
from omatg_ray.flow.loss import PathSettings, velocity_loss
from tests.parity.loading import PREFIX, crystals, peer_network


def test_losses_and_gradients(shared):
    name = "training_loss_perov5_small"
    arrays = load_file(shared / "parity" / f"{name}.safetensors")
    info = json.loads((shared / "parity" / "sample_and_training.json").read_text())[name]
    assert info["interpolants"]["pos"]["class"] == "PeriodicLinearInterpolant"
    assert info["interpolants"]["cell"]["class"] == "LinearInterpolant"
    x_0, x_1, t = crystals(arrays), crystals(arrays, "x_1/"), arrays["t"]
    network = peer_network(shared)
    network.train_only({"pos_b", "cell_b"})

    parts = velocity_loss(network, PathSettings(pos="linear", cell="linear"), x_0, x_1, t)
    # The official losses leave out the part that does not depend on the network, the mean square of the targets.
    _, pos_target, cell_target = interpolate(INTERPOLANTS["linear"], INTERPOLANTS["linear"], x_0, x_1, t)
    constants = {"pos": pos_target.square().mean(), "cell": cell_target.square().mean()}
    costs, expected = info["relative_si_costs"], info["losses_unweighted"]
    for field, constant in constants.items():
        value = float((getattr(parts, field) - constant).detach())
        assert value == pytest.approx(expected[f"{field}_loss_b"], rel=1e-5, abs=2e-5), field
    weighted = {field: costs[f"{field}_loss_b"] for field in constants}
    loss = sum(weighted[field] * getattr(parts, field) for field in constants)
    constant = sum(weighted[field] * constants[field] for field in constants)
    assert float((loss - constant).detach()) == pytest.approx(info["loss_total"], rel=1e-5, abs=2e-5)

    loss.backward()
    gradients = {f"{PREFIX}{k}": p.grad for k, p in network.named_parameters() if p.grad is not None}
    assert len(gradients) == info["parameters_with_gradient"]
    norm = torch.stack([g.norm() for g in gradients.values()]).norm()
    assert float(norm) == pytest.approx(info["gradient_global_norm"], rel=1e-3)
    named = [key for key in arrays if key.startswith("grad/")]
    assert len(named) == 3
    for key in named:
        actual = gradients[key.removeprefix("grad/")]
        assert float((actual - arrays[key]).norm()) < 1e-3 * float(arrays[key].norm()), key
