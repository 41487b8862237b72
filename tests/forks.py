"""Worker processes of `BoundedPool` that start in a hundredth of a second: forks of one that has imported everything.

A fresh interpreter that imports PyTorch or pymatgen takes a core for one to three seconds, and tests start hundreds of
them. How users' workers start is tested in `tests/run/test_bounded.py`; with `scripts/test --all` all start so.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
from multiprocessing.reduction import DupFd
from types import SimpleNamespace
from typing import Any

import pytest

from omatg_ray.run import bounded

FRESH = bool(os.environ.get("OMATG_RAY_FRESH_WORKERS"))
"""Whether workers start as users' do (`scripts/test --all`)."""

_server = multiprocessing.get_context("forkserver")
_server.set_forkserver_preload(["omatg_ray.reward.custom", "omatg_ray.reward.worker_functions"])


class Stream:
    """A file descriptor that travels to the fork, where it has another number."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __reduce__(self) -> tuple[Any, ...]:
        return _detached, (DupFd(self.number),)


def _detached(stream: Any) -> int:
    return int(stream.detach())


def _run(
    code: str, named: int, connection: int, output: int, error: int, folder: str, environment: dict[str, str]
) -> None:
    os.dup2(output, 1)
    os.dup2(error, 2)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    exec(code.replace(f"serve({named})", f"serve({connection})"), {"__name__": "__main__"})


class Forked:
    """What `BoundedPool` needs of `subprocess.Popen`."""

    def __init__(self, command: list[str], pass_fds: list[int], env: dict[str, str], **_: object) -> None:
        (connection,) = pass_fds
        arguments = (command[-1], connection, Stream(connection), Stream(1), Stream(2), os.getcwd(), env)
        self._process = _server.Process(target=_run, args=arguments, daemon=True)
        self._process.start()
        self.pid = self._process.pid

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("a fork", timeout or 0.0)
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def kill(self) -> None:
        self._process.kill()


_forks = SimpleNamespace(Popen=Forked, DEVNULL=subprocess.DEVNULL, TimeoutExpired=subprocess.TimeoutExpired)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Before all fixtures, those of a session included."""
    fresh = FRESH or item.nodeid.startswith("tests/run/test_bounded.py")
    bounded.subprocess = subprocess if fresh else _forks  # type: ignore[assignment]
