"""The Ray that a run starts for itself: what it leaves behind, who can reach it, where its files are, what stops it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from omatg_ray.run.interrupt import AHEAD
from omatg_ray.run.metrics import read_metrics
from tests.conftest import ROOT
from tests.distributed.conftest import Workshop
from tests.distributed.test_cluster import said_on_joining

PROGRAM = """
import json, os, psutil, ray, sys
from omatg_ray.distributed.cluster import join_cluster
from omatg_ray.distributed.settings import RaySettings

def state():
    with join_cluster(RaySettings()):
        answer = ray.get(ray.remote(num_cpus=0.1)(lambda: 41 + 1).remote())
        me = psutil.Process()
        listening = [
            (process.name(), connection.laddr.ip)
            for process in (me, *me.children(recursive=True))
            for connection in process.net_connections("tcp")
            if connection.status == psutil.CONN_LISTEN
        ]
        environment = dict(ray.get_runtime_context().runtime_env)
        return dict(answer=answer, mode=os.environ["RAY_AUTH_MODE"], listening=listening, environment=environment)

first = state()
left = [name for name in os.environ if name.startswith("RAY_AUTH")]
print(json.dumps([first, left, state()]))
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Also where temporary files go, and too long a name for sockets."""
    home = tmp_path_factory.mktemp("home") / ("long_" * 20)
    home.mkdir()
    return home


@pytest.fixture(scope="module")
def said(home: Path, tmp_path_factory: pytest.TempPathFactory) -> subprocess.CompletedProcess[str]:
    """By a program that starts a Ray, ends it, and starts another; a process called `uv run` has started it."""
    folder = tmp_path_factory.mktemp("uv")
    (folder / "run").write_text("import subprocess, sys\nsys.exit(subprocess.run(sys.argv[1:]).returncode)\n")
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    return subprocess.run(
        ["uv", "run", sys.executable, "-c", PROGRAM], executable=sys.executable, cwd=folder,
        env=environment | {"HOME": str(home), "TMPDIR": str(home)}, capture_output=True, text=True, timeout=200,
        check=True,
    )  # fmt: skip


@pytest.fixture(scope="module")
def states(said: subprocess.CompletedProcess[str]) -> list[Any]:
    found: list[Any] = json.loads(said.stdout.splitlines()[-1])
    return found


def test_it_leaves_no_token_behind(states: list[Any], home: Path) -> None:
    """Ray itself writes ~/.ray/auth_token, which every later `ray start` of the user would have to be given."""
    first, left, second = states
    assert [(state["answer"], state["mode"]) for state in (first, second)] == [(42, "token")] * 2
    assert left == []
    assert not (home / ".ray").exists()


def test_it_listens_on_loopback_only(states: list[Any]) -> None:
    """All of its processes: also its workers, which carry out what anybody sends them."""
    found = states[0]["listening"]
    names = {name for name, _ in found}
    assert {"gcs_server", "raylet"} <= names and any(name.startswith("ray::") for name in names), found
    assert {ip for _, ip in found} <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}, found


def test_its_workers_have_the_environment_of_a_driver_that_uv_runs(states: list[Any]) -> None:
    """Ray looks whether one of a program's parents is called `uv run`, and has its workers started by the same."""
    assert "py_executable" not in states[0]["environment"]


def test_its_files_go_where_names_are_short_enough_for_sockets(
    said: subprocess.CompletedProcess[str], home: Path
) -> None:
    assert said.stderr.startswith(
        f"{home} (RAY_TMPDIR or TMPDIR) is too long a name for Ray's sockets; its files go to"
    )
    assert not list(home.iterdir())


def test_nowhere_are_names_short_enough(home: Path) -> None:
    """Where the shorter one cannot be written to."""
    before = "from pathlib import Path; from omatg_ray.distributed import cluster; cluster.SHORT = Path('/none')\n"
    done = said_on_joining("local", before, TMPDIR=str(home))
    assert done.stdout.startswith(str(home)) and "set RAY_TMPDIR to a shorter one" in done.stdout


@pytest.mark.long
def test_signals_to_all_processes_stop_a_run_on_a_ray_of_its_own(
    workshop: Workshop, base: Path, tmp_path: Path
) -> None:
    """A terminal, or a scheduler, sends them to every process of the run, those of Ray included.

    Any of them stops the run itself (`tests/commands/test_train.py`), and none its actors, without which it would not
    get to its boundary.
    """
    run = tmp_path / "run"
    words = [workshop.config, f"run={run}", f"base={base}", "validation.every=1000", "checkpoint.every=1000"]
    words += [f"ray.{role}.cpus=0.1" for role in ("rollout", "reward", "learner")]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}

    def wait_for(iteration: int) -> None:
        deadline = time.monotonic() + 240
        while reached(run) < iteration:
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.2)

    with subprocess.Popen(
        [sys.executable, "-m", "omatg_ray", "train", *map(str, words), "iterations=1000", "ray.rollout.workers=1"],
        cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True,
    ) as process:  # fmt: skip
        wait_for(2)
        others = [child for child in psutil.Process(process.pid).children(True) if os.getpgid(child.pid) == process.pid]
        assert others
        for number in (*AHEAD, signal.SIGINT):
            for child in others:
                child.send_signal(number)
        wait_for(reached(run) + 2)
        os.killpg(process.pid, signal.SIGINT)
        _, messages = process.communicate(timeout=60)
    assert process.returncode == 130, messages
    assert f"stopped after iteration {reached(run)} of 1000" in messages.splitlines()[-1]
    assert os.readlink(run / "checkpoints" / "last") == f"iteration_{reached(run):06d}"


def reached(run: Path) -> int:
    """Iterations that are done."""
    metrics = run / "metrics.jsonl"
    return sum(line["kind"] == "train" for line in read_metrics(metrics)) if metrics.exists() else 0
