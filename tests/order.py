"""How the tests are shared out among the processes of pytest-xdist: by file, the long ones first.

A file's tests run in one process, one after the other, so that its fixtures are made once. Tests of Ray do so in two
groups of files.
"""

from __future__ import annotations

import os

import pytest
from xdist.scheduler import LoadScopeScheduling

OWN = ("tests/distributed/test_job.py", "tests/distributed/test_machine.py", "tests/distributed/test_own_ray.py")
"""Tests that start a Ray of their own: one after the other, since each start keeps all cores busy."""
SHARED = ("tests/distributed/",)
"""The others of Ray: they share one cluster, and mostly wait for it."""

FIRST = (
    "the shared Ray",
    "a Ray of its own",
    "tests/commands/test_train.py",
    "tests/commands/test_rewards.py",
    "tests/commands/test_variants.py",
    "tests/run/test_folder_at_url.py",
    "tests/commands/",
    "tests/cluster/",
    "tests/rl/",
    "tests/model/",
    "tests/search/test_random_crystals.py",
    "tests/parity/test_policies.py",
    "tests/test_light.py",
    "tests/report/",
    "tests/scripts/",
    "tests/reward/",
    "tests/evaluate/",
)
"""How the names of files and groups begin that take longest, longest first: what starts last should be short."""

WHOLE_RUNS = (
    "tests/assets/test_contents.py",
    "tests/commands/",
    "tests/flow/test_pretrain.py",
    "tests/parity/",
    "tests/rl/test_optimum.py",
    "tests/run/test_folder_at_url.py",
    "tests/scripts/",
    "tests/tune/test_schedulers.py",
)
"""Where most tests are whole runs, or comparisons of some, for seconds each: `--quick` leaves them out."""


def share(nodeid: str) -> str:
    """What of the tests runs in one process: the group or the file of a test."""
    if nodeid.startswith(OWN):
        return "a Ray of its own"
    return "the shared Ray" if nodeid.startswith(SHARED) else nodeid.partition("::")[0]


def pytest_runtest_setup(item: pytest.Item) -> None:
    """The others give way to those of Ray, of which each waits for the one before."""
    if "PYTEST_XDIST_WORKER" in os.environ and not item.nodeid.startswith(SHARED) and os.nice(0) == 0:
        os.nice(5)


def long_first(items: list[pytest.Item]) -> None:
    def place(item: pytest.Item) -> int:
        name = share(item.nodeid)
        return next((i for i, beginning in enumerate(FIRST) if name.startswith(beginning)), len(FIRST))

    items.sort(key=place)


class Scheduling(LoadScopeScheduling):
    """By these shares."""

    def _split_scope(self, nodeid: str) -> str:
        return share(nodeid)
