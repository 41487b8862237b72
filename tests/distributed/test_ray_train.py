"""Pretraining on Ray Train: the numbers of one process, whatever happens to the workers."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from ray.cluster_utils import Cluster
from safetensors.torch import load_file

from omatg_ray.commands.pretrain import pretrain
from omatg_ray.config import Config
from omatg_ray.crystal.base import BaseDistribution
from omatg_ray.errors import ClusterError
from omatg_ray.flow.pretrain import Pretrainer
from omatg_ray.flow.settings import PretrainSettings
from omatg_ray.model.flow_model import FlowModel
from omatg_ray.run.folder import RunFolder
from omatg_ray.run.interrupt import Interrupted
from omatg_ray.run.storage import Storage
from omatg_ray.run.tracking import Tracking
from omatg_ray.train.pretrain_loop import PretrainLoop
from tests.commands.conftest import Workshop
from tests.commands.test_pretrain import after, assert_same_end, numbers
from tests.distributed import pretrain_loops
from tests.distributed.conftest import CORES
from tests.small import SIZE, random_crystals

pytestmark = pytest.mark.usefixtures("cluster", "quick")

# Eight training crystals in batches of seven: of the second batch, the second rank has nothing.
BATCH = "pretrain.batch_size=7"


@pytest.fixture(scope="module")
def quick() -> Iterator[None]:
    """Lets Ray Train look after its workers more often than every two seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.1")
        yield


@pytest.fixture(scope="module")
def two(workshop: Workshop, cluster: Cluster, quick: None) -> Path:
    """A run with two workers."""
    config = workshop.load(f"run={workshop.root / 'two'}", BATCH, "ray.pretrain.workers=2")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("omatg_ray.commands.pretrain.PretrainLoop", pretrain_loops.Counted)
        pretrain(config, progress=False)
    return config.run


def run(config: Config, session: type[PretrainLoop], monkeypatch: pytest.MonkeyPatch, resume: bool = False) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("omatg_ray.commands.pretrain.PretrainLoop", session)
        pretrain(config, resume, progress=False)


def assert_close_end(run: Path, other: Path) -> None:
    """Weights, averages, optimizer state and metrics are equal but for rounding."""
    ours, theirs = (load_file(path / "checkpoints" / "last" / "trainer.safetensors") for path in (run, other))
    assert ours.keys() == theirs.keys()
    assert any(key.startswith("average.") for key in ours)
    for key in ours:
        if not key.startswith("best_"):
            torch.testing.assert_close(
                ours[key], theirs[key], rtol=1e-3, atol=1e-6, msg=lambda text, key=key: key + text
            )
    assert [line["step"] for line in numbers(run)] == [line["step"] for line in numbers(other)]
    for mine, yours in zip(numbers(run), numbers(other), strict=True):
        assert mine.pop("kind") == yours.pop("kind") == "pretrain"
        assert mine == pytest.approx(yours, rel=1e-4)


def test_two_workers_give_the_result_of_one_process(two: Path, workshop: Workshop, tmp_path: Path) -> None:
    assert (two / "ranks").read_text() == "2 DistributedDataParallel"
    alone = workshop.load(f"run={tmp_path / 'alone'}", BATCH)
    pretrain(alone, progress=False)
    assert_close_end(two, alone.run)
    assert FlowModel.load(two).description.provenance["training_crystals"] == 8
    assert (two / "report.html").is_file()
    assert not list(two.rglob("*.tmp"))


def test_one_worker_gives_the_bits_of_one_process(base: Path, workshop: Workshop, tmp_path: Path) -> None:
    config = workshop.load(f"run={tmp_path / 'run'}", "ray.pretrain.workers=1")
    pretrain(config, progress=False)
    assert_same_end(config.run, base)


def test_killed_workers_change_nothing(
    two: Path, workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = workshop.load(f"run={tmp_path / 'run'}", BATCH, "ray.pretrain.workers=2")
    run(config, pretrain_loops.Killed, monkeypatch)
    assert {path.name for path in config.run.glob("killed_*")} == {"killed_after_3", "killed_after_5"}
    assert_same_end(config.run, two)


def test_a_run_moves_to_workers_is_stopped_there_and_ends_in_one_process(
    base: Path, workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = workshop.load(f"run={tmp_path / 'run'}")
    with monkeypatch.context() as patch:
        after(2, lambda: os.kill(os.getpid(), 15), patch)
        with pytest.raises(Interrupted, match="after epoch 2 of 6"):
            pretrain(alone, progress=False)
    (alone.run / "driver").write_text(str(os.getpid()))
    workers = workshop.load(f"run={alone.run}", "ray.pretrain.workers=2")
    with pytest.raises(Interrupted, match="after epoch 3 of 6.*--resume"):
        run(workers, pretrain_loops.Interrupting, monkeypatch, resume=True)
    assert RunFolder(alone.run).pointed_at("last") == "epoch_000003"
    pretrain(alone, resume=True, progress=False)
    assert_close_end(alone.run, base)


def test_a_cluster_without_room_is_refused_before_anything_is_written(workshop: Workshop, tmp_path: Path) -> None:
    config = workshop.load(f"run={tmp_path / 'run'}", f"ray.pretrain.workers={2 * CORES + 1}", "ray.wait=0.5")
    start = time.monotonic()
    with pytest.raises(ClusterError, match=rf"{2 * CORES + 1} x pretraining worker \(1 CPU\).*2 nodes"):
        pretrain(config, progress=False)
    assert time.monotonic() - start < 10
    assert not config.run.exists()


def test_a_run_folder_that_the_worker_does_not_see_is_an_error(base: Path, tmp_path: Path) -> None:
    from omatg_ray.train.ray_train import _lead

    crystals = random_crystals([2, 3], dtype=torch.float32)
    trainer = Pretrainer(PretrainSettings(network=SIZE), crystals, crystals, BaseDistribution.fit(crystals), 0)
    elsewhere, description = tmp_path / "elsewhere", FlowModel.load(base).description
    session = PretrainLoop(elsewhere, description, 1, False, Storage(elsewhere), Tracking())
    error = _lead(trainer, session, session.path / "signals")
    assert isinstance(error, ClusterError)
    assert str(session.path) in str(error) and "storage that all nodes share" in str(error)
    assert not session.path.exists()


def test_the_command_imports_no_ray_by_itself() -> None:
    code = "import sys, omatg_ray.commands.pretrain; sys.exit('ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0
