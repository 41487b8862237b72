"""The pretraining loss and its gradient on one batch against the official implementation."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from omatg_ray.flow.interpolant import Linear, Trigonometric
from omatg_ray.flow.loss import flow_loss
from omatg_ray.flow.paths import interpolate
from omatg_ray.flow.settings import PathSettings
from omatg_ray.flow.time_functions import SqrtGamma
from tests.parity.loading import PREFIX, crystals, peer_network

NAMES = {"pos": "pos_loss_b", "cell": "cell_loss_b", "pos_eta": "pos_loss_z"}
PATHS = {
    "training_loss_perov5_small": PathSettings(pos=Linear(), cell=Linear()),
    "training_loss_sde_pos": PathSettings(pos=Trigonometric(gamma=SqrtGamma(a=0.049242906264339095)), cell=Linear()),
}


@pytest.mark.parametrize("name", PATHS)
def test_losses_and_gradients(shared, name):
    arrays = load_file(shared / "parity" / f"{name}.safetensors")
    info = json.loads((shared / "parity" / "sample_and_training.json").read_text())[name]
    paths = PATHS[name]
    for field, gamma in (("pos", paths.pos.gamma), ("cell", paths.cell.gamma)):
        kind = {"linear": "LinearInterpolant", "trigonometric": "TrigonometricInterpolant"}[paths.of(field).kind]
        recorded = info["interpolants"][field]
        assert recorded["class"] == ("Periodic" if field == "pos" else "") + kind
        assert recorded["gamma_a"] == (gamma.a if isinstance(gamma, SqrtGamma) else None)
    x_0, x_1, t = crystals(arrays), crystals(arrays, "x_1/"), arrays["t"]
    z = {"pos": arrays["z/pos"]} if paths.with_gamma else {}
    network = peer_network(shared)
    network.train_only({"pos_b", "cell_b", *(["pos_eta"] if z else [])})

    parts = flow_loss(network, paths, x_0, x_1, t, z)
    # The official losses leave out the part that does not depend on the network, the mean square of the targets.
    targets = [interpolate(paths, x_0, x_1, t, {"pos": sign * z["pos"]} if z else {})[1] for sign in (1, -1)]
    constants = {
        "pos": sum(target["pos"].square().mean() for target in targets) / 2,
        "cell": targets[0]["cell"].square().mean(),
    }
    if z:
        constants["pos_eta"] = z["pos"].square().mean()
    assert parts.keys() == constants.keys()
    costs, expected = info["relative_si_costs"], info["losses_unweighted"]
    assert {NAMES[part] for part in parts} == set(costs) - {"species_loss"}
    for part, constant in constants.items():
        value = float((parts[part] - constant).detach())
        assert value == pytest.approx(expected[NAMES[part]], rel=1e-5, abs=2e-5), part
    loss = sum(costs[NAMES[part]] * value for part, value in parts.items())
    constant = sum(costs[NAMES[part]] * value for part, value in constants.items())
    assert float((loss - constant).detach()) == pytest.approx(info["loss_total"], rel=1e-5, abs=2e-5)

    loss.backward()
    gradients = {f"{PREFIX}{k}": p.grad for k, p in network.named_parameters() if p.grad is not None}
    assert len(gradients) == info["parameters_with_gradient"]
    norm = torch.stack([g.norm() for g in gradients.values()]).norm()
    assert float(norm) == pytest.approx(info["gradient_global_norm"], rel=1e-3)
    named = [key for key in arrays if key.startswith("grad/")]
    assert len(named) == len(parts) + 1
    for key in named:
        actual = gradients[key.removeprefix("grad/")]
        assert float((actual - arrays[key]).norm()) < 1e-3 * float(arrays[key].norm()), key
