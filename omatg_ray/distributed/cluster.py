"""Connections to Ray clusters, and placement groups on them."""

from __future__ import annotations

import logging
import os
import secrets
import signal
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import ray
from ray._common.utils import get_default_ray_temp_dir
from ray._private import ray_constants, services
from ray.exceptions import AuthenticationError
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group

from omatg_ray.distributed.machine import refuse_few_threads, refuse_foreign_cluster
from omatg_ray.distributed.settings import RaySettings
from omatg_ray.errors import ClusterError
from omatg_ray.run.interrupt import deaf_children
from omatg_ray.run.progress import print_line

logger = logging.getLogger(__name__)

SECONDS_TO_CONNECT = 10
NODES_NAMED = 8
JOB_FOLDER = "runtime_resources"
ENABLE_RAY_CLUSTER, UV_RUN = "ENABLE_RAY_CLUSTER", "RAY_ENABLE_UV_RUN_RUNTIME_ENV"
"""Constants of Ray; the second is also a variable of the environment."""
SHORT = Path("/tmp")
"""Usual folder of Ray's files."""
SOCKET = "/session_2026-11-28_19-07-18_720664_4194304/sockets/plasma_store"
"""Longest name that Ray gives a socket, below the folder of its files."""
LONGEST = 103 if sys.platform == "darwin" else 107
"""Largest number of bytes in a socket's path."""
Bundle = Mapping[str, float]


@contextmanager
def join_cluster(settings: RaySettings, progress: bool = False) -> Iterator[tuple[str, bool]]:
    """Connect to the cluster of the settings, or start a Ray on this machine for as long as the context lasts.

    A program that is connected already keeps its connection.

    Yields:
        The cluster's address, in words, and whether it may have more room later; a Ray of this process alone never has.

    Raises:
        ClusterError: There is no cluster at the address, it refuses the connection, or it is not this job's cluster.
    """
    if ray.is_initialized():
        yield ray.get_runtime_context().gcs_address, True
        return
    address = settings.address or os.environ.get("RAY_ADDRESS") or None
    if address == "local":
        address = None
    if address is not None and address.startswith("ray://"):
        raise ClusterError(f"{address} is a Ray Client address; give that of the cluster itself: HOST:6379")
    if progress:
        print_line(f"joining the Ray cluster at {address}" if address else "starting a Ray on this machine")
    on_sigterm = signal.getsignal(signal.SIGTERM)
    with _set_token(None if address else secrets.token_hex(32)):
        where = address or "this machine"
        try:
            # Look `auto` up as Ray does; that cluster may have ended.
            resolved = services.canonicalize_bootstrap_address("auto") if address == "auto" else address
            where += f" ({resolved})" if resolved != address else ""
            if resolved is None:
                refuse_few_threads()
            elif _knock(resolved):
                refuse_foreign_cluster(resolved)
            # Ray's start-up messages are nothing the user has to act on.
            options: dict[str, Any] = {"logging_level": logging.ERROR}
            if resolved is None:
                options |= {"include_dashboard": False, "_temp_dir": _choose_folder()}
            # Make a Ray of this process alone listen on 127.0.0.1 only. On Linux, Ray listens on all interfaces. On
            # macOS it does not, and this is the switch for that. Asking for an address of the node does not work, since
            # Ray replaces 127.0.0.1 with an external one.
            loopback_only = _switched_off(ENABLE_RAY_CLUSTER, resolved is None)
            # Keep the workers of a driver started by `uv run` in the environment of their node; here that is the
            # driver's. Ray would create a new one with the same `uv run`, in a copy of the working directory, which may
            # lack Ray itself. RAY_ENABLE_UV_RUN_RUNTIME_ENV=1 requests that.
            same_environment = _switched_off(UV_RUN, UV_RUN not in os.environ)
            with loopback_only, same_environment, deaf_children():
                context: Any = ray.init(resolved or "local", **options)
        except AuthenticationError as error:
            # The first sentence says what is wrong, the others where to read on.
            raise ClusterError(
                f"the Ray cluster at {address} asks for a token: {str(error).split('. ')[0]}. Put the cluster's token "
                "into ~/.ray/auth_token, and set RAY_AUTH_MODE=token"
            ) from error
        except (OSError, RuntimeError, ValueError, grpc.FutureTimeoutError) as error:
            if address is None and isinstance(error, OSError) and error.filename:
                raise ClusterError(
                    f"Ray cannot start on this machine: it cannot write to {error.filename} "
                    f"({error.strerror}); set TMPDIR to an existing folder that you can write to"
                ) from error
            reason = str(error) or f"no answer in {SECONDS_TO_CONNECT} s"
            raise ClusterError(
                f"no Ray cluster at {where}, or it rejects this token: {reason}. ray.address and "
                "RAY_ADDRESS name the cluster (usually port 6379); without them the run starts a Ray of its own. A "
                "token is only sent if RAY_AUTH_MODE=token is set"
            ) from error
        except Exception as error:
            # Ray raises a plain Exception if a node does not start in time.
            if type(error) is not Exception:
                raise
            raise ClusterError(f"Ray did not start on this machine, which may be too busy: {error}") from error
        if callable(on_sigterm) and threading.current_thread() is threading.main_thread():
            # Ray has replaced the handler, which stops a run at the next boundary, with a plain exit.
            signal.signal(signal.SIGTERM, on_sigterm)
        try:
            if settings.address is None:
                _refuse_other_session(Path(context.address_info["session_dir"]).name, str(address))
            joined_at = f"the cluster at {context.address_info['gcs_address']}" if address else "this machine"
            yield joined_at, address is not None
        finally:
            ray.shutdown()


def _refuse_other_session(session: str, address: str) -> None:
    """Refuse a cluster other than the one that this job was submitted to.

    Ray gives a job the address of *some* Ray on its machine; if there are two, it may be the wrong one. The folder that
    a job runs in names the session of its cluster.
    """
    parts = Path.cwd().parts
    own = parts[parts.index(JOB_FOLDER) - 1] if JOB_FOLDER in parts else session
    if own != session:
        raise ClusterError(
            f"this job belongs to the Ray of {own}, but Ray sent it to another one on this machine ({address}, "
            f"{session}); give the address of its own cluster: ray.address=HOST:PORT"
        )


def _choose_folder() -> str | None:
    """Choose the folder for the files of a Ray of this process alone; None is Ray's own choice.

    Raises:
        ClusterError: The paths of its sockets would be too long there, and a shorter folder cannot be written to.
    """
    own = get_default_ray_temp_dir()
    if len(os.fsencode(own + SOCKET)) <= LONGEST:
        return None
    reason = f"{Path(own).parent} (RAY_TMPDIR or TMPDIR) is too long a name for Ray's sockets"
    if not os.access(SHORT, os.W_OK | os.X_OK):
        raise ClusterError(f"{reason}, and {SHORT} cannot be written to; set RAY_TMPDIR to a shorter one")
    logger.warning("%s; its files go to %s", reason, SHORT / "ray")
    return str(SHORT / "ray")


def _knock(address: str) -> bool:
    """Check that a Ray listens and has a node on this machine; Ray itself would try for minutes, and then abort.

    Returns:
        Whether one answered; False if that cannot be found out.

    Raises:
        OSError, grpc.FutureTimeoutError: No Ray answers, or it has no node on this machine.
    """
    host, _, port = address.rpartition(":")
    if not (host and port.isdigit()) or os.environ.get("RAY_USE_TLS", "0") != "0":
        return False
    if host in ("localhost", "127.0.0.1"):
        host = ray.util.get_node_ip_address()  # as Ray does
    socket.create_connection((host.strip("[]"), int(port)), timeout=SECONDS_TO_CONNECT).close()
    # A web proxy does not lead to the cluster; Ray bypasses it too.
    with grpc.insecure_channel(f"{host}:{port}", options=[("grpc.enable_http_proxy", 0)]) as channel:
        grpc.channel_ready_future(channel).result(timeout=SECONDS_TO_CONNECT)
    deadline = time.monotonic() + SECONDS_TO_CONNECT
    while not services.find_node_ids():
        if time.monotonic() > deadline:
            raise ConnectionError(
                f"it has no node on this machine, which is needed to join it (ray start --address={address})"
            )
        time.sleep(0.5)
    return True


@contextmanager
def _set_token(token: str | None) -> Iterator[None]:
    """Set a token for a Ray of this process alone; Ray itself would leave one in the user's home for good.

    Does nothing if there is none to set, or if the user has configured authentication.
    """
    if token is None or {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys():
        yield
        return
    os.environ["RAY_AUTH_TOKEN"] = token
    try:
        yield
    finally:
        # Ray has set the mode, and keeps the token for the next cluster that this process joins.
        for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_MODE"):
            os.environ.pop(name, None)
        from ray._raylet import AuthenticationTokenLoader  # type: ignore[attr-defined]

        AuthenticationTokenLoader.instance().reset_cache()


@contextmanager
def _switched_off(switch: str, off: bool) -> Iterator[None]:
    """Turn off a switch among Ray's constants meanwhile, if asked to."""
    previous = getattr(ray_constants, switch)
    setattr(ray_constants, switch, previous and not off)
    try:
        yield
    finally:
        setattr(ray_constants, switch, previous)


@contextmanager
def reserve_room(
    bundles: Sequence[tuple[str, Bundle]], settings: RaySettings, grows: bool = True
) -> Iterator[PlacementGroup]:
    """Reserve a placement group with one bundle per actor, and release it at the end.

    Args:
        bundles: Role and resources of every actor.
        settings: Strategy, and how long to wait.
        grows: Whether there may be more room later than all nodes have now.

    Raises:
        ClusterError: The cluster has no room within `settings.wait` seconds, or never can have; says what was requested
            and what is available.
    """
    if not grows and not _fits(bundles):
        raise ClusterError(f"this machine has no room for this run. {describe_room(bundles)}. {_advice(bundles)}")
    group = placement_group([dict(bundle) for _, bundle in bundles], strategy=settings.strategy.upper())
    try:
        if not group.wait(settings.wait):
            raise no_room_error("this run", bundles, settings)
        yield group
    finally:
        remove_placement_group(group)


def no_room_error(what: str, bundles: Sequence[tuple[str, Bundle]], settings: RaySettings) -> ClusterError:
    """Return the error for a cluster that had no room within `settings.wait` seconds."""
    return ClusterError(
        f"the cluster has no room for {what} after {settings.wait:g} s. {describe_room(bundles)}. "
        f"{_advice(bundles)}, or wait longer if the cluster grows on demand (ray.wait)"
    )


def describe_room(bundles: Sequence[tuple[str, Bundle]]) -> str:
    """Describe what was requested and what is available."""
    return f"Requested: {_describe(bundles)}. Available: {_present()}"


def _advice(bundles: Sequence[tuple[str, Bundle]]) -> str:
    keys = ["ray.*.workers", "ray.*.cpus", "ray.*.gpus"]
    keys += ["trial.cpus", "trial.gpus"] if "trial" in dict(bundles) else []
    return f"Ask for fewer workers or smaller shares, which may be fractions ({', '.join(keys)})"


def has_room() -> bool:
    """Return whether a placement group of this program, or of one of its actors, is placed on the cluster."""
    job = ray.get_runtime_context().get_job_id()
    groups = ray.util.placement_group_table().items()
    # The id of a group ends with the id of its job.
    return any(ident.endswith(job) and group["state"] == "CREATED" for ident, group in groups)


def _fits(bundles: Sequence[tuple[str, Bundle]]) -> bool:
    """Return whether all nodes together, if idle, have the requested resources."""
    present = ray.cluster_resources()
    return all(amount <= present.get(kind, 0.0) + 1e-6 for kind, amount in _total(bundles).items())


def _total(bundles: Sequence[tuple[str, Bundle]]) -> dict[str, float]:
    kinds = dict.fromkeys(kind for _, bundle in bundles for kind in bundle)
    return {kind: sum(bundle.get(kind, 0.0) for _, bundle in bundles) for kind in kinds}


def _describe(bundles: Sequence[tuple[str, Bundle]]) -> str:
    """Describe bundles: '3 x rollout (1 CPU, 0.5 GPU), 1 x learner (2 CPU), in all 5 CPU, 1.5 GPU'."""
    counts = Counter((role, _amounts(bundle)) for role, bundle in bundles)
    parts = [f"{count} x {role} ({amounts})" for (role, amounts), count in counts.items()]
    return f"{', '.join(parts)}, in all {_amounts(_total(bundles))}"


def _present() -> str:
    """Describe the resources of every node, and how much of the total is free."""
    nodes = [node for node in ray.nodes() if node["Alive"]]
    each = [f"{node['NodeManagerAddress']} ({_amounts(node['Resources'])})" for node in nodes[:NODES_NAMED]]
    more = ", ..." if len(nodes) > NODES_NAMED else ""
    free = _amounts(ray.available_resources())
    return f"{len(nodes)} node{'s' * (len(nodes) > 1)}, {', '.join(each)}{more}; free {free}"


def _amounts(resources: Mapping[str, float]) -> str:
    return ", ".join(f"{resources.get(kind, 0):g} {kind}" for kind in ("CPU", "GPU") if kind in resources) or "nothing"
