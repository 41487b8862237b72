"""Import of what OMatG-IRL reinforced: variants, active fields, schedules and noise, over a base model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from omatg_ray.errors import ModelError
from omatg_ray.model.flow_model import FlowModel
from omatg_ray.omatg.base import Imported
from omatg_ray.omatg.read import import_omatg
from omatg_ray.policy.settings import LearnedScheduleSettings, NoiseSettings
from tests.omatg.files import base_tree, interpolant, network_state, of_class, reinforcement_tree, write


@pytest.fixture
def base(tmp_path: Path) -> FlowModel:
    tree = base_tree()
    interpolant(tree, "pos")["velocity_annealing_factor"] = 10.0
    return import_omatg(*write(tmp_path, tree, network_state(), "base")).model


def imported(tmp_path: Path, base: FlowModel, tree: dict[str, Any], state: dict[str, Any]) -> Imported:
    return import_omatg(*write(tmp_path, tree, state, "rl"), base=base)


def schedule_state(hidden: int = 4) -> dict[str, torch.Tensor]:
    """A shared trunk without hidden layers, and two heads."""
    shapes = {
        "_trunk.0": (hidden, 1),
        "_trunk.2": (hidden, hidden),
        "_pos_head": (1, hidden),
        "_cell_head": (1, hidden),
    }
    state = {f"scale_model.{name}.weight": torch.randn(shape) for name, shape in shapes.items()}
    return state | {f"scale_model.{name}.bias": torch.randn(shape[0]) for name, shape in shapes.items()}


def test_velocity_with_a_frozen_field(tmp_path: Path, base: FlowModel) -> None:
    state = network_state(seed=1)
    model = imported(tmp_path, base, reinforcement_tree(disable_fields=["cell"]), state).model
    what = model.description
    assert (what.variant, what.active, what.schedule) == ("velocity", ["pos"], None)
    assert what.noise == {"pos": NoiseSettings(kind="sqrt", a=0.2)}
    assert torch.equal(model.network.coord_out.weight, state["model.encoder.coord_out.weight"])
    assert torch.equal(model.base_network.coord_out.weight, network_state()["model.encoder.coord_out.weight"])


def test_the_annealing_of_the_base_is_ignored_as_there(tmp_path: Path, base: FlowModel) -> None:
    assert base.description.schedule is not None
    result = imported(tmp_path, base, reinforcement_tree(), network_state(seed=1))
    assert result.model.description.schedule is None
    assert any("annealing of the base is left out" in note for note in result.notes)


def test_a_learned_schedule_acts_on_reinforced_fields_only(tmp_path: Path, base: FlowModel) -> None:
    tree = reinforcement_tree(
        "OMGIRLScale", disable_fields=["cell"], scale_model={"hidden_dimension": 4, "number_hidden_layers": 0}
    )
    state = schedule_state()
    model = imported(tmp_path, base, tree, state).model
    assert model.description.variant == "annealing"
    assert model.description.schedule == LearnedScheduleSettings(hidden=4, layers=0, shared=True, fields=["pos"])
    t, below = torch.tensor([0.2, 0.7]), {name.removeprefix("scale_model."): v for name, v in state.items()}
    hidden = torch.nn.functional.silu(t[:, None] @ below["_trunk.0.weight"].T + below["_trunk.0.bias"])
    hidden = hidden @ below["_trunk.2.weight"].T + below["_trunk.2.bias"]
    expected = (hidden @ below["_pos_head.weight"].T + below["_pos_head.bias"])[:, 0]
    assert model.schedule is not None
    torch.testing.assert_close(model.schedule.factor("pos", t) - 1.0, expected)
    assert torch.equal(model.schedule.factor("cell", t), torch.ones(2))


def test_an_annealed_velocity_anneals_frozen_fields_too(tmp_path: Path, base: FlowModel) -> None:
    tree = reinforcement_tree(
        "OMGIRLScaledVelocity",
        disable_fields=["cell"],
        scale_model=of_class("omg.omg_irl.ScaleMLP", hidden_dimension=4, number_hidden_layers=0, checkpoint="x.ckpt"),
    )
    model = imported(tmp_path, base, tree, network_state(seed=1) | schedule_state()).model
    assert (model.description.variant, model.description.active) == ("velocity", ["pos"])
    assert isinstance(model.description.schedule, LearnedScheduleSettings)
    assert model.description.schedule.fields == ["pos", "cell"]


def test_learned_noise(tmp_path: Path, base: FlowModel) -> None:
    noise = of_class(
        "omg.omg_irl.MLPNoiseSchedule", initial_noise_scale=0.3, hidden_dimension=2, number_hidden_layers=0
    )
    tree = reinforcement_tree(disable_fields=["cell"], noise_schedules={"pos": noise})
    shapes = {"0.weight": (2, 1), "0.bias": (2,), "2.weight": (1, 2), "2.bias": (1,)}
    mlp = {f"noise_schedule_modules.pos._mlp.{name}": torch.zeros(shape) for name, shape in shapes.items()}
    mlp["noise_schedule_modules.pos._mlp.2.bias"] = torch.ones(1)
    model = imported(tmp_path, base, tree, network_state(seed=1) | mlp).model
    sigma = model.policy().noise["pos"].sigma(torch.tensor([0.5]))
    assert float(sigma.detach()) == pytest.approx(
        0.3 + torch.nn.functional.softplus(torch.ones(())).item() - 0.6931472, abs=1e-6
    )


@pytest.mark.parametrize(
    "tree, message",
    [
        (reinforcement_tree("OMGIRLHybrid"), "OMGIRLHybrid is not supported"),
        (reinforcement_tree(disable_fields=["pos", "cell"]), "nothing was reinforced"),
        (reinforcement_tree(noise_schedules={"pos": of_class("omg.omg_irl.SqrtNoiseSchedule")}), "cell is missing"),
        (
            reinforcement_tree(noise_schedules={"pos": of_class("omg.omg_irl.SqrtNoiseSchedule", noise_scale=0)}),
            "greater than 0",
        ),
        (reinforcement_tree("OMGIRLScore"), "no denoiser for pos, which a score policy needs"),
    ],
)
def test_configurations_that_cannot_be_carried_over(
    tree: dict[str, Any], message: str, tmp_path: Path, base: FlowModel
) -> None:
    with pytest.raises(ModelError, match=message):
        imported(tmp_path, base, tree, network_state(seed=1))


def test_a_schedule_that_is_missing(tmp_path: Path, base: FlowModel) -> None:
    tree = reinforcement_tree("OMGIRLScale", scale_model={"hidden_dimension": 4, "number_hidden_layers": 0})
    state = {name: value for name, value in schedule_state().items() if "pos_head" not in name}
    with pytest.raises(ModelError, match=r"scale_model does not fit.*lacks heads\.pos"):
        imported(tmp_path, base, tree, state)
    with pytest.raises(ModelError, match=r"cannot be imported: model\.encoder"):
        imported(tmp_path, base, tree, schedule_state() | network_state())


def test_base_models_go_with_reinforcement_only(tmp_path: Path, base: FlowModel) -> None:
    files = write(tmp_path, reinforcement_tree(), network_state(seed=1), "rl")
    with pytest.raises(ModelError, match="import the base model first and name it with --base"):
        import_omatg(*files)
    with pytest.raises(ModelError, match="--base is only for reinforced models"):
        import_omatg(*write(tmp_path, base_tree(), network_state()), base=base)
    reinforced = import_omatg(*files, base=base).model
    with pytest.raises(ModelError, match="--base names a reinforced model"):
        import_omatg(*files, base=reinforced)
