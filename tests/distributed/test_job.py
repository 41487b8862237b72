"""`ray job submit` as docs/ray.md shows it, against a head of its own that asks for a token."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from omatg_ray.commands.train import TrainResult
from tests.commands.conftest import Workshop
from tests.conftest import ROOT

BIN = Path(sys.executable).parent
UPLOADED = ("omatg_ray", "configs", "pyproject.toml", ".gitignore")
WORKERS = [
    "ray.rollout.workers=1",
    "ray.reward.workers=1",
    *(f"ray.{role}.cpus=0.5" for role in ("rollout", "reward", "learner")),
]


@dataclass(frozen=True)
class Head:
    """A head node.

    Attributes:
        address: Where jobs are submitted.
        home: Home of the user who started it, and who submits.
        token: What it asks for.
        upload: Working directory of the jobs.
        env: Environment of the user's commands.
    """

    address: str
    home: Path
    token: str
    upload: Path
    env: Mapping[str, str]

    def ray(self, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
        """A command of Ray's, in the folder that is uploaded; its output is all in `stdout`."""
        return subprocess.run(
            [BIN / "ray", *words],
            cwd=self.upload,
            env={**self.env, "RAY_API_SERVER_ADDRESS": self.address, **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=240,
        )

    def get(self, path: str) -> Any:
        """What the head says over HTTP.

        Raises:
            OSError: It says no, or nothing.
        """
        request = urllib.request.Request(self.address + path, headers={"Authorization": f"Bearer {self.token}"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)


@pytest.fixture(scope="module")
def head(workshop: Workshop, base: Path) -> Iterator[Head]:
    """`ray get-auth-token --generate` and `ray start --head`, in a home of their own."""
    # Sockets have short names only, so not in pytest's folder.
    with tempfile.TemporaryDirectory(prefix="ray-") as folder:
        root = Path(folder)
        env = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "PYTHONPATH"))}
        env |= {"HOME": str(root), "RAY_AUTH_MODE": "token", "PATH": f"{BIN}:{env['PATH']}"}
        made = subprocess.run([BIN / "ray", "get-auth-token", "--generate"], env=env, capture_output=True, text=True)
        assert made.returncode == 0, made.stderr
        client, dashboard, agent = free_ports(3)
        options = {
            "--port": 0,
            "--ray-client-server-port": client,
            "--dashboard-port": dashboard,
            "--dashboard-agent-listen-port": agent,
            "--min-worker-port": 0,
            "--max-worker-port": 0,
            "--num-cpus": 2,
            "--object-store-memory": 200 * 2**20,
            "--temp-dir": root / "t",
        }
        words = [str(BIN / "ray"), "start", "--head", "--block", "--disable-usage-stats"]
        words += [f"{name}={value}" for name, value in options.items()]
        log = root / "head.log"
        with log.open("w") as file:
            process = subprocess.Popen(words, env=env, stdout=file, stderr=file, cwd=root, start_new_session=True)
        try:
            up = Head(f"http://127.0.0.1:{dashboard}", root, made.stdout.strip(), upload(root, workshop, base), env)
            wait_until(lambda: up.get("/api/version"), process, log)
            yield up
        finally:
            process.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                process.wait(30)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def upload(root: Path, workshop: Workshop, base: Path) -> Path:
    """What a user has at hand and submits; the base is where an earlier job would have left it."""
    folder = root / "project"
    folder.mkdir()
    for name in UPLOADED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder / name)
    shutil.copy(workshop.config, folder / "tiny.yaml")
    shutil.copytree(base, root / "omatg_ray" / "runs" / "base", symlinks=True)
    return folder


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def wait_until(answers: Any, process: subprocess.Popen[bytes], log: Path) -> None:
    """Waits until a function no longer raises an OSError."""
    end = time.monotonic() + 90
    while True:
        try:
            answers()
        except OSError:
            assert process.poll() is None and time.monotonic() < end, log.read_text()
            time.sleep(0.2)
        else:
            return


def test_without_the_token_nothing_is_submitted(head: Head, tmp_path: Path) -> None:
    words = ["job", "submit", "--submission-id", "stranger", "--working-dir", ".", "--", "python", "-V"]
    for env in ({"HOME": str(tmp_path)}, {"RAY_AUTH_TOKEN": "0" * 64}):
        refused = head.ray(*words, **env)
        assert refused.returncode != 0 and "AuthenticationError" in refused.stdout
    with pytest.raises(urllib.error.HTTPError, match="404"):
        head.get("/api/jobs/stranger")


def test_a_submitted_run_equals_one_of_one_process_and_can_be_stopped_and_resumed(
    head: Head, workshop: Workshop, trained: TrainResult
) -> None:
    run = head.home / "omatg_ray" / "runs" / "job"
    command = ["python", "-m", "omatg_ray", "train"]
    submitted = head.ray(
        "job", "submit", "--submission-id", "first", "--working-dir", ".", "--",
        *command, "tiny.yaml", "base=runs/base", "run=runs/job", *WORKERS,
    )  # fmt: skip
    assert submitted.returncode == 0, submitted.stdout
    assert f"best model: {run / 'checkpoints' / 'best'}" in submitted.stdout
    assert "match rate" in submitted.stdout
    actors = json.loads((run / "actors.json").read_text())
    assert sorted(actor["role"] for actor in actors) == ["learner", "reward", "rollout"]

    weights = load_file(run / "checkpoints" / "iteration_000004" / "weights.safetensors")
    expected = load_file(workshop.root / "trained" / "checkpoints" / "iteration_000004" / "weights.safetensors")
    assert weights.keys() == expected.keys()
    assert all(weights[name].equal(expected[name]) for name in expected)
    after = json.loads((run / "evaluation" / "after.json").read_text())
    assert after["metrics"] == trained.rows[1]["metrics"]
    assert (run / "report.html").is_file()

    patience = json.dumps({"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": "60"}})
    resumed = head.ray(
        "job", "submit", "--submission-id", "second", "--no-wait", "--runtime-env-json", patience,
        "--working-dir", ".", "--", *command, "--resume", "runs/job", "iterations=100000", "validation.every=100000",
    )  # fmt: skip
    assert resumed.returncode == 0, resumed.stdout
    end = time.monotonic() + 120
    while not (run / "checkpoints" / "iteration_000005").is_dir():
        runs = head.get("/api/jobs/second")["status"] in ("PENDING", "RUNNING")
        assert runs and time.monotonic() < end, head.get("/api/jobs/second/logs")["logs"]
        time.sleep(0.2)
    stopped = head.ray("job", "stop", "second")
    assert stopped.returncode == 0, stopped.stdout
    assert head.get("/api/jobs/second")["status"] == "STOPPED"
    last = os.readlink(run / "checkpoints" / "last")
    assert int(last.removeprefix("iteration_")) >= 5
    log = head.get("/api/jobs/second/logs")["logs"]
    assert f"stopped after iteration {int(last.removeprefix('iteration_'))} of 100000" in log
