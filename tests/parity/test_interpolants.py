"""Interpolants, γ, ε, wrapping and training targets against the official implementation."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from omatg_ray.crystal.batch import Layout
from omatg_ray.crystal.lattice import nearest_image, wrap
from omatg_ray.flow.interpolant import (
    EncoderDecoder,
    FieldPath,
    Linear,
    Mirror,
    Trigonometric,
    VarianceExploding,
    VariancePreserving,
)
from omatg_ray.flow.paths import path, torus_path
from omatg_ray.flow.time_functions import (
    ConstantEpsilon,
    ConstantTau,
    CosineTau,
    EncoderDecoderGamma,
    Gamma,
    LinearTau,
    SqrtGamma,
    VanishingEpsilon,
)

# The parameters are those of interpolants_cases.json, which `test_parameters` checks.
PATHS: dict[str, FieldPath] = {
    "linear": Linear(),
    "trigonometric": Trigonometric(),
    "encoder_decoder_default": EncoderDecoder(),
    "encoder_decoder": EncoderDecoder(switch_time=0.6, power=2.0),
    "mirror": Mirror(),
    "sbd_vp_constant": VariancePreserving(schedule=ConstantTau()),
    "sbd_vp_linear": VariancePreserving(schedule=LinearTau(beta_min=0.1, beta_max=20.0)),
    "sbd_vp_cosine": VariancePreserving(schedule=CosineTau(offset=0.008)),
    "sbd_ve": VarianceExploding(sigma_min=0.005, sigma_max=0.5),
}
GAMMAS: dict[str, Gamma | None] = {
    "none": None,
    "sqrt": SqrtGamma(a=0.049242906264339095),
    "encoder_decoder": EncoderDecoderGamma(a=1.0, switch_time=0.6, power=2.0),
}
# All interpolants of the reference; `periodic_` ones are paths on the torus of the same functions.
INTERPOLANTS = [
    *PATHS,
    *(f"periodic_{name}" for name in PATHS if name not in ("encoder_decoder_default", "sbd_vp_cosine")),
]
# Groups of cases of training, by how their names begin.
LOSS_CASES = [
    *(f"pos/{p}{name}" for p in ("", "periodic_") for name in ("linear", "trigonometric", "encoder_decoder", "mirror")),
    *("cell/linear", "cell/trigonometric"),
    *("onesided/pos/linear", "onesided/pos/trigonometric", "onesided/pos/encoder_decoder"),
    *("onesided/pos/sbd_vp_constant", "onesided/pos/sbd_vp_linear", "onesided/pos/sbd_ve"),
    *("onesided/pos/periodic_linear", "onesided/pos/periodic_sbd_vp_constant", "onesided/pos/periodic_sbd_ve"),
]


def same_positions(actual, expected, atol, rtol=0.0):
    difference = (actual - expected + 0.5) % 1.0 - 0.5
    assert bool((difference.abs() <= atol + rtol * expected.abs()).all())


@pytest.fixture
def cases(shared):
    return json.loads((shared / "parity" / "interpolants_cases.json").read_text())


@pytest.fixture
def functions(shared):
    return load_file(shared / "parity" / "interpolants_functions.safetensors")


@pytest.fixture
def paths(shared):
    return load_file(shared / "parity" / "interpolants_paths.safetensors")


@pytest.fixture
def losses(shared):
    return load_file(shared / "parity" / "interpolants_losses.safetensors")


def test_parameters(cases):
    assert set(cases["interpolants"]) == set(INTERPOLANTS)
    for name, recorded in cases["interpolants"].items():
        ours, parameters = PATHS[name.removeprefix("periodic_")], dict(recorded["parameters"])
        nested = parameters.pop("tau", None) or parameters.pop("sigma", {})
        for key, value in parameters.items():
            assert getattr(ours, key) == value, name
        holder = ours.schedule if isinstance(ours, VariancePreserving) else ours
        for key, value in nested.items():
            assert key == "class" or getattr(holder, key) == value, name
    for name, recorded in cases["gammas"].items():
        gamma = GAMMAS[name]
        assert (recorded is None) == (gamma is None)
        for key, value in (recorded or {}).items():
            assert key == "class" or getattr(gamma, key) == value, name


@pytest.mark.parametrize("prefix, rtol, atol", [("f64/", 1e-9, 1e-12), ("", 1e-4, 2e-6)])
@pytest.mark.parametrize("name", INTERPOLANTS)
def test_functions(functions, name, prefix, rtol, atol):
    t, ours = functions[f"{prefix}t"], PATHS[name.removeprefix("periodic_")]
    found = zip(("alpha", "beta", "alpha_dot", "beta_dot"), (*ours.weights(t), *ours.rates(t)), strict=True)
    for function, actual in found:
        expected = functions[f"{prefix}{name}/{function}"]
        tolerance = torch.full_like(t, rtol)
        if not prefix and "sbd_vp" in name and function.startswith("alpha"):
            tolerance[t >= 0.99] = 2e-3
        difference = (actual - expected).abs()
        assert bool((difference <= atol + tolerance * expected.abs()).all()), function


@pytest.mark.parametrize("prefix, rtol, atol", [("f64/", 1e-9, 1e-12), ("", 1e-4, 2e-6)])
def test_gamma_and_epsilon(functions, cases, prefix, rtol, atol):
    t = functions[f"{prefix}t"]
    for name, gamma in GAMMAS.items():
        if gamma is not None:
            recorded = functions[f"{prefix}gamma_{name}/gamma"], functions[f"{prefix}gamma_{name}/gamma_derivative"]
            for actual, expected in zip((gamma.value(t), gamma.derivative(t)), recorded, strict=True):
                torch.testing.assert_close(actual, expected, rtol=rtol, atol=atol)
    vanishing = dict(cases["epsilon_vanishing"])
    vanishing["width"] = vanishing.pop("sigma")
    for name, epsilon in (
        ("constant", ConstantEpsilon(**cases["epsilon_constant"])),
        ("vanishing", VanishingEpsilon(**vanishing)),
    ):
        torch.testing.assert_close(epsilon.value(t), functions[f"{prefix}epsilon_{name}"], rtol=rtol, atol=atol)


def test_wrapping(shared):
    arrays = load_file(shared / "parity" / "interpolants_wrapping.safetensors")
    for prefix in ("", "random_"):
        wrapped = wrap(arrays[f"wrap/{prefix}input"])
        # The recorded outputs hold 1.0 where a tiny negative number was wrapped; here it becomes 0.
        same_positions(wrapped, arrays[f"wrap/{prefix}output"], atol=1e-6)
        assert bool((wrapped < 1).all())
        image = nearest_image(arrays[f"image/{prefix}x_1"], arrays[f"image/{prefix}x_0"])
        torch.testing.assert_close(image, arrays[f"image/{prefix}x_1_nearest"], atol=1e-6, rtol=0)


def ends(paths, name, dtype=torch.float32):
    """x_0 and x_1 as they enter a path of the positions: on the torus wrapped, and nearest to each other."""
    x_0 = paths["pos/x_0_gaussian" if "sbd" in name else "pos/x_0"].to(dtype)
    return as_entering(name, x_0, paths["pos/x_1"].to(dtype))


def as_entering(name, x_0, x_1):
    if not name.startswith("periodic_"):
        return x_0, x_1
    return wrap(x_0), nearest_image(x_1, wrap(x_0))


@pytest.mark.parametrize("name", INTERPOLANTS)
def test_paths(paths, name):
    layout, ours = Layout(paths["n_atoms"]), PATHS[name.removeprefix("periodic_")]
    t = paths["t"][layout.batch][:, None]
    x_t, velocity = path(ours, *ends(paths, name), t)
    recorded_velocity = paths[f"interp/{name}/dx_dt"]
    torch.testing.assert_close(velocity, recorded_velocity, atol=2e-6, rtol=1e-4)
    if not name.startswith("periodic_"):
        torch.testing.assert_close(x_t, paths[f"interp/{name}/x_t"], atol=2e-6, rtol=1e-4)
        return
    x_0 = paths["pos/x_0_gaussian" if "sbd" in name else "pos/x_0"]
    x_t, target = torus_path(ours, x_0, paths["pos/x_1"], t, layout)
    same_positions(x_t, paths[f"interp/{name}/x_t"], atol=2e-6, rtol=1e-4)
    # The recorded path derivative keeps the centre-of-mass motion, the training target does not.
    mean = torch.stack([part.mean(0) for part in recorded_velocity.split(paths["n_atoms"].tolist())])
    torch.testing.assert_close(target, recorded_velocity - mean[layout.batch], atol=2e-6, rtol=1e-4)


@pytest.mark.parametrize("name", ["linear", "trigonometric", "encoder_decoder_default", "encoder_decoder", "mirror"])
def test_paths_of_lattices(paths, name):
    x_t, velocity = path(PATHS[name], paths["cell/x_0"], paths["cell/x_1"], paths["t"][:, None, None])
    torch.testing.assert_close(x_t, paths[f"interp_cell/{name}/x_t"], atol=2e-6, rtol=1e-4)
    torch.testing.assert_close(velocity, paths[f"interp_cell/{name}/dx_dt"], atol=2e-6, rtol=1e-4)


def test_double_precision_states(paths):
    layout = Layout(paths["n_atoms"])
    t = paths["t"].double()[layout.batch][:, None]
    recorded = [key.split("/")[2] for key in paths if key.startswith("f64/interp/") and key.endswith("/x_t")]
    assert "periodic_linear" in recorded
    for name in recorded:
        x_t, _ = path(PATHS[name.removeprefix("periodic_")], *ends(paths, name, torch.float64), t)
        same_positions(x_t, paths[f"f64/interp/{name}/x_t"], atol=1e-12)


def test_all_loss_cases_are_known(cases):
    groups = {key[: key.index(case["interpolant"])] + case["interpolant"] for key, case in cases["loss_cases"].items()}
    assert groups == set(LOSS_CASES)


@pytest.mark.parametrize("group", LOSS_CASES)
def test_states_targets_and_losses(cases, paths, losses, group):
    keys = [key for key in cases["loss_cases"] if key.startswith(f"{group}/")]
    assert keys
    for key in keys:
        check_case(key, cases["loss_cases"][key], paths, losses)


def check_case(key, case, paths, losses):
    """States, targets and losses of training, among them those of one-sided paths, of which x_0 plays the part of z."""
    name, field, one_sided = case["interpolant"], case["field"], case["one_sided"]
    layout, periodic = Layout(paths["n_atoms"]), name.startswith("periodic_")
    gamma = None if one_sided else GAMMAS[case["gamma"]]
    ours = PATHS[name.removeprefix("periodic_")].model_copy(update={"gamma": gamma})
    t = paths["t"][:, None, None] if field == "cell" else paths["t"][layout.batch][:, None]
    x_0, x_1 = paths["pos/x_0_gaussian" if one_sided else f"{field}/x_0"], paths[f"{field}/x_1"]
    z = x_0 if one_sided else paths[f"{field}/z"]
    pair = "sbd" in name if one_sided else gamma is not None and gamma.antithetic
    assert case["network_evaluations"] == (2 if pair and "b" in "".join(case["losses"]) else 1)

    targets = {}
    for branch, sign in {"plus": 1.0, "minus": -1.0}.items():
        if f"{key}/x_t_{branch}_seen_by_network" not in losses:
            continue
        start = sign * x_0 if one_sided else x_0
        state, velocity = path(ours, *as_entering(name, start, x_1), t, sign * z)
        if case["correct_center_of_mass_motion"]:
            velocity = velocity - layout.mean(velocity).index_select(0, layout.batch)
        if periodic and case["correct_center_of_mass_motion"]:
            # The composition that training uses.
            state, corrected = torus_path(ours, start, x_1, t, layout, sign * z)
            torch.testing.assert_close(corrected, velocity, atol=1e-6, rtol=1e-6)
        compare = same_positions if periodic else torch.testing.assert_close
        compare(state, losses[f"{key}/x_t_{branch}_seen_by_network"], atol=2e-6, rtol=1e-4)
        if branch == "plus":
            compare(state, losses[f"{key}/x_t"], atol=2e-6, rtol=1e-4)
        targets[branch] = velocity
        if f"{key}/target_{branch}" in losses:
            torch.testing.assert_close(velocity, losses[f"{key}/target_{branch}"], atol=2e-5, rtol=1e-4)
    if "loss_z" in case["losses"]:
        torch.testing.assert_close(z, losses[f"{key}/target_eta"])

    # The official losses leave out the mean square of the targets. Its coefficient of the mixed term is 2, as in a
    # squared error, but for two-sided SDEs that need no pair, where a factor of 2 is missing.
    actual = {}
    if "loss_b" in case["losses"]:
        terms = []
        for branch, target in targets.items():
            predicted = paths[f"{field}/pred_b_{branch}"]
            quirk = not one_sided and case["equation"] == "SDE" and not pair
            mixed = 1.0 if quirk else 2.0
            terms.append(predicted.square().mean() - mixed * (predicted * target).mean())
            if case["linear_coefficient_of_target_in_loss_b"]:
                assert case["linear_coefficient_of_target_in_loss_b"][branch] == mixed / len(targets)
        actual["loss_b"] = sum(terms) / len(terms)
    if "loss_z" in case["losses"]:
        predicted = paths[f"{field}/pred_eta"]
        actual["loss_z"] = (predicted - z).square().mean() - z.square().mean()
    assert actual.keys() == case["losses"].keys()
    for loss, value in actual.items():
        assert float(value) == pytest.approx(case["losses"][loss], rel=1e-4, abs=2e-5), loss
