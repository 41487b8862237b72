"""Actors of one role: each has a few requests in flight, the others wait here."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import ray
from ray import ObjectRef
from ray.actor import ActorHandle
from ray.exceptions import RayActorError, RayTaskError

from omatg_ray.errors import ClusterError, OmatgRayError

logger = logging.getLogger(__name__)

PATIENCE = 60.0
"""Seconds without any result after which a message says what is still running."""


class Timed(NamedTuple):
    """What an actor's method gives last: a small value, and the seconds it took."""

    value: Any
    seconds: float


@dataclass(frozen=True)
class Request:
    """A call of an actor's method.

    Attributes:
        index: What the caller knows it by.
        method: Name of the method; it returns `kept` values that stay in the object store, then a `Timed`.
        arguments: Object references among them are resolved on the actor's side.
        kept: How many values stay in the object store.
    """

    index: int
    method: str
    arguments: tuple[Any, ...]
    kept: int = 0


@dataclass(frozen=True)
class Answer:
    """What came of a request: references to what stays in the object store, and the small value."""

    index: int
    kept: tuple[ObjectRef[Any], ...]
    value: Any


class Pool:
    """Gives requests to actors, at most `in_flight` at a time to each, first come first served.

    Args:
        role: What messages call these actors.
        actors: The actors.
        in_flight: Requests that an actor is given before it has answered.
    """

    def __init__(self, role: str, actors: Sequence[ActorHandle[Any]], in_flight: int) -> None:
        self.role, self.actors, self._in_flight = role, list(actors), in_flight
        self._waiting: deque[Request] = deque()
        self._running: dict[ObjectRef[Any], tuple[Request, int, tuple[ObjectRef[Any], ...]]] = {}
        self.busy = [0.0] * len(actors)

    def __len__(self) -> int:
        return len(self.actors)

    @property
    def running(self) -> list[ObjectRef[Any]]:
        """What `ray.wait` waits for."""
        return list(self._running)

    @property
    def unfinished(self) -> int:
        """Requests without an answer."""
        return len(self._waiting) + len(self._running)

    def submit(self, request: Request) -> None:
        """Takes a request; an actor gets it as soon as one has room for it."""
        self._waiting.append(request)
        self._dispatch()

    def broadcast(self, method: str, *arguments: Any) -> None:
        """Calls a method of every actor, before whatever is submitted from now on."""
        for actor in self.actors:
            getattr(actor, method).remote(*arguments)

    def take(self, ref: ObjectRef[Any]) -> Answer:
        """The answer behind one of `running` that is ready.

        Raises:
            OmatgRayError: What the method raised, if it is one of ours.
            ClusterError: The actor died, or its method raised something else.
        """
        request, actor, kept = self._running.pop(ref)
        timed = fetch(ref, f"{self.role} actor {actor}")
        self.busy[actor] += timed.seconds
        self._dispatch()
        return Answer(request.index, kept, timed.value)

    def drop(self) -> None:
        """Forgets all requests; what is running runs to its end without anybody who waits for it."""
        self._waiting.clear()
        self._running.clear()

    def take_busy(self) -> list[float]:
        """Seconds that each actor worked since this was last asked."""
        busy, self.busy = self.busy, [0.0] * len(self.actors)
        return busy

    def describe(self) -> str:
        """What is running where, for messages."""
        per_actor: dict[int, list[str]] = {}
        for request, actor, _ in self._running.values():
            per_actor.setdefault(actor, []).append(f"{request.method} {request.index}")
        return "; ".join(f"{self.role} actor {actor}: {', '.join(calls)}" for actor, calls in sorted(per_actor.items()))

    def _dispatch(self) -> None:
        load = [0] * len(self.actors)
        for _, actor, _ in self._running.values():
            load[actor] += 1
        while self._waiting and min(load) < self._in_flight:
            actor = load.index(min(load))
            request = self._waiting.popleft()
            method = getattr(self.actors[actor], request.method).options(num_returns=request.kept + 1)
            refs = method.remote(*request.arguments)
            *kept, last = refs if isinstance(refs, list) else [refs]
            self._running[last] = (request, actor, tuple(kept))
            load[actor] += 1


def answers(*pools: Pool) -> Iterator[tuple[Pool, Answer]]:
    """Answers of several pools as they come, until nothing is left; whoever takes them may submit more.

    Raises:
        OmatgRayError: As `Pool.take`. What is still running is forgotten then.
    """
    last = time.monotonic()
    try:
        while any(pool.unfinished for pool in pools):
            ready, _ = ray.wait([ref for pool in pools for ref in pool.running], timeout=PATIENCE)
            if not ready:
                waited = time.monotonic() - last
                running = "; ".join(text for pool in pools if (text := pool.describe()))
                logger.warning("no result for %.0f s; running: %s", waited, running)
                continue
            last = time.monotonic()
            for ref in ready:
                pool = next(pool for pool in pools if ref in pool.running)
                yield pool, pool.take(ref)
    finally:
        for pool in pools:
            pool.drop()


def fetch(ref: ObjectRef[Any], who: str) -> Any:
    """`ray.get` with errors that a user can act on.

    Raises:
        OmatgRayError: What the actor raised, if it is one of ours.
        ClusterError: The actor died, or raised something else.
    """
    try:
        return ray.get(ref)
    except RayTaskError as error:
        if isinstance(error.cause, OmatgRayError):
            raise error.cause from error
        raise ClusterError(f"{who} failed:\n{error}") from error
    except RayActorError as error:
        raise ClusterError(f"{who} died: {error}") from error
