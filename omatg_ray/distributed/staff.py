"""The actors of a run: started in one placement group, known by role, ended with it."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray
from ray import ObjectRef
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from omatg_ray.distributed.actors import LearnerWorker, RewardWorker, RolloutWorker
from omatg_ray.distributed.cluster import joined, room
from omatg_ray.distributed.pool import PATIENCE, Pool, fetch
from omatg_ray.distributed.settings import RaySettings, Share
from omatg_ray.errors import ClusterError
from omatg_ray.model import FlowModel
from omatg_ray.reward.build import Judges
from omatg_ray.rl.learner import LearnerSettings
from omatg_ray.rl.objective import ObjectiveSettings
from omatg_ray.run.progress import print_line

logger = logging.getLogger(__name__)

SECONDS_TO_START = 600
"""After which actors that have been given their place are taken for lost; a node may have to load a lot from afar."""


@dataclass(frozen=True)
class Role:
    """Actors of one kind.

    Attributes:
        name: What messages and metrics call them.
        cls: Their class; it takes its share first.
        share: What each gets of its node.
        count: How many.
        arguments: What the class takes after its share. Each is put into the object store once, for all of them.
    """

    name: str
    cls: type[Any]
    share: Share
    count: int
    arguments: tuple[Any, ...]


def sampling_roles(settings: RaySettings, model: FlowModel, judges: Judges, match_timeout: float) -> list[Role]:
    """Those who sample and those who judge."""
    return [
        Role("rollout", RolloutWorker, settings.rollout, settings.rollout.workers, (model,)),
        Role("reward", RewardWorker, settings.reward, settings.reward.workers, (judges, match_timeout)),
    ]


def learner_role(
    settings: RaySettings, model: FlowModel, objective: ObjectiveSettings, learner: LearnerSettings
) -> Role:
    """The one who learns."""
    return Role("learner", LearnerWorker, settings.learner, 1, (model, objective, learner))


@dataclass(frozen=True)
class Staff:
    """Actors that are ready.

    Attributes:
        pools: By role.
        about: Of every actor: role, index, node, device, threads, imports, seconds until it was ready.
        startup: Seconds until the cluster was joined, and from then until all actors were ready.
    """

    pools: dict[str, Pool]
    about: list[dict[str, Any]]
    startup: dict[str, float]


@contextmanager
def staffed(settings: RaySettings, roles: Sequence[Role], progress: bool) -> Iterator[Staff]:
    """Joins the cluster and starts actors; ends them, and leaves, when the context ends.

    Args:
        settings: The cluster.
        roles: Who is needed.
        progress: Tell the user how it goes.

    Raises:
        ClusterError: No cluster, no room on it, or an actor that cannot start.
    """
    start = time.perf_counter()
    with joined(settings, progress) as cluster:
        connected = time.perf_counter()
        bundles = [(role.name, role.share.bundle) for role in roles for _ in range(role.count)]
        with room(bundles, settings, cluster.grows) as group:
            pools: dict[str, Pool] = {}
            bundle = 0
            if progress:
                print_line(f"{cluster.address}: starting {_counted(Counter(name for name, _ in bundles))}")
            try:
                for role in roles:
                    arguments = [ray.put(argument) for argument in role.arguments]
                    pool = pools[role.name] = Pool(role.name, settings.in_flight)
                    for _ in range(role.count):
                        place = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=bundle)
                        options = {"num_cpus": role.share.cpus, "num_gpus": role.share.gpus}
                        remote = ray.remote(role.cls).options(**options, scheduling_strategy=place)
                        pool.add(remote.remote(role.share, *arguments))
                        bundle += 1
                about = _ready(pools)
                unused = ray.cluster_resources().get("GPU", 0)
                if progress and unused and not any(role.share.gpus for role in roles):
                    print_line(f"Ray: the cluster has {unused:g} GPU, and no actor asks for one (ray.rollout.gpus=1)")
                ready = time.perf_counter()
                if progress:
                    print_line(_summary(about, connected - start, ready - connected))
                yield Staff(
                    pools,
                    about,
                    {"startup_cluster": connected - start, "startup_actors": ready - connected},
                )
            finally:
                for pool in pools.values():
                    for actor in pool.actors:
                        ray.kill(actor)


def _summary(about: Sequence[dict[str, Any]], connecting: float, starting: float) -> str:
    counted = _counted(Counter(actor["role"] for actor in about))
    nodes = len({actor["node_id"] for actor in about})
    return (
        f"Ray: connected after {connecting:.1f} s; {counted} on {nodes} node{'s' * (nodes > 1)}, "
        f"ready {starting:.1f} s later"
    )


def _counted(roles: Mapping[str, int]) -> str:
    return f"{', '.join(f'{count} {role}' for role, count in roles.items())} actors"


def _ready(pools: dict[str, Pool]) -> list[dict[str, Any]]:
    """What every actor says of itself, once all have started."""
    start = time.perf_counter()
    calls: dict[ObjectRef[Any], tuple[str, int]] = {
        actor.about.remote(): (pool.role, index) for pool in pools.values() for index, actor in enumerate(pool.actors)
    }
    found: dict[tuple[str, int], dict[str, Any]] = {}
    while len(found) < len(calls):
        missing = [ref for ref, key in calls.items() if key not in found]
        ready, waiting = ray.wait(missing, timeout=PATIENCE)
        if not ready:
            names = ", ".join(f"{role} {index}" for role, index in map(calls.__getitem__, waiting))
            logger.warning("after %.0f s these actors have not started: %s", time.perf_counter() - start, names)
            if time.perf_counter() - start > SECONDS_TO_START:
                raise ClusterError(
                    f"after {SECONDS_TO_START} s these actors have not started: {names}; the logs of Ray on their "
                    "nodes (/tmp/ray/session_latest/logs) may say why"
                )
        for ref in ready:
            role, index = calls[ref]
            seconds = time.perf_counter() - start
            about = fetch(ref, f"{role} actor {index}").value
            found[role, index] = {"role": role, "index": index, **about, "ready_seconds": round(seconds, 3)}
    return [found[key] for key in calls.values()]
