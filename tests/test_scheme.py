"""How tests are shared out, and that those which start processes are known."""

from __future__ import annotations

import sys

import pytest

from tests import order, processes


@pytest.mark.parametrize(
    "nodeid, scope",
    [
        ("tests/a/test_b.py::test_c", "tests/a/test_b.py"),
        ("tests/a/test_b.py::TestC::test_d[x@y::z]", "tests/a/test_b.py"),
        ("tests/distributed/test_pool.py::test_c", "the shared Ray"),
        ("tests/distributed/test_job.py::test_c[x]", "a Ray of its own"),
    ],
)
def test_tests_stay_with_their_group_or_else_their_file(nodeid: str, scope: str) -> None:
    assert order.share(nodeid) == scope


def test_long_ones_are_first() -> None:
    class Item:
        def __init__(self, nodeid: str) -> None:
            self.nodeid = nodeid

    names = ["tests/z.py::a", "tests/commands/test_info.py::a", "tests/distributed/test_pool.py::a"]
    items = [Item(name) for name in (*names, "tests/distributed/test_job.py::a", "tests/commands/test_train.py::a")]
    order.long_first(items)  # type: ignore[arg-type]
    assert [item.nodeid for item in items] == [
        "tests/distributed/test_pool.py::a", "tests/distributed/test_job.py::a", "tests/commands/test_train.py::a",
        "tests/commands/test_info.py::a", "tests/z.py::a",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "event, arguments, program",
    [
        ("subprocess.Popen", (None, ["/usr/bin/python3", "-c", ""], None, None), "/usr/bin/python3"),
        ("subprocess.Popen", ("/bin/sh", "exit 1", None, None), "/bin/sh"),
        ("os.posix_spawn", (b"/bin/true", [], {}), "/bin/true"),
        ("os.spawn", (0, "/bin/true", [], {}), "/bin/true"),
        ("os.system", (b"python -c 1",), "python"),
        ("os.fork", (), "os.fork"),
        ("subprocess.Popen", ("git", ["git", "status"], None, None), None),
        ("open", ("/usr/bin/python3", "r", 0), None),
    ],
)
def test_a_process_is_noticed_however_it_is_started(
    event: str, arguments: tuple[object, ...], program: str | None
) -> None:
    """The events are those of Python, raised without the process."""
    assert processes.started == []
    sys.audit(event, *arguments)
    noticed, processes.started[:] = list(processes.started), []
    assert noticed == ([program] if program else [])


def test_one_that_is_not_marked_fails(request: pytest.FixtureRequest) -> None:
    check = processes.watched(request.node, quick=True)
    next(check)
    sys.audit("os.fork")
    with pytest.raises(pytest.fail.Exception, match=r"starts a process \(os.fork\) and is not marked"):
        check.send(None)
    processes.started.clear()


def test_elsewhere_it_is_warned_of(request: pytest.FixtureRequest) -> None:
    check = processes.watched(request.node, quick=False)
    next(check)
    sys.audit("os.fork")
    with pytest.warns(pytest.PytestWarning, match="is not marked"), pytest.raises(StopIteration):
        check.send(None)


@pytest.mark.processes
def test_one_that_is_marked_passes(request: pytest.FixtureRequest) -> None:
    check = processes.watched(request.node, quick=True)
    next(check)
    sys.audit("os.fork")
    with pytest.raises(StopIteration):
        check.send(None)
