"""Which tests start processes: they are marked, and `--quick` leaves them out. There one that is not marked fails.

Elsewhere it gives a warning.

A process is whatever Python starts through `subprocess`, `os` or `multiprocessing`, and so Ray, too. Of those that end
by themselves within milliseconds, `BRIEF` are allowed: they are how this project and its libraries look things up.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Generator
from pathlib import PurePath
from typing import Any

import pytest

ALWAYS = ("tests/distributed/",)
"""Where every test is one that starts processes, or needs those of a fixture."""
BRIEF = {"git", "ldconfig", "sha256sum", "touch", "uname"}
"""Programs that any test may run."""

started: list[str] = []
_UNMARKED = "it starts a process ({}) and is not marked as one that does: @pytest.mark.processes (tests/processes.py)"


def _listen(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "subprocess.Popen":
        program, words = arguments[0], arguments[1]
        program = program or (words if isinstance(words, (str, bytes)) else words[0])
    elif event in ("os.posix_spawn", "os.spawn"):
        program = arguments[event == "os.spawn"]
    elif event == "os.system":
        program = os.fsdecode(arguments[0]).split()[0]
    elif event in ("os.fork", "os.forkpty"):
        program = event
    else:
        return
    if PurePath(os.fsdecode(program)).name not in BRIEF:
        started.append(os.fsdecode(program))


class Watch:
    """Tells of the tests that start processes and are not marked."""

    def __init__(self) -> None:
        sys.addaudithook(_listen)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Generator[None]:
        started.clear()
        return (yield from watched(item, item.config.getoption("quick")))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None]:
        return (yield from watched(item, item.config.getoption("quick")))


def watched(item: pytest.Item, quick: bool) -> Generator[None]:
    result = yield
    if started and not starts_processes(item):
        message = _UNMARKED.format(", ".join(started))
        if quick:
            pytest.fail(message, pytrace=False)
        item.warn(pytest.PytestWarning(message))
        started.clear()
    return result


def starts_processes(item: pytest.Item) -> bool:
    """Marked, or taken to be: by its folder, or by a parameter that is a number of worker processes."""
    parameters: dict[str, Any] = item.callspec.params if hasattr(item, "callspec") else {}
    workers = parameters.get("workers", 0)
    return (
        item.get_closest_marker("processes") is not None
        or item.nodeid.startswith(ALWAYS)
        or (isinstance(workers, int) and workers > 0)
    )
