from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from omatg_ray.cli import main
from omatg_ray.commands.pretrain import pretrain
from omatg_ray.commands.train import TrainResult
from omatg_ray.config import Config
from omatg_ray.crystal.base import CellByVolume
from omatg_ray.crystal.domain import Domain
from omatg_ray.crystal.read import read_dataset
from omatg_ray.errors import ConfigError, ModelError, OmatgRayError, TrainingError
from omatg_ray.flow.network import CSPNet
from omatg_ray.flow.pretrain import Pretrainer
from omatg_ray.flow.settings import PathSettings, PretrainSettings
from omatg_ray.model.flow_model import FlowModel
from omatg_ray.run.checkpoints import verify
from omatg_ray.run.folder import RunFolder
from omatg_ray.run.interrupt import Interrupted
from omatg_ray.run.metrics import read_metrics
from omatg_ray.train.estimate import describe_pretraining
from omatg_ray.train.splits import load_splits
from omatg_ray.train.start import take_start, warn_of_warmup
from tests.commands.conftest import Command, Workshop
from tests.small import random_crystals


def after(epoch: int, act: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets something happen at the end of an epoch, before it is validated or saved."""
    run_epoch = Pretrainer.run_epoch

    def run(self: Pretrainer) -> dict[str, float]:
        losses = run_epoch(self)
        if self.epoch == epoch:
            act()
        return losses

    monkeypatch.setattr(Pretrainer, "run_epoch", run)


def numbers(run: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in line.items() if k != "time_epoch"} for line in read_metrics(run / "metrics.jsonl")]


def assert_same_end(run: Path, other: Path) -> None:
    """Weights, averages, optimizer state and metrics are equal bit by bit."""
    assert RunFolder(run).pointed_at("last") == RunFolder(other).pointed_at("last")
    assert RunFolder(run).pointed_at("best") == RunFolder(other).pointed_at("best")
    for file in ("weights.safetensors", "trainer.safetensors"):
        ours, theirs = (load_file(path / "checkpoints" / "last" / file) for path in (run, other))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours), file
    assert numbers(run) == numbers(other)


def test_a_dry_run_says_what_it_would_do_and_writes_nothing(
    workshop: Workshop, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = command("pretrain", f"data.file={workshop.data}", "pretrain.epochs=20", "--dry-run", "--quiet")
    assert done.code == 0, done.err
    lines = {line.split()[0]: line for line in done.out.splitlines()}
    assert {"pretrain", "data", "time", "memory"} < lines.keys()
    assert "20 epochs" in lines["time"]
    assert not list(tmp_path.iterdir())


def test_a_run_leaves_a_model_its_data_and_a_report(base: Path, workshop: Workshop) -> None:
    for name in (
        "config.yaml",
        "versions.json",
        "report.html",
        "data/train.extxyz",
        "data/val.extxyz",
        "data/test.extxyz",
    ):
        assert (base / name).is_file(), name
    assert list((base / "tensorboard").iterdir())
    verify((base / "checkpoints" / "best").resolve())
    lines = read_metrics(base / "metrics.jsonl")
    assert [line["step"] for line in lines] == [2, 4, 6]
    losses = {line["step"]: line["val_loss"] for line in lines}
    assert RunFolder(base).pointed_at("best") == f"epoch_{min(losses, key=losses.__getitem__):06d}"
    model = FlowModel.load(base)
    assert model.description.active == []
    assert set(model.description.sizes) == {2, 3}
    assert model.description.domain == Domain.of(read_dataset(base / "data" / "train.extxyz").crystals)
    assert model.description.provenance["training_crystals"] == 8
    assert not list(base.rglob("*.tmp"))


@pytest.mark.parametrize("epoch", [1, 5])
def test_an_interrupted_run_goes_on_bit_by_bit(
    base: Path, workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, epoch: int
) -> None:
    config = workshop.load(f"run={tmp_path / 'run'}")
    with monkeypatch.context() as patch:
        after(epoch, lambda: os.kill(os.getpid(), signal.SIGINT), patch)
        with pytest.raises(Interrupted, match=f"after epoch {epoch} of 6.*--resume"):
            pretrain(config, progress=False)
    assert RunFolder(config.run).pointed_at("last") == f"epoch_{epoch:06d}"
    pretrain(config, resume=True, progress=False)
    assert_same_end(config.run, base)


def test_options_for_large_cells_reach_the_model_and_are_resumed(
    workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = ["lattices=by_volume", "network.pooled=true", "network.neighbors=1"]
    config = workshop.load(f"run={tmp_path / 'run'}", *(f"pretrain.{key}" for key in keys))
    assert "6 epochs" in describe_pretraining(config, load_splits(config.data), torch.device("cpu"))
    with monkeypatch.context() as patch:
        after(3, lambda: os.kill(os.getpid(), signal.SIGINT), patch)
        with pytest.raises(Interrupted):
            pretrain(config, progress=False)
    pretrain(config, resume=True, progress=False)
    other = config.model_copy(update={"run": tmp_path / "other"})
    pretrain(other, progress=False)
    assert_same_end(config.run, tmp_path / "other")
    model = FlowModel.load(config.run)
    found = model.description
    assert isinstance(found.base_distribution.cell, CellByVolume)
    assert found.network.pooled and found.network.neighbors == 1
    assert len(model.sample(["NaCl"] * 2, steps=3)) == 2


def test_training_starts_from_a_model_and_is_resumed(
    base: Path, workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a learning rate of nothing, the weights stay those of the model, whatever the seed."""
    keys = [f"pretrain.start={base}", "pretrain.network=null", "seed=3"]
    config = workshop.load(f"run={tmp_path / 'still'}", *keys, "pretrain.epochs=1", "pretrain.lr=1e-30")
    assert f"start from {base}" in describe_pretraining(config, load_splits(config.data), torch.device("cpu"))
    pretrain(config, progress=False)
    theirs, ours = FlowModel.load(base), FlowModel.load(config.run)
    for name, weights in theirs.base_network.state_dict().items():
        torch.testing.assert_close(ours.base_network.state_dict()[name], weights, rtol=1e-6, atol=0)
    assert ours.description.base_distribution == theirs.description.base_distribution
    assert ours.description.network == theirs.description.network
    assert ours.description.provenance["start"] == str(base)

    config = workshop.load(f"run={tmp_path / 'run'}", *keys)
    with monkeypatch.context() as patch:
        after(3, lambda: os.kill(os.getpid(), signal.SIGINT), patch)
        with pytest.raises(Interrupted):
            pretrain(config, progress=False)
    pretrain(workshop.load(f"run={tmp_path / 'run'}", *keys), resume=True, progress=False)
    pretrain(config.model_copy(update={"run": tmp_path / "other"}), progress=False)
    assert_same_end(tmp_path / "run", tmp_path / "other")
    assert not torch.equal(
        FlowModel.load(tmp_path / "run").base_network.coord_out.weight, theirs.base_network.coord_out.weight
    )


def test_the_pairing_after_a_start_may_be_another(
    base: Path, workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the command, which finds the files of a configuration before `pretrain` gets it."""
    taken: list[Config] = []

    def record(config: Config, *_: object) -> Path:
        taken.append(take_start(config)[0])
        return tmp_path

    monkeypatch.setattr("omatg_ray.commands.pretrain.pretrain", record)
    model = FlowModel.load(base)
    (tmp_path / "within").mkdir()
    paths = PathSettings(pairing="same_species")
    FlowModel(model.description.model_copy(update={"paths": paths}), model.base_network).save(tmp_path / "within")
    for start, key, pairing in (
        (base, (), None),
        (base, ("pretrain.paths.pairing=same_species",), "same_species"),
        (tmp_path / "within", (), "same_species"),
        (tmp_path / "within", ("pretrain.paths=null",), "same_species"),
        (tmp_path / "within", ("pretrain.paths.pairing=as_drawn",), "as_drawn"),
        (tmp_path / "within", ("pretrain.paths.pairing=all_atoms",), "all_atoms"),
    ):
        words = [str(workshop.config), f"run={tmp_path / 'run'}", f"pretrain.start={start}", "pretrain.network=null"]
        assert main(["pretrain", *words, *key]) == 0
        assert taken[-1].pretrain.paths.pairing == pairing


def test_a_separation_may_be_added_to_a_start_and_changes_nothing_at_first(base: Path, workshop: Workshop) -> None:
    config = workshop.load(f"pretrain.start={base}", "pretrain.network.separation=true")
    taken, start = take_start(config)
    assert taken.pretrain.network.separation
    network = CSPNet(taken.pretrain.network)
    network.load_state_dict(start.weights)
    crystals, t = random_crystals([3, 2], dtype=torch.float32), torch.tensor([0.2, 0.8])
    assert torch.equal(network(crystals, t).pos_b, FlowModel.load(base).base_network(crystals, t).pos_b)


def test_a_run_of_warmup_alone_is_warned_of() -> None:
    settings = PretrainSettings(epochs=3, batch_size=4, warmup_steps=7)
    with pytest.warns(UserWarning, match="8 crystals in batches of 4 for 3 epochs are 6 updates"):
        warn_of_warmup(settings, 8)
    warn_of_warmup(settings, 9)  # 9 updates: two batches and a smaller one


@pytest.mark.parametrize(
    "keys, said",
    [
        (["pretrain.network.hidden=8"], "pretrain.network: pretrain.start decides it"),
        (["pretrain.network={hidden: 8, separation: true}"], "pretrain.network: pretrain.start decides it"),
        (["pretrain.paths.pos=trigonometric"], "pretrain.paths: pretrain.start decides them"),
        (["pretrain.lattices=by_volume"], "pretrain.lattices: .*start otherwise .informed."),
    ],
)
def test_what_a_start_decides_is_not_asked_for(
    base: Path, workshop: Workshop, tmp_path: Path, keys: list[str], said: str
) -> None:
    config = workshop.load(f"run={tmp_path / 'run'}", f"pretrain.start={base}", *keys)
    with pytest.raises(ConfigError, match=said):
        pretrain(config, progress=False)
    assert not (tmp_path / "run").exists()


def test_a_reinforced_model_is_no_start(trained: TrainResult, workshop: Workshop, tmp_path: Path) -> None:
    config = workshop.load(f"run={tmp_path / 'run'}", f"pretrain.start={workshop.root / 'trained'}")
    with pytest.raises(ConfigError, match="pretrain.start: .* is reinforced; start from the base"):
        pretrain(config, progress=False)


def test_a_torn_checkpoint_gives_way_to_the_one_before(
    base: Path, workshop: Workshop, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = tmp_path / "run"
    shutil.copytree(base, run, symlinks=True)
    torn = (run / "checkpoints" / "last").resolve() / "trainer.safetensors"
    torn.write_bytes(torn.read_bytes()[:100])
    pretrain(workshop.load(f"run={run}"), resume=True, progress=False)
    assert "skipping a damaged checkpoint" in caplog.text
    assert_same_end(run, base)


def test_a_finished_run_that_is_resumed_stays_as_it_is(base: Path, workshop: Workshop, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(base, run, symlinks=True)
    assert pretrain(workshop.load(f"run={run}"), resume=True, progress=False) == run / "checkpoints" / "best"
    assert_same_end(run, base)


def test_a_network_of_another_size_cannot_go_on(base: Path, workshop: Workshop, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(base, run, symlinks=True)
    changed = workshop.load(f"run={run}", "pretrain.network.hidden=8")
    with pytest.raises(ConfigError, match=r"pretrain\.network\.hidden.*16, not 8"):
        pretrain(changed, resume=True, progress=False)
    (run / "config.yaml").write_text(changed.resolved().to_yaml())
    with pytest.raises(ModelError, match=r"pretrain\.network"):
        pretrain(changed, resume=True, progress=False)
    with pytest.raises(ConfigError, match="already holds a run"):
        pretrain(workshop.load(f"run={run}"), progress=False)


@pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad:UserWarning")
def test_a_nan_loss_stops_the_run_names_its_rows_and_keeps_the_last_checkpoint(
    workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = workshop.load(f"run={tmp_path / 'run'}")
    run_epoch = Pretrainer.run_epoch

    def poisoned(self: Pretrainer) -> dict[str, float]:
        if self.epoch == 3:
            self.train.cell[0] = torch.nan
        return run_epoch(self)

    monkeypatch.setattr(Pretrainer, "run_epoch", poisoned)
    with pytest.raises(TrainingError, match=r"epoch 4.*rows of the training split.*\[0, .*epoch_000003"):
        pretrain(config, progress=False)
    stored = load_file(config.run / "checkpoints" / "last" / "trainer.safetensors")
    assert all(value.isfinite().all() for value in stored.values())


def test_a_full_disk_leaves_the_last_checkpoint_whole(
    workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = workshop.load(f"run={tmp_path / 'run'}")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    after(4, lambda: monkeypatch.setattr("omatg_ray.train.pretrain_loop.save_file", full), monkeypatch)
    with pytest.raises(OmatgRayError, match="disk or quota is full"):
        pretrain(config, progress=False)
    last = RunFolder(config.run).latest_checkpoint()
    assert last is not None and last.name == "epoch_000003"
    assert not list(config.run.rglob("*.tmp"))


def test_data_that_cannot_be_used_is_refused_before_anything_is_written(
    workshop: Workshop, command: Command, tmp_path: Path
) -> None:
    run = f"run={tmp_path / 'run'}"
    words = ["pretrain", workshop.config, "--quiet", run]
    command(*words, "data.file=missing.csv").refuses("missing.csv", code=1)
    command(*words, "data.val_compositions=0.01").refuses("val=0.01", "empty", code=1)
    command(*words, "data.val_compositions=10").refuses("13", "left to train on", code=1)
    bad = tmp_path / "bad.csv"
    bad.write_text('material_id,cif\nx,"data_x\n_cell_length_a 4\n"\n')
    command(*words, f"data.file={bad}").refuses("bad.csv", "row 1", code=1)
    command(*words, "pretrain.network.hiden=8").refuses("pretrain.network.hiden", "pretrain.network.hidden", code=2)
    assert not (tmp_path / "run").exists()
