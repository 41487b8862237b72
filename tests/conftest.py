"""Fixtures shared by all tests."""

from __future__ import annotations

import os
import signal
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests import forks, order, pictures, processes
from tests.s3 import KEYS, Bucket, Server

ROOT = Path(__file__).resolve().parents[1]


# Under nohup it is ignored, also in what tests start; and tests send it.
signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_addoption(parser: pytest.Parser) -> None:
    options = parser.getgroup("omatg_ray")
    options.addoption("--quick", action="store_true", help="only tests that start no process and do no whole run")
    options.addoption("--all", action="store_true", help="also tests that are marked as long")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(processes.Watch())
    config.pluginmanager.register(pictures)
    config.pluginmanager.register(forks)
    config.pluginmanager.register(order)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    quick, every = config.getoption("--quick"), config.getoption("--all")
    dropped = [
        item
        for item in items
        if (quick and (processes.starts_processes(item) or item.nodeid.startswith(order.WHOLE_RUNS)))
        or (not every and item.get_closest_marker("long"))
    ]
    if dropped:
        config.hook.pytest_deselected(items=dropped)
        gone = set(dropped)
        items[:] = [item for item in items if item not in gone]
    if hasattr(config, "workerinput"):
        order.long_first(items)


def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> order.Scheduling | None:
    return order.Scheduling(config, log) if config.getoption("dist") == "loadscope" else None


@pytest.fixture(scope="session")
def shared() -> Path:
    """The reference files beside the checkout: parity numbers, real crystals, real MatGL weights.

    A clone without them skips the tests that need them. Where they must be present (continuous integration sets
    OMATG_RAY_SHARED), their absence is a failure.
    """
    path = Path(os.environ.get("OMATG_RAY_SHARED", ROOT.parent / "shared"))
    if not (path / "parity" / "README.md").is_file():
        message = f"reference files not found at {path}"
        if "OMATG_RAY_SHARED" in os.environ:
            pytest.fail(message)
        pytest.skip(message)
    return path


@pytest.fixture(autouse=True)
def _seeded() -> None:
    # Small networks gain nothing from threads, and lose a lot where a test shares its cores.
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def s3() -> Iterator[Server]:
    """An S3 on loopback."""
    server = Server()
    yield server
    server.stop()


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary files go."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def s3_bucket(s3: Server, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    """An empty bucket, at the S3 that the environment names."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in {**KEYS, "AWS_ENDPOINT_URL_S3": s3.url}.items():
        monkeypatch.setenv(name, value)
    bucket = Bucket(f"bucket-{uuid.uuid4().hex}", s3)
    s3.client.create_bucket(Bucket=bucket.name)
    yield bucket
    s3.start()


@pytest.fixture
def bucket(s3_bucket: Bucket) -> Bucket:
    """An empty bucket."""
    return s3_bucket
