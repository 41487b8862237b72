"""Actors of one role: each has a few requests in flight, the others wait here."""

from __future__ import annotations

import logging
import re
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import ray
from ray import ObjectRef
from ray.actor import ActorHandle
from ray.exceptions import ActorDiedError, ActorUnavailableError, ObjectLostError, RayActorError, RayError, RayTaskError

from omatg_ray.errors import ClusterError, OmatgRayError

logger = logging.getLogger(__name__)

ANSI = re.compile(r"\x1b\[[0-9;]*m")
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


@dataclass(frozen=True)
class Published:
    """Something in the object store that actors fetch when they do not have it yet.

    Inside of this it travels as a reference: Ray resolves only what is an argument itself.
    """

    ref: ObjectRef[Any]

    @property
    def key(self) -> str:
        """Differs from that of anything else ever published."""
        return self.ref.hex()


class Pool:
    """Gives requests to actors, at most `in_flight` at a time to each, first come first served.

    Args:
        role: What messages call these actors.
        in_flight: Requests that an actor is given before it has answered.
        actors: The actors; `add` adds more.
    """

    def __init__(self, role: str, in_flight: int, actors: Iterable[ActorHandle[Any]] = ()) -> None:
        self.role, self._in_flight = role, in_flight
        self.actors: list[ActorHandle[Any]] = []
        self._busy: list[float] = []
        self._load: list[int] = []
        self._waiting: deque[Request] = deque()
        self._running: dict[ObjectRef[Any], tuple[Request, int, tuple[ObjectRef[Any], ...]]] = {}
        for actor in actors:
            self.add(actor)

    def add(self, actor: ActorHandle[Any]) -> None:
        """One more actor."""
        self.actors.append(actor)
        self._busy.append(0.0)
        self._load.append(0)
        self._dispatch()

    @property
    def running(self) -> Iterable[ObjectRef[Any]]:
        """What `ray.wait` waits for."""
        return self._running.keys()

    @property
    def unfinished(self) -> int:
        """Requests without an answer."""
        return len(self._waiting) + len(self._running)

    def submit(self, request: Request) -> None:
        """Takes a request; an actor gets it as soon as one has room for it."""
        self._waiting.append(request)
        self._dispatch()

    def take(self, ref: ObjectRef[Any]) -> Answer:
        """The answer behind one of `running` that is ready.

        Raises:
            OmatgRayError: What the method raised, if it is one of ours.
            ClusterError: The actor died, or its method raised something else.
        """
        request, actor, kept = self._running.pop(ref)
        self._load[actor] -= 1
        timed = fetch(ref, f"{self.role} actor {actor}")
        self._busy[actor] += timed.seconds
        self._dispatch()
        return Answer(request.index, kept, timed.value)

    def drop(self) -> None:
        """Forgets all requests; what is running runs to its end without anybody who waits for it."""
        self._waiting.clear()
        self._running.clear()
        self._load = [0] * len(self.actors)

    def take_busy(self) -> list[float]:
        """Seconds that each actor worked since this was last asked."""
        busy, self._busy = self._busy, [0.0] * len(self.actors)
        return busy

    def describe(self) -> str:
        """What is running where, for messages."""
        per_actor: dict[int, list[str]] = {}
        for request, actor, _ in self._running.values():
            per_actor.setdefault(actor, []).append(f"{request.method} {request.index}")
        return "; ".join(f"{self.role} actor {actor}: {', '.join(calls)}" for actor, calls in sorted(per_actor.items()))

    def _dispatch(self) -> None:
        while self._waiting and min(self._load, default=self._in_flight) < self._in_flight:
            actor = self._load.index(min(self._load))
            request = self._waiting.popleft()
            method = getattr(self.actors[actor], request.method).options(num_returns=request.kept + 1)
            refs = method.remote(*request.arguments)
            *kept, last = refs if isinstance(refs, list) else [refs]
            self._running[last] = (request, actor, tuple(kept))
            self._load[actor] += 1


def answers(*pools: Pool) -> Iterator[tuple[Pool, Answer]]:
    """Answers of several pools as they come, until nothing is left; whoever takes them may submit more.

    Raises:
        OmatgRayError: As `Pool.take`. What is still running is forgotten then.
    """
    last = time.monotonic()
    try:
        while any(pool.unfinished for pool in pools):
            pool_of = {ref: pool for pool in pools for ref in pool.running}
            ready, _ = ray.wait(list(pool_of), timeout=PATIENCE)
            if not ready:
                waited = time.monotonic() - last
                running = "; ".join(text for pool in pools if (text := pool.describe()))
                logger.warning("no result for %.0f s; running: %s", waited, running)
                continue
            last = time.monotonic()
            # What else is ready by now; asking for one at a time would take long with a thousand actors.
            ready, _ = ray.wait(list(pool_of), num_returns=len(pool_of), timeout=0)
            for ref in ready:
                yield pool_of[ref], pool_of[ref].take(ref)
    finally:
        for pool in pools:
            pool.drop()


def fetch(ref: ObjectRef[Any], who: str) -> Any:
    """`ray.get` with errors that a user can act on.

    Args:
        ref: What to get.
        who: The actor that makes it.

    Raises:
        OmatgRayError: What the actor raised, if it is one of ours.
        ClusterError: The actor or its node is gone, or it raised something else.
    """
    try:
        return ray.get(ref)
    except RayTaskError as error:
        if isinstance(error.cause, OmatgRayError):
            raise error.cause from error
        if isinstance(error.cause, ObjectLostError):
            # What it was given, for example the trajectories that a learner was to learn from.
            lost = "it is lost with a node or actor"
            raise ClusterError(f"{who} cannot get what others made for it; {lost}") from error
        raise ClusterError(f"{who} failed:\n{ANSI.sub('', str(error))}") from error
    except ActorUnavailableError as error:
        raise ClusterError(f"{who} cannot be reached: {_reason(error)}") from error
    except RayActorError as error:
        raise ClusterError(f"{who} died: {_reason(error)}") from error
    except ObjectLostError as error:
        raise ClusterError(f"what {who} made is lost with its node or actor") from error
    except RayError as error:
        raise ClusterError(f"{who}: {type(error).__name__}: {error}") from error


def _reason(error: RayActorError) -> str:
    """What Ray says of a dead actor, without its identifiers and its list of what else could be the reason."""
    lines = ANSI.sub("", str(error)).splitlines()
    text = " ".join(line for line in lines if not line.startswith("\t"))
    text = text.removeprefix(ActorDiedError.BASE_ERROR_MSG).partition("There are some potential root causes")[0]
    return text.strip(" .")
