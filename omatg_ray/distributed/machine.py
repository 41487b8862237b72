"""What of this machine keeps a Ray from starting or from being joined, said before Ray tries."""

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
"""So many processes and threads has a Ray of one node with no actors yet; the limit of a user counts both."""


def refuse_few_threads() -> None:
    """Refuses to start a Ray where the user may not have the processes and threads that it needs.

    Ray itself would wait for half a minute for a part of it that cannot start.

    Raises:
        ClusterError: Says how many there may be and how many there are.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    if limit == resource.RLIM_INFINITY or os.getuid() == 0:
        return
    used = _threads_of(os.getuid())
    if limit - used < LEAST_THREADS:
        raise ClusterError(
            f"Ray cannot start: this user may have {limit} processes and threads (ulimit -u) and has {used}, and Ray "
            f"needs {LEAST_THREADS} more before there are any actors; raise the limit, or run without ray.*.workers"
        )


def _threads_of(user: int) -> int:
    found = 0
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # It may end at any time.
            if process.stat().st_uid == user:
                found += len(list((process / "task").iterdir()))
    return found


def refuse_foreign_cluster(address: str) -> None:
    """Refuses a cluster whose processes on this machine are another user's: Ray would abort this process.

    Raises:
        ClusterError: Names the user.
        ConnectionError: It does not answer.
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
            f"the Ray cluster at {address} belongs to another user of this machine ({name}), and nobody else can join "
            "it from here; give the address of your own (ray.address, RAY_ADDRESS), or leave it out for a Ray of this "
            "run alone"
        )
