"""Interpolants, wrapping and training targets against the official implementation."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from omatg_ray.crystal.batch import Layout
from omatg_ray.crystal.lattice import nearest_image, wrap
from omatg_ray.flow.interpolant import INTERPOLANTS, path, torus_path

NAMES = ["linear", "trigonometric"]


def same_positions(actual, expected, atol, rtol=0.0):
    difference = (actual - expected + 0.5) % 1.0 - 0.5
    assert bool((difference.abs() <= atol + rtol * expected.abs()).all())


@pytest.fixture
def paths(shared):
    return load_file(shared / "parity" / "interpolants_paths.safetensors")


@pytest.fixture
def losses(shared):
    return load_file(shared / "parity" / "interpolants_losses.safetensors")


@pytest.mark.parametrize("prefix, rtol, atol", [("f64/", 1e-9, 1e-12), ("", 1e-4, 2e-6)])
@pytest.mark.parametrize("name", NAMES)
def test_functions(shared, name, prefix, rtol, atol):
    arrays = load_file(shared / "parity" / "interpolants_functions.safetensors")
    t = arrays[f"{prefix}t"]
    for function in ("alpha", "alpha_dot", "beta", "beta_dot"):
        expected = arrays[f"{prefix}{name}/{function}"]
        torch.testing.assert_close(getattr(INTERPOLANTS[name], function)(t), expected, rtol=rtol, atol=atol)


def test_wrapping(shared):
    arrays = load_file(shared / "parity" / "interpolants_wrapping.safetensors")
    for prefix in ("", "random_"):
        wrapped = wrap(arrays[f"wrap/{prefix}input"])
        # The recorded outputs hold 1.0 where a tiny negative number was wrapped; here it becomes 0.
        same_positions(wrapped, arrays[f"wrap/{prefix}output"], atol=1e-6)
        assert bool((wrapped < 1).all())
        image = nearest_image(arrays[f"image/{prefix}x_1"], arrays[f"image/{prefix}x_0"])
        torch.testing.assert_close(image, arrays[f"image/{prefix}x_1_nearest"], atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", NAMES)
def test_torus_paths(paths, losses, name):
    layout = Layout(paths["n_atoms"])
    t = paths["t"][layout.batch][:, None]
    x_t, velocity = torus_path(INTERPOLANTS[name], paths["pos/x_0"], paths["pos/x_1"], t, layout)
    same_positions(x_t, paths[f"interp/periodic_{name}/x_t"], atol=2e-6, rtol=1e-4)
    # The recorded path derivative keeps the centre-of-mass motion, the recorded training target does not.
    recorded = paths[f"interp/periodic_{name}/dx_dt"]
    mean = torch.stack([part.mean(0) for part in recorded.split(paths["n_atoms"].tolist())])
    torch.testing.assert_close(velocity, recorded - mean[layout.batch], atol=2e-6, rtol=1e-4)
    case = f"pos/periodic_{name}/gamma_none/ODE/com"
    torch.testing.assert_close(velocity, losses[f"{case}/target_plus"], atol=2e-5, rtol=1e-4)
    same_positions(x_t, losses[f"{case}/x_t_plus_seen_by_network"], atol=2e-6, rtol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_flat_paths(paths, losses, name):
    t = paths["t"][:, None, None]
    x_t, velocity = path(INTERPOLANTS[name], paths["cell/x_0"], paths["cell/x_1"], t)
    torch.testing.assert_close(x_t, paths[f"interp_cell/{name}/x_t"], atol=2e-6, rtol=1e-4)
    torch.testing.assert_close(velocity, paths[f"interp_cell/{name}/dx_dt"], atol=2e-6, rtol=1e-4)
    torch.testing.assert_close(velocity, losses[f"cell/{name}/gamma_none/ODE/nocom/target_plus"], atol=2e-5, rtol=1e-4)

    layout = Layout(paths["n_atoms"])
    t = paths["t"][layout.batch][:, None]
    x_t, velocity = path(INTERPOLANTS[name], paths["pos/x_0"], paths["pos/x_1"], t)
    torch.testing.assert_close(x_t, paths[f"interp/{name}/x_t"], atol=2e-6, rtol=1e-4)
    torch.testing.assert_close(velocity, paths[f"interp/{name}/dx_dt"], atol=2e-6, rtol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_double_precision_state(paths, name):
    layout = Layout(paths["n_atoms"])
    x_0, x_1 = paths["pos/x_0"].double(), paths["pos/x_1"].double()
    t = paths["t"].double()[layout.batch][:, None]
    x_t, _ = torus_path(INTERPOLANTS[name], x_0, x_1, t, layout)
    same_positions(x_t, paths[f"f64/interp/periodic_{name}/x_t"], atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_loss_of_recorded_predictions(shared, paths, name):
    cases = json.loads((shared / "parity" / "interpolants_cases.json").read_text())["loss_cases"]
    layout = Layout(paths["n_atoms"])
    t = paths["t"][layout.batch][:, None]
    _, velocity = torus_path(INTERPOLANTS[name], paths["pos/x_0"], paths["pos/x_1"], t, layout)
    error = (paths["pos/pred_b_plus"] - velocity).square().mean() - velocity.square().mean()
    expected = cases[f"pos/periodic_{name}/gamma_none/ODE/com"]["losses"]["loss_b"]
    assert float(error) == pytest.approx(expected, rel=1e-4, abs=2e-5)
