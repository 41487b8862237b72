"""`ray job submit` as docs/ray.md shows it, against a head and a second node that ask for a token."""

from __future__ import annotations

import json
import os
import re
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
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from safetensors.torch import load_file

from omatg_ray.commands.train import TrainResult
from omatg_ray.config import Config
from omatg_ray.run.metrics import read_metrics
from omatg_ray.tune.results import FINISHED, Sweep
from tests.commands.conftest import Workshop
from tests.conftest import ROOT

BIN = Path(sys.executable).parent
pytestmark = pytest.mark.long

UPLOADED = ("omatg_ray", "configs", "pyproject.toml", ".gitignore")
# Half a core each on nodes of one core: they need both.
WORKERS = [
    "ray.rollout.workers=1",
    "ray.reward.workers=1",
    *(f"ray.{role}.cpus=0.5" for role in ("rollout", "reward", "learner")),
]
REWARD = """
class Atoms:
    def __call__(self, crystals):
        return crystals.n_atoms.numpy()
"""
CUSTOM = [
    "reward.weights={energy: 1, atoms: 0}",
    "reward.custom={atoms: {class: 'atoms:Atoms', invalid: 0, path: rewards}}",
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
    """`ray get-auth-token --generate`, `ray start --head` and a second node, in a home of their own."""
    # Sockets have short names only, so not in pytest's folder.
    with tempfile.TemporaryDirectory(prefix="ray-") as folder:
        root = Path(folder)
        env = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "PYTHONPATH"))}
        env |= {"HOME": str(root), "RAY_AUTH_MODE": "token", "PATH": f"{BIN}:{env['PATH']}"}
        made = subprocess.run([BIN / "ray", "get-auth-token", "--generate"], env=env, capture_output=True, text=True)
        assert made.returncode == 0, made.stderr
        gcs, client, dashboard, agent, other_agent = free_ports(5)
        head = {
            "--port": gcs,
            "--ray-client-server-port": client,
            "--dashboard-port": dashboard,
            "--dashboard-agent-listen-port": agent,
            "--temp-dir": root / "t",
        }
        # Two nodes in one folder take away from each other what jobs brought.
        other = {
            "--address": f"127.0.0.1:{gcs}",
            "--dashboard-agent-listen-port": other_agent,
            "--temp-dir": root / "o",
        }
        with started(["--head"], head, env, root / "head.log") as process:
            up = Head(f"http://127.0.0.1:{dashboard}", root, made.stdout.strip(), upload(root, workshop, base), env)
            wait_until(lambda: up.get("/api/version"), process, root / "head.log")
            with started([], other, env, root / "other.log"):
                yield up


@contextmanager
def started(
    words: list[str], options: Mapping[str, Any], env: Mapping[str, str], log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """A node of one core: `ray start --block`, ended with all that it started."""
    common = {
        "--num-cpus": 1, "--object-store-memory": 200 * 2**20, "--min-worker-port": 0, "--max-worker-port": 0
    }  # fmt: skip
    command = [str(BIN / "ray"), "start", *words, "--block", "--disable-usage-stats"]
    command += [f"{name}={value}" for name, value in {**common, **options}.items()]
    with log.open("w") as file:
        process = subprocess.Popen(command, env=env, stdout=file, stderr=file, cwd=log.parent, start_new_session=True)
    try:
        yield process
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
    for name in ("rewards", "runs/before", ".venv/lib", ".git", "omatg_ray/__pycache__"):
        (folder / name).mkdir(parents=True)
        (folder / name / "file").write_text("not for the nodes")
    (folder / "rewards" / "file").unlink()
    (folder / "rewards" / "atoms.py").write_text(REWARD)
    for name in UPLOADED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
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


def test_the_dashboard_listens_on_loopback_only(head: Head) -> None:
    port = int(head.address.rpartition(":")[2])
    connections = (
        connection
        for process in psutil.process_iter()
        if str(head.home) in " ".join(command_line(process))
        for connection in process.net_connections("tcp")
    )
    listening = [c.laddr.ip for c in connections if c.status == psutil.CONN_LISTEN and c.laddr.port == port]
    assert listening == ["127.0.0.1"]


def command_line(process: psutil.Process) -> list[str]:
    with suppress(psutil.Error):
        return process.cmdline()
    return []


@pytest.mark.timeout(600)
def test_a_submitted_run_equals_one_of_one_process_and_can_be_stopped_and_resumed(
    head: Head, workshop: Workshop, trained: TrainResult
) -> None:
    run = head.home / "omatg_ray" / "runs" / "job"
    command = ["python", "-m", "omatg_ray", "train"]
    patience = json.dumps({"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": "60"}})
    endless = ["iterations=100000", "validation.every=100000", "checkpoint.keep=100000"]
    submitted = head.ray(
        "job", "submit", "--submission-id", "first", "--no-wait", "--runtime-env-json", patience, "--working-dir", ".",
        "--", *command, "tiny.yaml", "base=runs/base", "run=runs/job", *WORKERS, *CUSTOM, *endless,
    )  # fmt: skip
    assert submitted.returncode == 0, submitted.stdout
    end = time.monotonic() + 240
    while not (run / "checkpoints" / "iteration_000004").is_dir():
        runs = head.get("/api/jobs/first")["status"] in ("PENDING", "RUNNING")
        assert runs and time.monotonic() < end, head.get("/api/jobs/first/logs")["logs"]
        time.sleep(0.2)
    stopped = head.ray("job", "stop", "first")
    assert stopped.returncode == 0, stopped.stdout
    assert head.get("/api/jobs/first")["status"] == "STOPPED"
    done = int(os.readlink(run / "checkpoints" / "last").removeprefix("iteration_"))
    log = head.get("/api/jobs/first/logs")["logs"]
    assert f"stopped after iteration {done} of 100000" in log
    # Progress is lines that can be read, of which none is drawn over another.
    assert re.search(rf"(?m)^\S.* {done}/100000 \d", log) and "\r" not in log, log

    # Nothing but what it needs has travelled.
    (copy,) = (head.home / "t").glob("session_2*/runtime_resources/working_dir_files/_ray_pkg_*/")
    assert {path.name for path in copy.iterdir()} == {*UPLOADED, "rewards", "tiny.yaml"}
    assert not list(copy.rglob("__pycache__/file"))
    actors = json.loads((run / "actors.json").read_text())
    assert sorted(actor["role"] for actor in actors) == ["learner", "reward", "rollout"]
    assert len({actor["node_id"] for actor in actors}) == 2

    # The same weights as without Ray; a reward that is only watched changes nothing.
    weights = load_file(run / "checkpoints" / "iteration_000004" / "weights.safetensors")
    expected = load_file(workshop.root / "trained" / "checkpoints" / "iteration_000004" / "weights.safetensors")
    assert weights.keys() == expected.keys()
    assert all(weights[name].equal(expected[name]) for name in expected)

    resumed = head.ray(
        "job", "submit", "--submission-id", "second", "--working-dir", ".", "--",
        *command, "--resume", "runs/job", f"iterations={done + 1}",
    )  # fmt: skip
    assert resumed.returncode == 0, resumed.stdout
    assert f"best model: {run / 'checkpoints' / 'best'}" in resumed.stdout
    assert "match rate" in resumed.stdout and (run / "report.html").is_file()
    lines = [line for line in read_metrics(run / "metrics.jsonl") if line["kind"] == "train"]
    assert [line["step"] for line in lines] == list(range(1, done + 2))
    assert all(0 < line["reward_atoms_mean"] <= 3 for line in lines)


@pytest.mark.timeout(600)
def test_a_submitted_sweep_has_the_trials_that_train_would_do(
    head: Head, workshop: Workshop, trained: TrainResult
) -> None:
    """One trial on each node of one core, with a base that only `~/omatg_ray` has."""
    lr = Config().learner.lr
    words = [
        "config=tiny.yaml", "overrides={base: runs/base}", f"space={{learner.lr: {{grid: [{lr}, {2 * lr}]}}}}",
        "search=grid", "scheduler.kind=none", "guards={invalid_share: null, diversity: null}", "run=runs/sweep",
    ]  # fmt: skip
    done = head.ray(
        "job", "submit", "--submission-id", "sweep", "--working-dir", ".", "--",
        "python", "-m", "omatg_ray", "tune", "configs/sweep_velocity.yaml", *words,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    run = head.home / "omatg_ray" / "runs" / "sweep"
    sweep = Sweep.read(run)
    assert [(trial.status, trial.iteration) for trial in sweep.trials] == [(FINISHED, 4)] * 2
    assert "trial 00001: finished; " in done.stdout and f"best config: {run / 'best.yaml'}" in done.stdout
    assert (run / "report.html").is_file()
    last = Path("checkpoints", "last", "weights.safetensors")
    same, other = (load_file(run / "trials" / trial.name / last) for trial in sweep.trials)
    expected = load_file(workshop.root / "trained" / last)
    assert all(same[name].equal(expected[name]) for name in expected)
    assert any(not other[name].equal(expected[name]) for name in expected)
    # It can be gone on with there, where there is nothing to do any more.
    again = head.ray(
        "job", "submit", "--submission-id", "again", "--working-dir", ".", "--",
        "python", "-m", "omatg_ray", "tune", "--resume", "runs/sweep",
    )  # fmt: skip
    assert again.returncode == 0 and f"best config: {run / 'best.yaml'}" in again.stdout, again.stdout
