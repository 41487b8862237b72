"""What of a machine keeps Ray from starting is said in a sentence; as real users meet it, which takes root to play."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

JOIN = """\
import sys
from omatg_ray.distributed.cluster import join_cluster
from omatg_ray.distributed.settings import RaySettings
from omatg_ray.errors import ClusterError
try:
    with join_cluster(RaySettings(address=sys.argv[1] if len(sys.argv) > 1 else None)):
        print("joined")
except ClusterError as error:
    print(error)
"""


def user(number: int) -> list[str]:
    """Runs a command as another user, who may read what this one may: the environment of the tests."""
    caps = [f"--{kind}-caps=+dac_read_search" for kind in ("inh", "ambient")]
    return ["setpriv", f"--reuid={number}", f"--regid={number}", "--clear-groups", *caps]


@pytest.fixture
def root() -> None:
    if os.getuid() != 0 or subprocess.run([*user(4711), "true"], capture_output=True).returncode:
        pytest.skip("only root can be other users")


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder with a short path, for sockets, in which everybody may write."""
    folder = Path(tempfile.mkdtemp(prefix="m-", dir="/tmp"))
    folder.chmod(0o777)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def environment(place: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return kept | {"TMPDIR": str(place), "HOME": str(place)}


def said(command: list[str], place: Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True, env=environment(place))
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.usefixtures("root")
def test_a_limit_of_processes_that_is_too_low(place: Path) -> None:
    error = said([*user(4711), "prlimit", "--nproc=150:150", sys.executable, "-c", JOIN], place)
    assert error.startswith("Ray cannot start: this user may have 150 processes and threads (ulimit -u) and has ")


def test_a_folder_for_temporary_files_that_cannot_be_made(place: Path) -> None:
    (place / "file").touch()
    error = said([sys.executable, "-c", JOIN], place / "file" / "tmp")
    assert error.startswith(f"Ray cannot start on this machine: it cannot write to {place}/file/tmp (Not a ")
    assert "set TMPDIR" in error


@pytest.mark.long
@pytest.mark.usefixtures("root")
def test_the_cluster_of_another_user_of_this_machine(place: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    ray = str(Path(sys.executable).with_name("ray"))
    start = [ray, "start", "--head", f"--port={port}", f"--temp-dir={place}/ray", "--num-cpus=1", "--block"]
    start += ["--include-dashboard=false", "--disable-usage-stats"]
    with open(place / "log", "w") as log:
        head = subprocess.Popen([*user(4711), *start], stdout=log, stderr=log, env=environment(place))
    try:
        while "Ray runtime started" not in (place / "log").read_text():
            assert head.poll() is None, (place / "log").read_text()
            time.sleep(0.2)
        join = [sys.executable, "-c", JOIN, f"127.0.0.1:{port}"]
        error = said([*user(4712), *join], place)
        assert error.startswith(f"the Ray cluster at 127.0.0.1:{port} belongs to another user of this machine (4711)")
        assert said([*user(4711), *join], place) == "joined"
    finally:
        head.terminate()
        head.wait()
