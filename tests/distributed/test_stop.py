"""A run with actors stops at the next boundary when it is asked to, and goes on from there."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from omatg_ray.commands.train import train
from omatg_ray.run.interrupt import Interrupted
from tests.commands.test_train import after
from tests.distributed.conftest import Workshop


@pytest.mark.usefixtures("cluster")
def test_sigterm_stops_a_run_on_a_cluster(
    workshop: Workshop, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    last = tmp_path / "run" / "checkpoints" / "last"
    words = [f"run={tmp_path}/run", f"base={base}", "validation.every=1000", "checkpoint.every=1000"]
    words += ["ray.rollout.workers=1"]
    after(2, lambda: os.kill(os.getpid(), signal.SIGTERM), monkeypatch)
    with pytest.raises(Interrupted):
        train(workshop.load(*words, "iterations=1000"), progress=False)
    assert os.readlink(last) == "iteration_000002"
    train(workshop.load(*words, "iterations=3"), resume=True, progress=False)
    assert os.readlink(last) == "iteration_000003"
