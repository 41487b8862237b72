"""One cluster of two nodes for all tests of this folder, on this machine; its cores are a matter of book-keeping."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from ray.cluster_utils import Cluster
from safetensors.torch import load_file

from omatg_ray.commands.train import TrainResult, train
from omatg_ray.config import Config
from omatg_ray.run.metrics import read_metrics

# The files of a session are the same as those of the commands.
from tests.commands.conftest import Command, Outcome, Workshop, base, command, trained, workshop
from tests.distributed.nursery import NURSERY, SOCKET, nursery
from tests.forks import FRESH

__all__ = ["Command", "Outcome", "Workshop", "base", "command", "trained", "workshop"]

CORES = 4
"""Cores of each node."""


class Nodes(Cluster):
    """A cluster whose workers are forked in the nursery, but those of nodes that are fresh."""

    def add_node(self, wait: bool = True, fresh: bool = False, **options: Any) -> Any:
        with pytest.MonkeyPatch.context() as patch:
            if fresh:
                # Those that Ray starts before they are asked for would all import what they need.
                patch.setenv("RAY_prestart_worker_first_driver", "0")
            elif not FRESH:
                options["setup_worker_path"] = NURSERY
            if self.head_node is not None and not FRESH:
                # Without what serves a dashboard, which takes seconds to start; the first node has it.
                patch.setattr("ray._private.utils.get_dashboard_dependency_error", lambda: ImportError("not asked for"))
            return super().add_node(wait, **options)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Nodes]:
    """Two nodes of `CORES` cores each, and a GPU that is none on the second; this process is connected to them."""
    with (
        # Sockets have short names only, so not in pytest's folder.
        tempfile.TemporaryDirectory(prefix="ray-") as folder,
        nursery(Path(folder)) as (socket, wait_for_nursery),
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.delenv("RAY_ADDRESS", raising=False)
        patch.setenv(SOCKET, socket)
        options = {"num_cpus": CORES, "object_store_memory": 200 * 2**20}
        # By default workers give way to everything else that runs on the machine, such as other tests, and metrics are
        # handed on every ten seconds.
        system = {"worker_niceness": 0, "metrics_report_interval_ms": 2000}
        head = {**options, "include_dashboard": False, "include_log_monitor": False, "_system_config": system}
        nodes = Nodes(initialize_head=True, head_node_args=head)
        try:
            nodes.add_node(**options, num_gpus=1)
            nodes.wait_for_nodes()
            wait_for_nursery()  # no worker is started before there is a driver
            ray.init(address=nodes.address, log_to_driver=False)
            yield nodes
        finally:
            ray.shutdown()
            nodes.shutdown()


TIMINGS = ("time_", "idle_", "startup_", "replaced_", "retried_")
SMALL = ("rollout.groups=5", "rollout.group_size=4", "rollout.groups_per_item=2", "learner.microbatch_pairs=60")


@dataclass(frozen=True)
class Run:
    config: Config
    result: TrainResult

    @property
    def folder(self) -> Path:
        return self.config.run

    def weights(self, name: str = "last") -> dict[str, torch.Tensor]:
        folder = self.folder / "checkpoints" / name
        return load_file(folder / "weights.safetensors") | load_file(folder / "learner.safetensors")

    def lines(self) -> list[dict[str, float]]:
        """Metrics without what depends on the clock."""
        return [
            {name: value for name, value in line.items() if not name.startswith(TIMINGS)}
            for line in read_metrics(self.folder / "metrics.jsonl")
        ]


def run(workshop: Workshop, base: Path, name: str, *overrides: str) -> Run:
    config = workshop.load(f"run={workshop.root / name}", f"base={base}", *SMALL, *overrides)
    return Run(config, train(config, progress=False))


@pytest.fixture(scope="session")
def alone(workshop: Workshop, base: Path) -> Run:
    return run(workshop, base, "without_actors")
