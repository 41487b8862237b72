"""Export: what Lightning and OMatG take, every part of a sampler in their words, and refusals with the reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn

from omatg_ray.crystal.base import BaseDistribution, InformedCell, Normal
from omatg_ray.errors import ModelError
from omatg_ray.flow.network import CSPNet
from omatg_ray.flow.settings import PathSettings
from omatg_ray.model.description import ModelDescription
from omatg_ray.model.flow_model import FlowModel, new_modules
from omatg_ray.omatg.export import export_omatg
from omatg_ray.omatg.hub import CHECKPOINT_FILE, CONFIG_FILE
from omatg_ray.omatg.lattices import informed_cell
from omatg_ray.omatg.read import import_omatg
from omatg_ray.policy.hand_made import LinearSchedule
from omatg_ray.policy.settings import LearnedScheduleSettings, NoiseSettings
from tests.omatg.files import SIZE, base_tree, network_state, write
from tests.small import random_crystals

MP_20 = informed_cell("mp_20")
assert MP_20 is not None
NOISE = NoiseSettings(kind="constant", a=0.1)


def described(**changes: Any) -> ModelDescription:
    values: dict[str, Any] = {
        "network": SIZE,
        "paths": PathSettings(),
        "base_distribution": BaseDistribution(cell=MP_20),
        "elements": ["Na"],
        "sizes": [2],
    }
    return ModelDescription(**(values | changes))


def model_of(**changes: Any) -> FlowModel:
    torch.manual_seed(0)
    description = described(**changes)
    base = CSPNet(description.network)
    learned = new_modules(description)
    return FlowModel(description, base, learned)


def exported(model: FlowModel, folder: Path, **options: Any) -> tuple[dict[str, Tensor], dict[str, Any], list[str]]:
    notes = export_omatg(model, folder, **options)
    state = torch.load(folder / CHECKPOINT_FILE, weights_only=True)["state_dict"]
    return state, yaml.safe_load((folder / CONFIG_FILE).read_text()), notes


def test_import_then_export_gives_the_tensors_back_but_for_leftover_layers(tmp_path: Path) -> None:
    original = network_state()
    model = import_omatg(*write(tmp_path, base_tree(), original)).model
    state, tree, notes = exported(model, tmp_path)
    assert state.keys() == original.keys()  # Lightning loads no dictionary with missing names.
    for name, value in original.items():
        assert state[name].shape == value.shape
        if "csp_layer_2" in name or "csp_layer_3" in name:
            assert not state[name].any()
        else:
            assert torch.equal(state[name], value)
    assert tree["model"]["si"]["init_args"]["integration_time_steps"] == 20  # as imported
    assert any("does not use are zero" in note for note in notes)


def test_export_then_import_gives_the_same_sampler(tmp_path: Path) -> None:
    paths = PathSettings.model_validate(
        {
            "pos": {
                "kind": "encoder_decoder",
                "switch_time": 0.6,
                "power": 2.0,
                "gamma": {"kind": "encoder_decoder", "a": 0.5, "switch_time": 0.4, "power": 1.5},
                "epsilon": {"kind": "constant", "c": 0.3},
            },
            "cell": {"kind": "vp", "schedule": {"kind": "cosine", "offset": 0.1}, "epsilon": {"kind": "vanishing"}},
        }
    )
    base = BaseDistribution(pos=Normal(scale=0.5), cell=Normal(loc=1.0, scale=3.0))
    model = model_of(paths=paths, base_distribution=base, schedule=LinearSchedule(pos=0.0, cell=2.5))
    export_omatg(model, tmp_path, steps=30)
    back = import_omatg(tmp_path / CHECKPOINT_FILE, tmp_path / CONFIG_FILE).model
    assert back.description.paths == paths
    assert back.description.base_distribution == base
    assert back.description.schedule == LinearSchedule(pos=0.0, cell=2.5)
    assert back.description.network == SIZE
    for name, value in model.base_network.state_dict().items():
        assert torch.equal(back.base_network.state_dict()[name], value)


@pytest.mark.parametrize("kind", ["linear", "trigonometric", "mirror", "ve"])
def test_every_family_of_paths_comes_back(kind: str, tmp_path: Path) -> None:
    values = {"kind": kind, **({"sigma_min": 0.01, "sigma_max": 2.0} if kind == "ve" else {})}
    paths = PathSettings.model_validate({"pos": values, "cell": values})
    export_omatg(model_of(paths=paths), tmp_path)
    assert import_omatg(tmp_path / CHECKPOINT_FILE, tmp_path / CONFIG_FILE).model.description.paths == paths


@pytest.mark.parametrize(("pairing", "back"), [("as_drawn", "as_drawn"), ("same_species", None)])
def test_pairing_comes_back_or_is_noted(pairing: str, back: str | None, tmp_path: Path) -> None:
    notes = export_omatg(model_of(paths=PathSettings(pairing=pairing)), tmp_path)
    assert any("paired within a species" in note for note in notes) is (pairing == "same_species")
    again = import_omatg(tmp_path / CHECKPOINT_FILE, tmp_path / CONFIG_FILE).model
    assert again.description.paths.pairing == back


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = CSPNet(SIZE.model_copy(update={"layers": 4}))


def test_lightning_loads_the_checkpoint(tmp_path: Path) -> None:
    lightning = pytest.importorskip("lightning.pytorch")

    class Peer(lightning.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.model = Encoder()

        def predict_step(self, batch: Tensor) -> Tensor:
            return self.model.encoder.coord_out.weight.detach().clone()

    model = model_of(network=SIZE.model_copy(update={"layers": 4}))
    export_omatg(model, tmp_path)
    shown = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = lightning.Trainer(accelerator="cpu", default_root_dir=tmp_path, **shown)
    (found,) = trainer.predict(Peer(), torch.utils.data.DataLoader([0.0]), ckpt_path=str(tmp_path / CHECKPOINT_FILE))
    assert torch.equal(found, model.base_network.coord_out.weight)


def test_a_model_reinforced_on_both_fields(tmp_path: Path) -> None:
    model = model_of(active=["pos", "cell"], noise={"pos": NOISE, "cell": NOISE})
    state, tree, notes = exported(model, tmp_path, steps=10, data="mine.lmdb")
    assert torch.equal(state["model.encoder.coord_out.weight"], model.network.coord_out.weight)
    assert not torch.equal(model.network.coord_out.weight, model.base_network.coord_out.weight)
    assert tree["data"]["pred_dataset"]["init_args"]["file_path"] == "mine.lmdb"
    assert any("noise of the policy is left out" in note for note in notes)


def test_a_frozen_field_with_another_network_is_refused(tmp_path: Path) -> None:
    model = model_of(active=["pos"], noise={"pos": NOISE})
    with pytest.raises(ModelError, match="cell follows the base network and pos the reinforced one"):
        export_omatg(model, tmp_path)
    # As long as both networks are the same, one of them is enough.
    model.network.load_state_dict(model.base_network.state_dict())
    export_omatg(model, tmp_path)
    assert (tmp_path / CHECKPOINT_FILE).is_file()


def test_what_one_network_cannot_express_is_refused(tmp_path: Path) -> None:
    schedule = LearnedScheduleSettings(fields=["pos", "cell"], hidden=4, layers=0)
    fitted = BaseDistribution(cell=InformedCell(log_length_mean=(1.5, 1.5, 1.6), log_length_std=(0.1, 0.1, 0.1)))
    by_volume = BaseDistribution.fit(random_crystals([2, 3]), "by_volume")
    noise = {"pos": NOISE, "cell": NOISE}
    for model, message in (
        (
            model_of(variant="annealing", active=["pos", "cell"], noise=noise, schedule=schedule),
            "its schedule cannot be exported",
        ),
        (model_of(schedule=LinearSchedule(pos=5.0, limit=0.6)), "its schedule has a limit"),
        (
            model_of(active=["pos", "cell"], noise=noise, acts_from=0.6),
            "acts from t = 0.6 on, the base before; `omg predict` runs one network",
        ),
        (model_of(base_distribution=fitted), "fitted to other data than OMatG's own fits"),
        (model_of(base_distribution=by_volume), "lattices start by_volume; train it with pretrain.lattices=informed"),
        (
            model_of(network=SIZE.model_copy(update={"pooled": True})),
            "pooled messages, nearest neighbors, shapes of lattices or a separation",
        ),
        (
            model_of(network=SIZE.model_copy(update={"separation": True})),
            "pooled messages, nearest neighbors, shapes of lattices or a separation",
        ),
        (
            model_of(network=SIZE.model_copy(update={"neighbors": 16})),
            "pooled messages, nearest neighbors, shapes of lattices or a separation",
        ),
        (
            model_of(network=SIZE.model_copy(update={"lattice": "shape"})),
            "pooled messages, nearest neighbors, shapes of lattices or a separation",
        ),
    ):
        with pytest.raises(ModelError, match=message):
            export_omatg(model, tmp_path)
        assert not list(tmp_path.iterdir())
    with pytest.raises(ModelError, match="at least 2 points"):
        export_omatg(model_of(), tmp_path, steps=1)
