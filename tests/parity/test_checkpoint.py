"""OMatG's checkpoints: imported they are the same networks and samplers, exported the same state dictionaries."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor

from omatg_ray.commands.export_omatg import export_model
from omatg_ray.commands.import_omatg import import_model
from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.crystal.fields import displace
from omatg_ray.model.flow_model import FlowModel
from omatg_ray.omatg.checkpoint import write_checkpoint
from omatg_ray.omatg.weights import ENCODER
from omatg_ray.policy.grid import time_grid
from omatg_ray.policy.noise import LearnedNoise
from tests.parity.loading import crystals

BASES = ["perov5_small", "perov5_small_as_sde_pos", "perov5_small_as_sde_poscell"]
VARIANTS = [
    "velocity_pos", "velocity_poscell", "velocity_mlp_noise", "scaled_velocity", "scaled_velocity_pos",
    "score_pos", "score_poscell", "scale", "scale_mlp_noise_pos",
]  # fmt: skip
FREE_RUNNING = 1e-4
# The first step multiplies the denoiser by 200 to 300 there.
FREE_RUNNING_SCORE = 1e-3


@pytest.fixture(scope="module")
def folder(shared: Path) -> Path:
    return shared / "parity" / "omatg_checkpoint"


@pytest.fixture(scope="module")
def bases(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All configurations imported, as model folders."""
    out = tmp_path_factory.mktemp("bases")
    for name in BASES:
        import_model(folder / "perov5_small.ckpt", folder / f"{name}.yaml", out / name)
    return out


def check(state: CrystalBatch, pos: Tensor, cell: Tensor, tolerance: float = FREE_RUNNING) -> None:
    difference = (state.pos - pos + 0.5) % 1.0 - 0.5
    assert float(difference.abs().max()) < tolerance
    torch.testing.assert_close(state.cell, cell, atol=tolerance, rtol=0)


def test_every_tensor_arrives(folder: Path, bases: Path) -> None:
    listed = json.loads((folder / "perov5_small_contents.json").read_text())["tensors"]
    state = FlowModel.load(bases / "perov5_small").base_network.state_dict()
    assert {f"{ENCODER}{name}" for name in state} == set(listed)
    for name, expected in listed.items():
        value = state[name.removeprefix(ENCODER)]
        assert list(value.shape) == expected["shape"]
        assert float(value.double().sum()) == pytest.approx(expected["sum"], rel=1e-6, abs=1e-4)
        assert float(value.double().norm()) == pytest.approx(expected["l2"], rel=1e-6)
        assert float(value.flatten()[0]) == expected["first"]


def test_the_base_distribution_is_that_of_the_data_set(shared: Path, bases: Path) -> None:
    expected = json.loads((shared / "parity" / "base_distributions.json").read_text())["informed_lattice"]["perov_5"]
    cell = json.loads((bases / "perov5_small" / "model.json").read_text())["base_distribution"]["cell"]
    assert (cell["log_length_mean"], cell["log_length_std"]) == (expected["log_mean"], expected["log_std"])


def test_outputs_of_the_network(shared: Path, bases: Path) -> None:
    arrays = load_file(shared / "parity" / "network_perov5_small.safetensors")
    batch = CrystalBatch(arrays["atomic_numbers"], arrays["frac_coords"], arrays["lattice"], arrays["n_atoms"])
    network = FlowModel.load(bases / "perov5_small").base_network
    with torch.no_grad():
        for row, t in enumerate(arrays["t"]):
            out = network(batch, t)
            for name in ("pos_b", "pos_eta", "cell_b", "cell_eta"):
                torch.testing.assert_close(getattr(out, name), arrays[name][row], atol=2e-5, rtol=0)


@pytest.mark.parametrize("name", ["sample_ode_perov5_small", "sample_ode_annealed"])
def test_generates_the_same_structures(name: str, shared: Path, folder: Path, tmp_path: Path) -> None:
    info = json.loads((shared / "parity" / "sample_and_training.json").read_text())[name]
    tree = yaml.safe_load((folder / info["yaml"]).read_text())
    for of, interpolant in zip(
        ("pos", "cell"), tree["model"]["si"]["init_args"]["stochastic_interpolants"][1:], strict=True
    ):
        interpolant["init_args"]["velocity_annealing_factor"] = info["velocity_annealing_factor"][of]
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(tree))
    import_model(folder / info["checkpoint"], tmp_path / "train.yaml", tmp_path / "model")

    arrays = load_file(shared / "parity" / f"{name}.safetensors")
    times = time_grid(info["number_of_times"])
    final = FlowModel.load(tmp_path / "model").policy().integrate(crystals(arrays), times)
    check(final, arrays["x_1/pos"], arrays["x_1/cell"])


def test_generates_the_same_structures_as_an_sde(shared: Path, bases: Path) -> None:
    """Step by step from the stored states, with the Brownian increments of the official integration."""
    arrays = load_file(shared / "parity" / "sample_sde_pos.safetensors")
    policy = FlowModel.load(bases / "perov5_small_as_sde_pos").policy(sde=True)
    assert policy.active == ("pos",)
    start = crystals(arrays)
    substeps, substep = arrays["pos/number_of_substeps_per_step"].tolist(), 0
    for k, number in enumerate(substeps):
        first, substep = substep, substep + number
        if number > 1:
            continue  # A rounding error of the official step length makes a second, tiny one.
        t, dt = arrays["times"][k], arrays["times"][k + 1] - arrays["times"][k]
        noise = {"pos": arrays["pos/brownian_increment"][first] / dt.sqrt()}
        state = start.replace(arrays["states/pos"][k], arrays["states/cell"][k])
        with torch.no_grad():
            moved = displace(state, policy.step(state, t, dt, noise).displacement)
        check(moved, arrays["states/pos"][k + 1], arrays["states/cell"][k + 1])


def reinforcement(info: dict[str, Any]) -> dict[str, Any]:
    """The configuration of a recorded rollout, as OMatG-IRL writes it."""
    names = {"constant": "ConstantNoiseSchedule", "sqrt": "SqrtNoiseSchedule", "mlp": "MLPNoiseSchedule"}
    schedules = {
        of: {
            "class_path": f"omg.omg_irl.{names[schedule['type']]}",
            "init_args": {key: value for key, value in schedule.items() if key != "type"},
        }
        for of, schedule in info["noise_schedules"].items()
    }
    arguments = {"noise_schedules": schedules, "disable_fields": info["disabled_fields"], "ppo_epochs": 4}
    if info["scale_mlp"] is not None:
        arguments["scale_model"] = {"class_path": "omg.omg_irl.ScaleMLP", "init_args": info["scale_mlp"]}
    return {"model": {"class_path": f"omg.omg_irl.{info['class']}", "init_args": arguments}, "trainer": {}}


@pytest.mark.parametrize("name", VARIANTS)
def test_reinforced_models_move_as_the_official_ones(
    name: str, shared: Path, folder: Path, bases: Path, tmp_path: Path
) -> None:
    parity = shared / "parity"
    info = json.loads((parity / f"rollout_{name}.json").read_text())
    arrays = load_file(parity / f"rollout_{name}.safetensors")
    prefix = "parameters_at_rollout/"
    state = {key.removeprefix(prefix): value for key, value in arrays.items() if key.startswith(prefix)}
    if info["policy_delta_file"]:
        state |= torch.load(folder / info["checkpoint"], weights_only=True)["state_dict"]
        for key, delta in load_file(parity / info["policy_delta_file"]).items():
            state[f"model.{key}"] = state[f"model.{key}"] + info["policy_delta_factor_at_rollout"] * delta
    write_checkpoint(tmp_path / "rl.ckpt", state)
    (tmp_path / "rl.yaml").write_text(yaml.safe_dump(reinforcement(info)))
    base = bases / info["yaml"].removesuffix(".yaml")
    import_model(tmp_path / "rl.ckpt", tmp_path / "rl.yaml", tmp_path / "model", base)

    model = FlowModel.load(tmp_path / "model")
    active = info["active_fields_in_order_of_noise_draws"]
    assert model.description.active == active
    noise = {of: arrays[f"noise/{of}"] for of in active}
    final = model.policy().integrate(crystals(arrays), arrays["times"], noise)
    tolerance = FREE_RUNNING_SCORE if name.startswith("score") else FREE_RUNNING
    check(final, arrays["states/pos"][-1], arrays["states/cell"][-1], tolerance)


def test_a_learned_schedule_and_learned_noise(folder: Path, bases: Path, tmp_path: Path) -> None:
    info = {
        "class": "OMGIRLScale",
        "disabled_fields": [],
        "noise_schedules": {
            "pos": {"type": "mlp", "initial_noise_scale": 0.3, "hidden_dimension": 8, "number_hidden_layers": 1},
            "cell": {"type": "constant", "noise_scale": 0.2},
        },
        "scale_mlp": {"hidden_dimension": 16, "number_hidden_layers": 2},
    }
    (tmp_path / "rl.yaml").write_text(yaml.safe_dump(reinforcement(info)))
    import_model(folder / "irl_scale.ckpt", tmp_path / "rl.yaml", tmp_path / "model", bases / "perov5_small")
    model = FlowModel.load(tmp_path / "model")
    expected = load_file(folder / "irl_scale_expected.safetensors")
    t = expected["t"]
    with torch.no_grad():
        for of in ("pos", "cell"):
            assert model.schedule is not None
            torch.testing.assert_close(model.schedule.factor(of, t) - 1.0, expected[f"{of}_s"], atol=1e-6, rtol=0)
        noise = model.learned["noise"]["pos"]
        assert isinstance(noise, LearnedNoise)
        torch.testing.assert_close(noise.sigma(t), expected["sigma_pos"], atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", BASES)
def test_exported_it_is_the_same_state_dictionary(name: str, folder: Path, bases: Path, tmp_path: Path) -> None:
    export_model(bases / name, tmp_path / "out")
    original = torch.load(folder / "perov5_small.ckpt", weights_only=True)["state_dict"]
    exported = torch.load(tmp_path / "out" / "checkpoint.ckpt", weights_only=True)["state_dict"]
    assert exported.keys() == original.keys()
    assert all(torch.equal(exported[key], original[key]) for key in original)


@pytest.mark.parametrize("name", BASES)
def test_the_exported_configuration_describes_the_same_sampler(
    name: str, folder: Path, bases: Path, tmp_path: Path
) -> None:
    export_model(bases / name, tmp_path / "out")
    exported = yaml.safe_load((tmp_path / "out" / "train.yaml").read_text())["model"]
    original = yaml.safe_load((folder / f"{name}.yaml").read_text())["model"]
    assert exported["si"]["init_args"]["data_fields"] == original["si"]["init_args"]["data_fields"]
    assert exported["si"]["init_args"]["integration_time_steps"] == 50
    found, expected = (tree["si"]["init_args"]["stochastic_interpolants"] for tree in (exported, original))
    for ours, theirs in zip(found, expected, strict=True):
        assert with_class_paths(ours) == with_class_paths(theirs)
    assert with_class_paths(exported["sampler"]) == with_class_paths(original["sampler"])
    arguments = exported["model"]["init_args"]["encoder"]["init_args"]
    assert arguments == {**original["model"]["init_args"]["encoder"]["init_args"], "max_atoms": 100}
    # OMatG demands a weight for every loss, and that they add up to 1.
    assert exported["relative_si_costs"].keys() == original["relative_si_costs"].keys()
    assert sum(exported["relative_si_costs"].values()) == pytest.approx(1.0, abs=1e-10)


def with_class_paths(value: Any) -> Any:
    """Lightning takes `X` for `{class_path: X}`."""
    if isinstance(value, dict):
        return {key: one if key == "class_path" else with_class_paths(one) for key, one in value.items()}
    return {"class_path": value} if isinstance(value, str) and value.startswith("omg.") else value
