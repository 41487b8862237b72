"""Import of base models: what a configuration means here, and refusals that say what cannot be carried over."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from pymatgen.core import Lattice, Structure

from omatg_ray.crystal.base import InformedCell, Normal
from omatg_ray.crystal.write import write_structures
from omatg_ray.errors import ModelError
from omatg_ray.flow.interpolant import EncoderDecoder, Trigonometric, VarianceExploding, VariancePreserving
from omatg_ray.flow.network import CSPNet
from omatg_ray.flow.settings import NetworkSettings
from omatg_ray.model.flow_model import FlowModel
from omatg_ray.model.sampling import Sampling
from omatg_ray.omatg.base import Imported
from omatg_ray.omatg.read import import_omatg
from tests.omatg.files import SIZE, base_tree, encoder, interpolant, network_state, of_class, write

Change = Callable[[dict[str, Any]], None]


def imported(tmp_path: Path, change: Change = lambda tree: None, state: dict[str, Any] | None = None) -> Imported:
    tree = base_tree()
    change(tree)
    return import_omatg(*write(tmp_path, tree, network_state() if state is None else state))


def test_a_base_model(tmp_path: Path) -> None:
    result = imported(tmp_path)
    what = result.model.description
    assert what.network == SIZE
    assert (what.paths.pos.kind, what.paths.cell.kind, what.active, what.schedule) == ("linear", "linear", [], None)
    assert isinstance(what.base_distribution.cell, InformedCell)
    assert what.base_distribution.cell.log_length_mean[0] == pytest.approx(1.575442910194397)
    assert (what.provenance["epoch"], what.provenance["global_step"]) == (7, 100)
    state = network_state()
    for name, value in result.model.base_network.state_dict().items():
        assert torch.equal(value, state[f"model.encoder.{name}"])
    notes = "\n".join(result.notes)
    assert "--steps 20" in notes
    assert "csp_layer_2, csp_layer_3" in notes
    assert "elements and cell sizes of its training set are unknown" in notes


@pytest.mark.parametrize(("value", "pairing"), [(True, None), (False, "as_drawn"), (None, "as_drawn")])
def test_pairing_is_that_of_the_training(value: bool | None, pairing: str | None, tmp_path: Path) -> None:
    def change(tree: dict[str, Any]) -> None:
        if value is not None:
            tree["model"]["use_min_perm_dist"] = value

    assert imported(tmp_path, change).model.description.paths.pairing == pairing


def test_it_generates_as_the_loaded_model_folder(tmp_path: Path) -> None:
    model = imported(tmp_path).model
    (tmp_path / "out").mkdir()
    model.save(tmp_path / "out")
    ours, theirs = (m.generate([[11, 17]], Sampling(4)) for m in (model, FlowModel.load(tmp_path / "out")))
    assert torch.equal(ours.pos, theirs.pos)
    assert torch.equal(ours.cell, theirs.cell)


def test_gamma_epsilon_and_annealing(tmp_path: Path) -> None:
    def change(tree: dict[str, Any]) -> None:
        pos, cell = interpolant(tree, "pos"), interpolant(tree, "cell")
        pos["interpolant"] = "omg.si.interpolants.PeriodicTrigonometricInterpolant"
        pos["gamma"] = of_class("omg.si.gamma.LatentGammaSqrt", a=0.05)
        pos["epsilon"] = of_class("omg.si.epsilon.VanishingEpsilon", c=9.4, mu=0.2, sigma=0.04)
        pos["differential_equation_type"] = "SDE"
        cell["velocity_annealing_factor"] = 1.8
        cell["interpolant"] = of_class("omg.si.interpolants.EncoderDecoderInterpolant", switch_time=0.6, power=1.5)

    result = imported(tmp_path, change)
    what = result.model.description
    t = torch.tensor([0.1, 0.5, 0.8])
    assert isinstance(what.paths.pos, Trigonometric)
    assert what.paths.pos.gamma is not None
    assert what.paths.pos.epsilon is not None
    torch.testing.assert_close(what.paths.pos.gamma.value(t), (0.05 * t * (1 - t)).sqrt())
    expected = 9.4 / (1 + torch.exp(-(t - 0.2) / 0.04)) / (1 + torch.exp(-(0.8 - t) / 0.04))
    torch.testing.assert_close(what.paths.pos.epsilon.value(t), expected)
    assert isinstance(what.paths.cell, EncoderDecoder)
    assert (what.paths.cell.switch_time, what.paths.cell.power) == (0.6, 1.5)
    assert what.schedule is not None
    assert (what.schedule.pos, what.schedule.cell) == (0.0, 1.8)  # type: ignore[union-attr]
    assert any("pos as an SDE" in note for note in result.notes)


def test_a_stochastic_process_with_slopes(tmp_path: Path) -> None:
    """(1 + s t) b − (ε / γ) η, as OMatG has it: the slope of the annealing multiplies the velocity alone."""

    def change(tree: dict[str, Any]) -> None:
        for of, slope in (("pos", 3.0), ("cell", 1.5)):
            interpolant(tree, of).update(
                gamma=of_class("omg.si.gamma.LatentGammaSqrt", a=0.1),
                epsilon=of_class("omg.si.epsilon.ConstantEpsilon", c=0.02),
                differential_equation_type="SDE",
                velocity_annealing_factor=slope,
            )

    result = imported(tmp_path, change)
    policy = result.model.policy(sde=True)
    t, start = torch.tensor(0.4), result.model.description.base_distribution.sample([[11, 17], [26]], [0, 1])
    with torch.no_grad():
        outputs = policy.outputs(start, t)
        rates = {field: policy.drift.rate(field, outputs, t, start) for field in policy.active}
        out = result.model.base_network(start, t)
    weight = 0.02 / (0.1 * 0.4 * 0.6) ** 0.5
    torch.testing.assert_close(rates["pos"], (1 + 3.0 * 0.4) * out.pos_b - weight * out.pos_eta)
    torch.testing.assert_close(rates["cell"], (1 + 1.5 * 0.4) * out.cell_b - weight * out.cell_eta)
    for of in ("pos", "cell"):
        assert float(policy.noise[of].sigma(t)) == pytest.approx((2 * 0.02) ** 0.5)
    assert any("pos and cell as an SDE" in note for note in result.notes)


def test_it_says_that_it_may_be_a_reinforced_one(tmp_path: Path) -> None:
    """Nothing in such a checkpoint tells, so that the same tensors give a base model or, with --base, another."""
    assert any("velocity and score checkpoints of OMatG-IRL" in note for note in imported(tmp_path).notes)


def test_one_sided_diffusion(tmp_path: Path) -> None:
    one_sided = "omg.si.single_stochastic_interpolant_os.SingleStochasticInterpolantOS"

    def change(tree: dict[str, Any]) -> None:
        schedules = {
            "pos": of_class(
                "omg.si.interpolants.PeriodicScoreBasedDiffusionModelInterpolantVE",
                sigma=of_class("omg.si.sigma.GeometricSigma", sigma_min=0.01, sigma_max=2.0),
            ),
            "cell": of_class(
                "omg.si.interpolants.ScoreBasedDiffusionModelInterpolantVP",
                tau=of_class("omg.si.tau.TauLinearSchedule", beta_min=0.1, beta_max=20.0),
            ),
        }
        listed = tree["model"]["si"]["init_args"]["stochastic_interpolants"]
        for index, of in enumerate(("pos", "cell"), start=1):
            listed[index]["class_path"] = one_sided
            del listed[index]["init_args"]["gamma"]
            listed[index]["init_args"]["interpolant"] = schedules[of]
            listed[index]["init_args"]["velocity_annealing_factor"] = None
        sampler = tree["model"]["sampler"]["init_args"]
        sampler["pos_distribution"] = "omg.sampler.position_distributions.NormalPositionDistribution"
        sampler["cell_distribution"] = of_class("omg.sampler.cell_distributions.NormalCellDistribution", scale=2)

    what = imported(tmp_path, change).model.description
    assert isinstance(what.paths.pos, VarianceExploding)
    assert (what.paths.pos.sigma_min, what.paths.pos.sigma_max) == (0.01, 2.0)
    assert isinstance(what.paths.cell, VariancePreserving)
    assert what.paths.pos.one_sided
    assert isinstance(what.base_distribution.pos, Normal)
    assert what.base_distribution.cell == Normal(loc=0.0, scale=2.0)


def test_defaults_of_the_network_are_those_of_the_publication(tmp_path: Path) -> None:
    from omatg_ray.omatg.base import network_settings
    from omatg_ray.omatg.configuration import read_section

    tree = base_tree()["model"]["model"]
    tree["init_args"]["encoder"] = "omg.model.encoders.cspnet_full.CSPNetFull"
    tree["init_args"]["time_embedder"]["init_args"]["dim"] = 256
    expected = NetworkSettings(hidden=512, layers=6, frequencies=128, time_features=256, max_atomic_number=100)
    assert network_settings(read_section(tree, "model.model")) == expected


def test_elements_and_sizes_of_the_training_crystals(tmp_path: Path) -> None:
    crystals = [
        Structure(Lattice.cubic(4), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]]),
        Structure(Lattice.cubic(3), ["Fe"], [[0, 0, 0]]),
    ]
    write_structures(tmp_path / "train.json", crystals)
    files = write(tmp_path, base_tree(), network_state())
    what = import_omatg(*files, data=tmp_path / "train.json").model.description
    assert (what.elements, what.sizes) == (["Na", "Cl", "Fe"], [1, 2])

    tree = base_tree()
    tree["data"] = {"train_dataset": of_class("omg.datamodule.StructureDataset", file_path="train.json")}
    result = import_omatg(*write(tmp_path, tree, network_state()))  # named by the configuration, beside it
    assert (result.model.description.sizes, result.notes[-1].endswith("train.json")) == ([1, 2], True)


def set_(path: Callable[[dict[str, Any]], dict[str, Any]], **values: Any) -> Change:
    return lambda tree: path(tree).update(values)


def sampler(tree: dict[str, Any]) -> dict[str, Any]:
    return tree["model"]["sampler"]["init_args"]


def species(tree: dict[str, Any]) -> dict[str, Any]:
    return tree["model"]["si"]["init_args"]["stochastic_interpolants"][0]


def pos(tree: dict[str, Any]) -> dict[str, Any]:
    return interpolant(tree, "pos")


def cell(tree: dict[str, Any]) -> dict[str, Any]:
    return interpolant(tree, "cell")


@pytest.mark.parametrize(
    "change, message",
    [
        (set_(pos, interpolant="omg.si.interpolants.PeriodicCubicInterpolant"), "CubicInterpolant is not supported"),
        (set_(pos, interpolant="omg.si.interpolants.LinearInterpolant"), "is not periodic"),
        (set_(cell, interpolant="omg.si.interpolants.PeriodicLinearInterpolant"), "is periodic"),
        (set_(pos, interpolant="os.system"), "os.system is not a class of OMatG"),
        (set_(pos, gamma=of_class("omg.si.gamma.LatentGammaSqrt", a=-1)), r"pos\.gamma.*greater than 0"),
        (set_(pos, gamma=of_class("omg.si.gamma.LatentGammaSqrt", b=1)), r"gamma\.b: this argument of LatentGammaSqrt"),
        (set_(pos, gamma=of_class("omg.si.gamma.LatentGammaSqrt")), r"pos\.gamma\.a: Field required"),
        (set_(pos, differential_equation_type="PDE"), "must be ODE or SDE, not PDE"),
        (set_(pos, differential_equation_type="SDE"), r"pos\.epsilon: a class path is missing"),
        (set_(pos, speed=2), r"pos\.speed: this argument of SingleStochasticInterpolant is not supported"),
        (set_(pos, velocity_annealing_factor="fast"), "must be a number, not 'fast'"),
        (set_(species, class_path="omg.si.discrete_flow_matching_mask.Other"), "supported: .*MatchingUniform"),
        (set_(encoder, act_fn="gelu"), r"encoder\.act_fn: only silu"),
        (set_(encoder, edge_style="knn"), r"encoder\.edge_style: only fc"),
        (set_(encoder, latent_dim=8), r"dim is 6, but .*latent_dim is 8"),
        (set_(encoder, depth=3), r"encoder\.depth: this argument of CSPNetFull is not supported"),
        (set_(sampler, cell_distribution="omg.sampler.cell_distributions.CubicCells"), "CubicCells is not supported"),
        (
            set_(sampler, cell_distribution=of_class("omg.sampler.InformedLatticeDistribution", dataset_name="x")),
            "dataset_name must be one of carbon_24, mp_20",
        ),
        (set_(sampler, species_distribution="omg.sampler.MaskSpeciesDistribution"), "expected: MirrorSpecies"),
        (lambda tree: tree["model"].pop("si"), r"model\.si is missing"),
        (lambda tree: tree["model"]["model"]["init_args"].update(property_keys="gap"), "conditioned on properties"),
    ],
)
def test_what_would_generate_otherwise_is_refused(change: Change, message: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=message):
        imported(tmp_path, change)


def without(prefix: str) -> dict[str, Any]:
    return {name: value for name, value in network_state().items() if not name.startswith(prefix)}


@pytest.mark.parametrize(
    "state, message",
    [
        (without("model.encoder.coord_out"), "lacks coord_out.weight, coord_out_2.weight"),
        (network_state() | {"model.encoder.extra.weight": torch.ones(1)}, "also has extra.weight"),
        (
            network_state() | {"model.prop_embedder.weight": torch.ones(1)},
            "cannot be imported: model.prop_embedder",
        ),
        (network_state() | {"model.encoder.coord_out.weight": torch.ones(3, 9)}, r"has shape \(3, 9\)"),
        (network_state() | {"model.encoder.coord_out.weight": torch.full((3, 8), torch.nan)}, "NaN or infinite"),
        (network_state(size=SIZE.model_copy(update={"layers": 3})), "csp_layer_2, the configuration only 2 layers"),
        (network_state(size=SIZE.model_copy(update={"layers": 5})), "layer csp_layer_"),
        (network_state() | {"scale_model._trunk.0.bias": torch.ones(1)}, "is a reinforced model"),
        ({"net.weight": torch.ones(1)}, "is not an OMatG checkpoint"),
    ],
)
def test_checkpoints_that_do_not_fit(state: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=message):
        imported(tmp_path, state=state)


class Hostile:
    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (self.command,)


def test_a_hostile_checkpoint_is_refused_and_not_run(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    with pytest.raises(ModelError, match=r"is refused: it holds a posix\.system"):
        imported(tmp_path, state=network_state() | {"model.encoder.x": Hostile(f"touch {trace}")})
    assert not trace.exists()


@pytest.mark.parametrize("part", ["loops", "callbacks", "optimizer_states", "hyper_parameters"])
def test_nothing_hostile_beside_the_weights_is_run(part: str, tmp_path: Path) -> None:
    """Lightning's own parts are not used, but reading the weights reads them."""
    trace = tmp_path / "trace"
    checkpoint, config = write(tmp_path, base_tree(), network_state())
    content = torch.load(checkpoint, weights_only=True)
    content[part] = {"fit_loop": {"state_dict": {"epoch_progress": [{"deep": Hostile(f"touch {trace}")}]}}}
    torch.save(content, checkpoint)
    with pytest.raises(ModelError, match=r"is refused: it holds a posix\.system"):
        import_omatg(checkpoint, config)
    assert not trace.exists()
    torch.load(checkpoint, weights_only=False)  # The same file does run the command when nothing restricts it.
    assert trace.exists()


def test_what_lightning_keeps_in_its_loops_is_read(tmp_path: Path) -> None:
    lightning = pytest.importorskip("lightning.pytorch")
    shown = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = lightning.Trainer(accelerator="cpu", max_steps=1, default_root_dir=tmp_path, **shown)

    class Peer(lightning.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.model = torch.nn.Module()
            self.model.encoder = CSPNet(SIZE.model_copy(update={"layers": 4}))

        def training_step(self, batch: torch.Tensor) -> torch.Tensor:
            return self.model.encoder.coord_out.weight.square().sum()

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.Adam(self.parameters())

    peer = Peer()
    trainer.fit(peer, torch.utils.data.DataLoader([0.0]))
    trainer.save_checkpoint(tmp_path / "trained.ckpt")
    tree = base_tree()
    encoder(tree)["num_layers"] = 4
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(tree))
    model = import_omatg(tmp_path / "trained.ckpt", tmp_path / "train.yaml").model
    assert torch.equal(model.base_network.coord_out.weight, peer.model.encoder.coord_out.weight)
    assert model.description.provenance["global_step"] == 1


def test_a_file_that_was_cut_off(tmp_path: Path) -> None:
    checkpoint, config = write(tmp_path, base_tree(), network_state())
    data = checkpoint.read_bytes()
    for size in (0, 1, 100, len(data) // 2, len(data) - 1):
        checkpoint.write_bytes(data[:size])
        with pytest.raises(ModelError, match=rf"model\.ckpt \({size} bytes\) is not a .*, or is truncated$"):
            import_omatg(checkpoint, config)


def test_tensors_larger_than_the_file_are_refused(tmp_path: Path) -> None:
    """In the old format a tensor of 4 EB fits into a file of 400 bytes, and in a compressed one 8 MB into 8 kB."""
    checkpoint, config = write(tmp_path, base_tree(), network_state())
    torch.save({"state_dict": {"model.encoder.x": torch.ones(3)}}, checkpoint, _use_new_zipfile_serialization=False)
    claimed = checkpoint.read_bytes().replace(b"K\x03N", b"\x8a\x08" + (10**18).to_bytes(8, "little") + b"N")
    assert len(claimed) < 1000 and claimed != checkpoint.read_bytes()
    for data in (checkpoint.read_bytes(), claimed):
        checkpoint.write_bytes(data)
        with pytest.raises(ModelError, match=r"model\.ckpt is refused: it is in PyTorch's format before 1\.6"):
            import_omatg(checkpoint, config)
    torch.save({"state_dict": {"model.encoder.x": torch.zeros(2_000_000)}}, checkpoint)
    with zipfile.ZipFile(checkpoint) as plain, zipfile.ZipFile(tmp_path / "small.ckpt", "w") as small:
        for name in plain.namelist():
            small.writestr(name, plain.read(name), zipfile.ZIP_DEFLATED)
    with pytest.raises(
        ModelError, match=r"small\.ckpt is refused: its records claim 80\d{5} bytes, more than the \d{4} "
    ):
        import_omatg(tmp_path / "small.ckpt", config)


def test_files_that_are_something_else(tmp_path: Path) -> None:
    checkpoint, config = write(tmp_path, base_tree(), network_state())
    (tmp_path / "text.ckpt").write_text("no checkpoint")
    torch.save([1, 2], tmp_path / "list.ckpt")
    (tmp_path / "list.yaml").write_text("- 1")
    (tmp_path / "bad.yaml").write_text("a: [")
    for name, message in {
        "text.ckpt": "is not a PyTorch checkpoint",
        "list.ckpt": "has no `state_dict` of tensors",
        "none.ckpt": "cannot be read",
    }.items():
        with pytest.raises(ModelError, match=message):
            import_omatg(tmp_path / name, config)
    for name, message in {
        "list.yaml": "no section `model`",
        "bad.yaml": "not valid YAML",
        "no.yaml": "cannot be read",
        checkpoint.name: "not a YAML file .the checkpoint comes first",
    }.items():
        with pytest.raises(ModelError, match=message):
            import_omatg(checkpoint, tmp_path / name)
