"""Runs, models and crystals on an S3, from the configuration to what is stored at the end."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch

from omatg_ray.commands.pretrain import pretrain
from omatg_ray.commands.train import TrainResult, train
from omatg_ray.config import Config
from omatg_ray.errors import StorageError
from omatg_ray.model.flow_model import FlowModel
from omatg_ray.model.sampling import Sampling
from omatg_ray.run.folder import RunFolder
from omatg_ray.run.interrupt import Interrupted
from omatg_ray.tune.settings import SweepSettings
from tests.commands.conftest import Command, Workshop
from tests.commands.test_pretrain import assert_same_end as assert_same_pretraining
from tests.commands.test_train import after, assert_same_end
from tests.s3 import Bucket


def store(folder: Path, bucket: Bucket, prefix: str) -> None:
    """Copies a run folder as a run at a URL lies there."""
    checkpoints = {name: RunFolder(folder).pointed_at(name) for name in ("best", "last")}
    bucket.write(f"{prefix}/checkpoints/pointers.json", json.dumps(checkpoints).encode())
    for path in folder.rglob("*"):
        if path.is_file() and not path.name.startswith("."):
            bucket.write(f"{prefix}/{path.relative_to(folder).as_posix()}", path.read_bytes())


def test_places_may_be_urls() -> None:
    words = ["run=s3://bucket/runs/a/", "base=gs://bucket/base", "data.file=s3://bucket/a.csv"]
    config = Config.load(None, words)
    assert (config.run, config.base, config.data.file) == (
        "s3://bucket/runs/a",
        "gs://bucket/base",
        "s3://bucket/a.csv",
    )
    assert Config.from_tree(config.model_dump(mode="json")) == config == config.resolved()
    assert Config.load(None, ["run=runs/a", "base=runs/b"]).base == Path("runs/b")


def test_a_configuration_may_be_at_a_url(workshop: Workshop, bucket: Bucket) -> None:
    bucket.write("configs/tiny.yaml", workshop.config.read_bytes())
    config = Config.load(bucket.url("configs/tiny.yaml"), ["seed=3"])
    assert config == workshop.load("seed=3", "run=runs/tiny")


def test_what_the_trials_of_a_sweep_share_may_be_at_a_url(workshop: Workshop, bucket: Bucket) -> None:
    url = bucket.url("configs/tiny.yaml")
    bucket.write("configs/tiny.yaml", workshop.config.read_bytes())
    bucket.write("sweep.yaml", json.dumps({"config": url, "space": {"seed": {"grid": [1, 2]}}}).encode())
    settings = SweepSettings.load(bucket.url("sweep.yaml"), ["run=here"])
    assert settings.with_values({"seed": 2}, Path("there")) == workshop.load("seed=2", "run=there")
    assert SweepSettings.from_tree(settings.model_dump(mode="json"), "again") == settings


def test_an_interrupted_run_goes_on_elsewhere_bit_by_bit(
    trained: TrainResult,
    base: Path,
    workshop: Workshop,
    bucket: Bucket,
    scratch: Path,
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On another machine nothing is there but the URL. Its base lies at one too, and gives the splits."""
    store(base, bucket, "base")
    run = bucket.url("runs/a")
    config = workshop.load(f"run={run}", f"base={bucket.url('base')}", "data=null", "checkpoint.every=50")
    with monkeypatch.context() as patch:
        after(3, lambda: os.kill(os.getpid(), signal.SIGTERM), patch)
        with pytest.raises(Interrupted, match=f"after iteration 3 of 4; resume with: .* --resume {run}$"):
            train(config, progress=False)
    assert list(scratch.iterdir()) == []
    done = command("train", "--resume", run, "--quiet")
    assert done.code == 0, done.err
    assert f"best model: {run}/checkpoints/best" in done.out and f"report: {run}/report.html" in done.out
    assert f"--data {run}/data/test.extxyz" in done.out
    assert list(scratch.iterdir()) == []
    report = bucket.read("runs/a/report.html").decode()
    assert "<h1>a</h1>" in report
    bucket.delete("runs/a/report.html")
    assert command("report", run).out == f"{run}/report.html\n" and bucket.read("runs/a/report.html").decode() == report
    with RunFolder.create(run, resume=True) as folder:
        assert_same_end(folder.path, workshop.root / "trained")


def test_models_and_crystals_at_urls_are_evaluated_and_generate(
    trained: TrainResult, workshop: Workshop, bucket: Bucket, scratch: Path, tmp_path: Path, command: Command
) -> None:
    store(workshop.root / "trained", bucket, "runs/a")
    run, here = bucket.url("runs/a"), workshop.root / "trained"
    sampling = ["--steps", 4, "--workers", 0, "--quiet"]
    for name, model in (("there", run), ("here", here)):
        done = command(
            "evaluate", model, "--data", f"{model}/data/test.extxyz", *sampling, "--json", tmp_path / f"{name}.json"
        )
        assert done.code == 0, done.err
    there, at_home = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("there", "here"))
    assert there["per_structure"] == at_home["per_structure"] and there["label"] == run
    done = command("generate", run, "--formula", "NaCl", "-n", 4, *sampling, "--out", tmp_path / "nacl.extxyz")
    assert done.code == 0, done.err
    assert command("info", f"{run}/checkpoints/last").out.startswith("model ")
    ours, theirs = FlowModel.load(f"{run}/checkpoints/last"), FlowModel.load(here / "checkpoints/last")
    species = [[11, 17]]
    assert torch.equal(ours.generate(species, Sampling(4)).pos, theirs.generate(species, Sampling(4)).pos)
    assert list(scratch.iterdir()) == []


def test_pretraining_goes_on_at_a_url_bit_by_bit(
    base: Path, workshop: Workshop, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket.write("data.extxyz", workshop.data.read_bytes())
    config = workshop.load(f"run={bucket.url('base')}", f"data.file={bucket.url('data.extxyz')}")
    from omatg_ray.flow.pretrain import Pretrainer

    run_epoch = Pretrainer.run_epoch

    def stopping(self: Pretrainer) -> dict[str, float]:
        losses = run_epoch(self)
        if self.epoch == 4:
            os.kill(os.getpid(), signal.SIGINT)
        return losses

    with monkeypatch.context() as patch:
        patch.setattr(Pretrainer, "run_epoch", stopping)
        with pytest.raises(Interrupted, match=f"pretrain --resume {config.run}$"):
            pretrain(config, progress=False)
    assert pretrain(config, resume=True, progress=False) == bucket.url("base/checkpoints/best")
    with RunFolder.create(config.run, resume=True) as folder:
        assert_same_pretraining(folder.path, base)


def test_a_run_outlives_storage_that_is_away(
    trained: TrainResult,
    base: Path,
    workshop: Workshop,
    bucket: Bucket,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = workshop.load(f"run={bucket.url('a')}", f"base={base}")
    with monkeypatch.context() as patch:
        after(2, bucket.server.stop, patch)
        after(3, bucket.server.start, patch)
        train(config, progress=False)
    (warning,) = [record.getMessage() for record in caplog.records if "a cannot be" in record.getMessage()]
    assert f"run={config.run}" in warning
    with RunFolder.create(config.run, resume=True) as folder:
        assert_same_end(folder.path, workshop.root / "trained")


def test_a_run_whose_end_cannot_be_stored_keeps_it_and_stores_it_later(
    trained: TrainResult,
    base: Path,
    workshop: Workshop,
    bucket: Bucket,
    scratch: Path,
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = bucket.url("a")
    config = workshop.load(f"run={run}", f"base={base}")
    with monkeypatch.context() as patch:
        after(4, bucket.server.stop, patch)
        with pytest.raises(StorageError, match=f"{run} is not up to date: run={run} cannot") as caught:
            train(config, progress=False)
    bucket.server.start()
    kept = next(scratch.glob("omatg_ray-*/a"))
    words = f"omatg-ray train --resume {kept} run={run}"
    assert str(caught.value).endswith(words)
    command(*words.split()[1:-1], "run=s3://elsewhere/a").refuses(f"belongs to {run}, not to s3://elsewhere/a")
    done = command(*words.split()[1:], "--quiet")
    assert done.code == 0, done.err
    with RunFolder.create(run, resume=True) as folder:
        assert_same_end(folder.path, workshop.root / "trained")


def test_a_torn_checkpoint_at_a_url_gives_way_to_the_one_before(
    trained: TrainResult, base: Path, workshop: Workshop, bucket: Bucket, caplog: pytest.LogCaptureFixture
) -> None:
    store(workshop.root / "trained", bucket, "a")
    torn = "a/checkpoints/iteration_000004/weights.safetensors"
    bucket.write(torn, bucket.read(torn)[:-100])
    train(workshop.load(f"run={bucket.url('a')}", f"base={base}"), resume=True, progress=False)
    assert f"skipping a damaged checkpoint: {bucket.url(torn)} has changed since it was written" in caplog.text
    with RunFolder.create(bucket.url("a"), resume=True) as folder:
        assert_same_end(folder.path, workshop.root / "trained")


def test_a_run_without_pointers_ends_with_the_best_that_its_checkpoints_know(
    trained: TrainResult,
    base: Path,
    workshop: Workshop,
    bucket: Bucket,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    folder = shutil.copytree(workshop.root / "trained", tmp_path / "a", symlinks=True)
    older, last = sorted((folder / "checkpoints").glob("iteration_*"))[-2:]
    for checkpoint, is_best in ((older, True), (last, False)):
        state, manifest = (json.loads((checkpoint / name).read_text()) for name in ("state.json", "manifest.json"))
        content = json.dumps(state | {"is_best": is_best}).encode()
        (checkpoint / "state.json").write_bytes(content)
        manifest["files"]["state.json"] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        (checkpoint / "manifest.json").write_text(json.dumps(manifest))
    store(folder, bucket, "a")
    bucket.delete("a/checkpoints/pointers.json")
    result = train(workshop.load(f"run={bucket.url('a')}", f"base={base}"), resume=True, progress=False)
    assert result.iteration == int(older.name[-6:]) and "checkpoints/best was lost" in caplog.text
    assert json.loads(bucket.read("a/checkpoints/pointers.json")) == {"best": older.name, "last": last.name}


def test_what_is_not_there_is_refused_at_once(bucket: Bucket, base: Path, workshop: Workshop, command: Command) -> None:
    tiny = [workshop.config, f"base={base}", "--quiet"]
    command("train", *tiny, "run=s3://nowhere/a").refuses("run=s3://nowhere/a cannot", "create the bucket", code=1)
    command("train", "--resume", bucket.url("a")).refuses(f"there is no run to resume in {bucket.url('a')}")
    command("info", bucket.url("a")).refuses(f"{bucket.url('a')}: no model here", code=1)
    command("train", *tiny, "run=s3://").refuses(
        "run: s3:// is not a valid URL; it must be of the form s3://bucket/path"
    )
    bucket.server.stop()
    command("train", *tiny, f"run={bucket.url('a')}").refuses(f"run={bucket.url('a')} cannot", "network", code=1)
