"""The actors of a run: started in one placement group, grouped by role, ended together."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from omatg_ray.distributed.cluster import join_cluster, reserve_room
from omatg_ray.distributed.event_loop import EventLoop
from omatg_ray.distributed.learner_group import LearnerGroup
from omatg_ray.distributed.settings import ElasticShare, RaySettings, WorkerShare
from omatg_ray.distributed.worker_group import SECONDS_TO_START, WorkerGroup
from omatg_ray.distributed.workers import LearnerWorker, RewardWorker, RolloutWorker
from omatg_ray.run.progress import print_line
from omatg_ray.run.versions import software

WORKERS: Mapping[str, type[Any]] = {"learner": LearnerWorker, "rollout": RolloutWorker, "reward": RewardWorker}
"""Class of the actors of every role. The settings of a role have the same name."""


@dataclass(frozen=True)
class ActorSet:
    """Actors that are ready.

    Attributes:
        loop: Event loop where their answers arrive.
        pools: Rollout and reward actors, by role.
        learners: The learners, if the run has any.
        startup: Seconds until the cluster was joined, and from then until all actors were ready.
    """

    loop: EventLoop
    pools: dict[str, WorkerGroup]
    learners: LearnerGroup | None
    startup: dict[str, float]

    @property
    def info(self) -> list[dict[str, Any]]:
        """Role, index, node, device, threads, imports and seconds until ready, of every actor that is ready."""
        learners = self.learners.info if self.learners is not None else []
        return [*learners, *(info for pool in self.pools.values() for info in pool.info)]


@contextmanager
def start_actors(
    settings: RaySettings, roles: Mapping[str, tuple[Any, ...]], progress: bool, inside: bool = False
) -> Iterator[ActorSet]:
    """Join the cluster and start actors; end them, and leave, when the context ends.

    Args:
        settings: The cluster.
        roles: Roles of the actors to start, with the arguments of their class after the share. Each argument is put
            into the object store once, for all actors of a role.
        progress: Whether to report progress to the user.
        inside: Whether this process is an actor, as in a trial of a sweep, whose placement group has a bundle for each
            of the new actors, in order, after its own. They are placed there, and the group stays.

    Raises:
        ClusterError: There is no cluster, it has no room, or an actor cannot start.
        SoftwareError: An actor's node runs other software than this process.
    """
    start = time.perf_counter()
    software()  # recorded now, as files may change during a run
    shares: dict[str, WorkerShare] = {role: getattr(settings, role) for role in roles}
    with join_cluster(settings, progress) as (address, grows), ExitStack() as stack:
        connected = time.perf_counter()
        bundles = [(role, share.bundle) for role, share in shares.items() for _ in range(share.workers)]
        if inside:
            group = ray.util.get_current_placement_group()
            assert group is not None, "not an actor in a placement group"
        else:
            group = stack.enter_context(reserve_room(bundles, settings, grows))
        if progress:
            print_line(f"{address}: starting {_list_counts(Counter(name for name, _ in bundles))}")
        loop, pools, learners, first = EventLoop(), dict[str, WorkerGroup](), None, int(inside)
        # If nodes come on demand, replacements take as long as the first ones.
        start_timeout = max(SECONDS_TO_START, settings.wait)
        for role, share in shares.items():
            start_actor = _make_starter(role, share, roles[role], group, first)
            if WORKERS[role] is not LearnerWorker:
                assert isinstance(share, ElasticShare)
                count = share.max_workers or share.workers
                pools[role] = WorkerGroup(
                    role, loop, start_actor, count, settings.in_flight, settings.request_timeout, start_timeout
                )
                stack.callback(pools[role].close)
            else:
                learners = LearnerGroup(loop, start_actor, share.workers, settings.request_timeout, start_timeout)
                stack.callback(learners.close)
            first += share.workers
        if learners is not None:
            learners.start()
        for role, pool in pools.items():
            pool.wait_for(shares[role].workers)
        unused = ray.cluster_resources().get("GPU", 0)
        if progress and unused and not any(share.gpus for share in shares.values()):
            print_line(f"Ray: the cluster has {unused:g} GPU, but no actor asks for one (ray.rollout.gpus=1)")
        ready = time.perf_counter()
        actors = ActorSet(
            loop, pools, learners, {"startup_cluster": connected - start, "startup_actors": ready - connected}
        )
        if progress:
            print_line(_summary(actors.info, connected - start, ready - connected))
        yield actors


def _make_starter(
    role: str, share: WorkerShare, arguments: Sequence[Any], group: PlacementGroup, first: int
) -> Callable[[int], ActorHandle[Any]]:
    """Return a function that starts actors of a role: first in the group's bundles from `first` on, then anywhere."""
    stored = [ray.put(argument) for argument in arguments]
    options = {"num_cpus": share.cpus, "num_gpus": share.gpus}

    def start_actor(index: int) -> ActorHandle[Any]:
        strategy: Any = "DEFAULT"
        if index < share.workers:
            strategy = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=first + index)
        return ray.remote(WORKERS[role]).options(**options, scheduling_strategy=strategy).remote(share, *stored)

    return start_actor


def _summary(info: Sequence[dict[str, Any]], connecting: float, starting: float) -> str:
    counts = _list_counts(Counter(actor["role"] for actor in info))
    nodes = len({actor["node_id"] for actor in info})
    return (
        f"Ray: connected after {connecting:.1f} s; {counts} on {nodes} node{'s' * (nodes > 1)}, "
        f"ready {starting:.1f} s later"
    )


def _list_counts(roles: Mapping[str, int]) -> str:
    return f"{', '.join(f'{count} {role}' for role, count in roles.items())} actors"
