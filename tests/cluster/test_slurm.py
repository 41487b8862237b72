"""cluster/slurm/train.sbatch on one node, where Slurm and Ray are stand-ins that run what they are given."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

from omatg_ray.run.metrics import read_metrics
from tests.cluster.conftest import Workshop
from tests.cluster.test_launch_files import CLUSTER, assert_ray_start_takes
from tests.conftest import ROOT

# Options are those of the real ones; what is left is the command.
STAND_INS = {
    "scontrol": 'echo "scontrol $*" >>calls; [[ "$1" != show ]] || for i in {0..999}; do echo "node-$i"; done',
    "srun": 'echo "srun $*" >>calls; while [[ "$1" == --* ]]; do shift; done; exec "$@"',
    "hostname": "echo 10.0.0.1 fe80::1",
    "ray": 'echo "ray $*" >>calls; echo "$RAY_AUTH_MODE $RAY_AUTH_TOKEN" >>tokens\n'
    'while [[ "$1" != -- ]]; do shift; done; shift; exec "$@"',
}


def project(folder: Path) -> Path:
    """A folder that a user submits from, with an environment whose commands are stand-ins."""
    binaries = folder / ".venv" / "bin"
    binaries.mkdir(parents=True)
    (binaries / "activate").write_text(f'export PATH="{binaries}:$PATH"\n')
    for name, text in STAND_INS.items():
        stand_in(folder, name, text)
    stand_in(folder, "python", f'exec {sys.executable} "$@"')
    return folder


def stand_in(folder: Path, name: str, text: str) -> None:
    file = folder / ".venv" / "bin" / name
    file.write_text(f"#!/usr/bin/env bash\n{text}\n")
    file.chmod(0o755)


def submit(folder: Path, seconds: int, *words: str) -> subprocess.CompletedProcess[str]:
    """Runs the script as Slurm would, with so many seconds before the run has to stop."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "SLURM_"))}
    environment |= {
        "PYTHONPATH": str(ROOT),
        "SLURM_JOB_ID": "17",
        "SLURM_JOB_NODELIST": "node-[0-999]",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_CPUS_PER_TASK": "8",
        "SLURM_GPUS_ON_NODE": "1",
        "SLURM_JOB_END_TIME": str(int(time.time()) + 300 + seconds),
    }
    script = shutil.copy(CLUSTER / "slurm" / "train.sbatch", folder / "slurm_script")  # as Slurm does
    return subprocess.run(
        ["bash", script, *words], cwd=folder, env=environment, capture_output=True, text=True, timeout=200, check=False
    )


def test_a_run_stops_before_the_time_is_up_and_queues_again(workshop: Workshop, base: Path, tmp_path: Path) -> None:
    folder, words = project(tmp_path), [str(workshop.config), f"base={base}", "run=runs/r", "validation.every=100000"]
    words += ["checkpoint.every=100000"]
    # Long enough for the imports, and for some iterations.
    first = submit(folder, 40, *words, "iterations=100000")
    assert first.returncode == 124, first.stderr
    said = re.search(r"stopped after iteration (\d+) of 100000", first.stderr)
    assert said is not None, first.stderr
    done = int(said[1])
    assert os.readlink(folder / "runs" / "r" / "checkpoints" / "last") == f"iteration_{done:06d}"
    calls = (folder / "calls").read_text().splitlines()
    assert calls[-1] == "scontrol requeue 17"

    second = submit(folder, 1000, *words, f"iterations={done + 1}")
    assert second.returncode == 0, second.stderr
    steps = [line["step"] for line in read_metrics(folder / "runs" / "r" / "metrics.jsonl") if line["kind"] == "train"]
    assert steps == list(range(1, done + 2))
    assert (folder / "calls").read_text().splitlines()[len(calls) :][-1].startswith("ray ")  # and not requeued

    tokens = {line.split()[1] for line in (folder / "tokens").read_text().splitlines()}
    assert len(tokens) == 2 and all(re.fullmatch(r"[0-9a-f]{64}", token) for token in tokens)
    assert {line.split()[0] for line in (folder / "tokens").read_text().splitlines()} == {"token"}


def test_what_ray_is_asked_for(tmp_path: Path) -> None:
    """By Ray's own reading of the command line."""
    from ray.scripts.symmetric_run import curate_and_validate_ray_start_args, symmetric_run

    folder = project(tmp_path)
    stand_in(folder, "python", "echo secret")
    assert submit(folder, 100, "tiny.yaml", "run=runs/r").returncode == 0
    calls = [line.split() for line in (folder / "calls").read_text().splitlines()]
    (words,) = [call for call in calls if call[:2] == ["ray", "symmetric-run"]]
    options, command = words[2 : words.index("--")], words[words.index("--") + 1 :]
    context = symmetric_run.make_context("_", list(options))
    assert (context.params["address"], context.params["min_nodes"]) == ("10.0.0.1:6379", 2)
    start = curate_and_validate_ray_start_args(options)
    assert start == ["--num-cpus=8", "--num-gpus=1"]
    assert_ray_start_takes(start)
    assert command[:2] == ["timeout", "--foreground"] and 90 < int(command[2]) <= 100
    assert command[3:] == [
        *("python", "-m", "omatg_ray", "train", "tiny.yaml", "run=runs/r", "--continue"),
        *("ray.address=10.0.0.1:6379", "ray.wait=60"),
    ]
    assert calls[1][:4] == ["srun", "--nodes=1", "--ntasks=1", "--nodelist=node-0"]
    (launch,) = [call for call in calls if call[0] == "srun" and "ray" in call]
    assert launch[1:4] == ["--nodes=2", "--ntasks=2", "--cpus-per-task=8"]
