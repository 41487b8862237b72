"""Checks, before Ray tries, for what keeps a Ray from starting on this machine or from being joined."""

from __future__ import annotations

import os
import pwd
import resource
from contextlib import suppress
from pathlib import Path

import ray
from ray._raylet import GcsClient  # type: ignore[attr-defined]

from omatg_ray.errors import ClusterError

LEAST_THREADS = 200
"""Processes and threads of a Ray of one node without actors; a user's limit counts both."""


def refuse_few_threads() -> None:
    """Refuse to start a Ray if the user's limit leaves too few processes and threads for it.

    Ray itself would wait half a minute for a component that cannot start.

    Raises:
        ClusterError: Says how many there may be and how many there are.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    if limit == resource.RLIM_INFINITY or os.getuid() == 0:
        return
    used = _threads_of(os.getuid())
    if limit - used < LEAST_THREADS:
        raise ClusterError(
            f"Ray cannot start: this user may have {limit} processes and threads (ulimit -u) and has {used}, but Ray "
            f"needs {LEAST_THREADS} more before any actor starts; raise the limit, or run without ray.*.workers"
        )


def _threads_of(user: int) -> int:
    total = 0
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # It may end at any time.
            if process.stat().st_uid == user:
                total += len(list((process / "task").iterdir()))
    return total


def refuse_foreign_cluster(address: str) -> None:
    """Refuse a cluster whose processes on this machine belong to another user: Ray would abort this process.

    Raises:
        ClusterError: The cluster belongs to another user, whom the message names.
        ConnectionError: The cluster does not answer.
    """
    here = {ray.util.get_node_ip_address(), "127.0.0.1"}
    try:
        nodes = GcsClient(address=address).get_all_node_info(timeout=10).values()
    except ray.exceptions.RpcError as error:
        raise ConnectionError(str(error)) from error
    sockets = [Path(node.raylet_socket_name) for node in nodes if node.node_manager_address in here]
    sockets = [socket for socket in sockets if socket.exists()]
    if sockets and not any(os.access(socket, os.W_OK) for socket in sockets):
        owner = sockets[0].stat().st_uid
        try:
            name = pwd.getpwuid(owner).pw_name
        except KeyError:
            name = str(owner)
        raise ClusterError(
            f"the Ray cluster at {address} belongs to another user of this machine ({name}), and only that user can "
            "join it from here; give the address of your own (ray.address, RAY_ADDRESS), or leave it out to start a "
            "Ray for this run alone"
        )
