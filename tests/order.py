"""How the tests are shared out among the processes of pytest-xdist: by file, or by group, the long ones first.

A file's tests run in one process, one after the other, so that its fixtures are made once. So do those of a group,
`pytest.mark.xdist_group(name)`, of one or several files: tests that need the same cluster, or the same port.
"""

from __future__ import annotations

import pytest
from xdist.scheduler import LoadGroupScheduling

FIRST = (
    "ray",
    "tests/commands/test_train.py",
    "tests/commands/test_rewards.py",
    "tests/report/test_run.py",
    "tests/run/test_folder_at_url.py",
    "tests/reward/test_custom.py",
    "tests/commands/",
    "tests/rl/test_learner.py",
    "tests/model/",
    "tests/parity/test_policies.py",
    "tests/test_light.py",
    "tests/reward/",
    "tests/evaluate/",
)
"""How the names of files and groups begin that take longest, longest first: what starts last should be short."""


RAY = ("tests/distributed/", "tests/cluster/test_slurm.py", "tests/run/test_openmp.py")
"""Tests that start a cluster or share one: one after the other, since two at a time keep more than two cores busy."""


def share(nodeid: str) -> str:
    """The group of a test as xdist names it, or else its file."""
    file, _, rest = nodeid.partition("::")
    if file.startswith(RAY):
        return "ray"
    # A parameter may hold an @, too.
    return rest.rpartition("@")[2] if rest.rfind("@") > rest.rfind("]") else file


def group(item: pytest.Item) -> str:
    """The same, before xdist has named it."""
    mark = item.get_closest_marker("xdist_group")
    if item.nodeid.startswith(RAY):
        return "ray"
    return str(mark.args[0] if mark.args else mark.kwargs["name"]) if mark else item.nodeid.partition("::")[0]


def long_first(items: list[pytest.Item]) -> None:
    def place(item: pytest.Item) -> int:
        name = group(item)
        return next((i for i, beginning in enumerate(FIRST) if name.startswith(beginning)), len(FIRST))

    items.sort(key=place)


class Scheduling(LoadGroupScheduling):
    """By file what is in no group."""

    def _split_scope(self, nodeid: str) -> str:
        return share(nodeid)
