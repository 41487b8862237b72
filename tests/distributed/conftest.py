"""One cluster of two nodes for all tests of this folder, on this machine; its cores are a matter of book-keeping."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import ray
from ray.cluster_utils import Cluster

# The files of a session are the same as those of the commands.
from tests.commands.conftest import Command, Outcome, Workshop, base, command, trained, workshop

__all__ = ["Command", "Outcome", "Workshop", "base", "command", "trained", "workshop"]

CORES = 4
"""Cores of each node."""


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Two nodes of `CORES` cores each, and a GPU that is none on the second; this process is connected to them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        options = {"num_cpus": CORES, "object_store_memory": 200 * 2**20}
        nodes = Cluster(initialize_head=True, head_node_args={**options, "include_dashboard": False})
        try:
            nodes.add_node(**options, num_gpus=1)
            nodes.wait_for_nodes()
            ray.init(address=nodes.address, log_to_driver=False)
            yield nodes
        finally:
            ray.shutdown()
            nodes.shutdown()
