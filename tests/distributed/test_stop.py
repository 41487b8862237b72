"""A run with actors stops at the next boundary when it is asked to, and goes on from there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from ray.cluster_utils import Cluster

from omatg_ray.commands.train import train
from omatg_ray.run.metrics import read_metrics
from tests.conftest import ROOT
from tests.distributed.conftest import Workshop


def stopped(run: Path, words: list[str], environment: dict[str, str], stop: Callable[[int], None]) -> int:
    """Starts a long run, stops it after two iterations or more, and returns how many it had done."""
    with subprocess.Popen(
        [sys.executable, "-m", "omatg_ray", "train", *words, "iterations=1000", "ray.rollout.workers=1"],
        cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True,
    ) as process:  # fmt: skip
        deadline = time.monotonic() + 240
        metrics = run / "metrics.jsonl"
        while not (metrics.exists() and sum(line["kind"] == "train" for line in read_metrics(metrics)) >= 2):
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.2)
        stop(process.pid)
        _, messages = process.communicate(timeout=60)
    assert process.returncode == 130, messages
    done = max(line["step"] for line in read_metrics(metrics))
    assert f"stopped after iteration {done} of 1000" in messages.splitlines()[-1]
    assert os.readlink(run / "checkpoints" / "last") == f"iteration_{done:06d}"
    return done


def test_sigterm_stops_a_run_on_a_cluster(workshop: Workshop, base: Path, cluster: Cluster, tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = [f"run={run}", f"base={base}", "validation.every=1000", "checkpoint.every=1000"]
    environment = os.environ | {"RAY_ADDRESS": cluster.address}
    done = stopped(run, [str(workshop.config), *words], environment, lambda pid: os.kill(pid, signal.SIGTERM))
    train(workshop.load(*words, f"iterations={done + 1}"), resume=True, progress=False)
    assert os.readlink(run / "checkpoints" / "last") == f"iteration_{done + 1:06d}"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP, signal.SIGUSR1])
def test_a_signal_to_all_processes_stops_a_run_on_a_ray_of_its_own(
    workshop: Workshop, base: Path, tmp_path: Path, number: signal.Signals
) -> None:
    """A terminal, or a scheduler, sends it to every process of the run, those of Ray included."""
    words = [f"run={tmp_path}/run", f"base={base}", "validation.every=1000", "checkpoint.every=1000"]
    words += [f"ray.{role}.cpus=0.1" for role in ("rollout", "reward", "learner")]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    stopped(tmp_path / "run", [str(workshop.config), *words], environment, lambda pid: os.killpg(pid, number))
