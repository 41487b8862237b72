"""Actors of one role: each has a few requests in flight, others wait here; dead or hanging actors are replaced."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray
from ray import ObjectRef
from ray.actor import ActorHandle

from omatg_ray.distributed.event_loop import EventLoop
from omatg_ray.distributed.failures import ActorGone, ActorSilent, InputLost, OutputLost, Timed, fetch
from omatg_ray.errors import ClusterError, SoftwareError
from omatg_ray.run.timeline import Span
from omatg_ray.run.versions import refuse_other

logger = logging.getLogger(__name__)

MAX_ATTEMPTS = 5
"""A request that has crashed this many actors counts as the cause."""
MAX_STARTS = 3
"""Actors in a row that may die while they start, if no other actor of their role is ready."""
PAUSE = 5.0
"""Seconds before an actor that died while it started is replaced."""
LONG_PAUSE = 300.0
"""The same after `MAX_STARTS` in a row, while others of the role do the work."""
KEPT_SPANS = 10_000
"""Spans kept at most until `take_spans` is called."""
SECONDS_TO_START = 600.0
"""How long a role may lack any actor, say after a node is lost, before the run ends; how long a start may take."""
LOGS = "Ray's logs on its nodes (/tmp/ray/session_latest/logs) may say why"


@dataclass(eq=False)
class Request:
    """A call of an actor's method.

    Attributes:
        label: Name in messages.
        method: Name of the method; it returns `kept` values that stay in the object store, then a `Timed`.
        arguments: Object references among them are resolved on the actor's side.
        then: Called with the small value, and references to what stays in the object store.
        kept: Number of values that stay in the object store.
        lost: Called if an argument was lost with a node or actor; None ends the run.
        given_up: Called with the reason if `MAX_ATTEMPTS` actors died or hung over it; None ends the run.
        attempts: Number of actors that died by themselves, or hung, over it.
    """

    label: str
    method: str
    arguments: tuple[Any, ...]
    then: Callable[..., None]
    kept: int = 0
    lost: Callable[[], None] | None = None
    given_up: Callable[[str], None] | None = None
    attempts: int = 0


@dataclass(eq=False)
class _Slot:
    """The slot of an actor and its successors."""

    actor: ActorHandle[Any]
    ready: bool = False
    starts: int = 0
    busy: float = 0.0
    since: float = 0.0
    """When it began its current work, or to start."""
    counted: float = 0.0
    """Seconds of its current work that `take_busy` has counted already."""
    again: float | None = None
    """When to start another actor here."""
    info: ObjectRef[Any] | None = None
    """Reference that becomes ready once it has started; None afterwards."""
    running: dict[ObjectRef[Any], tuple[Request, tuple[ObjectRef[Any], ...]]] = field(default_factory=dict)


def call(
    actor: ActorHandle[Any], method: str, arguments: Sequence[Any], kept: int
) -> tuple[tuple[ObjectRef[Any], ...], ObjectRef[Any]]:
    """Call an actor's method; return references to the values that stay in the object store, and to its `Timed`."""
    refs = getattr(actor, method).options(num_returns=kept + 1).remote(*arguments)
    *stay, last = refs if isinstance(refs, list) else [refs]
    return tuple(stay), last


class WorkerGroup:
    """Actors that get requests, at most `in_flight` at a time each, first come first served.

    An actor that dies, or takes longer than `request_timeout` for one request, is replaced; its unanswered requests go
    to others. An actor that cannot be reached is asked for its info again, and gets no requests before it answers.

    Args:
        role: Name of these actors in messages.
        loop: Event loop where answers arrive.
        start_actor: Starts an actor for the slot of this index; if the cluster has no room, Ray starts it later.
        count: Number of slots.
        in_flight: Requests given to an actor at a time.
        request_timeout: Seconds that an actor may take for one request.
        start_timeout: Seconds without any actor after which the run ends.
    """

    def __init__(
        self,
        role: str,
        loop: EventLoop,
        start_actor: Callable[[int], ActorHandle[Any]],
        count: int,
        in_flight: int = 2,
        request_timeout: float = float("inf"),
        start_timeout: float = SECONDS_TO_START,
    ) -> None:
        self.role = role
        self._loop, self._start_actor, self._in_flight = loop, start_actor, in_flight
        self._request_timeout, self._start_timeout = request_timeout, start_timeout
        self._waiting: deque[Request] = deque()
        self._info: dict[int, dict[str, Any]] = {}
        self._spans: deque[Span] = deque(maxlen=KEPT_SPANS)
        self._retried = self._replaced = 0
        self._closed = self._complete = False
        self._last_ready = time.monotonic()
        loop.join(self._check, self.describe)
        self._slots: list[_Slot] = []
        for index in range(count):
            self._slots.append(_Slot(start_actor(index)))
            self._introduce(index)

    # --- requests ---------------------------------------------------------------------------------------------

    def submit(self, request: Request) -> None:
        """Queue a request; an actor gets it as soon as one has room for it."""
        self._waiting.append(request)
        self._dispatch()

    @property
    def waiting(self) -> int:
        """Number of requests not yet given to an actor."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """Number of requests given to actors and not yet answered."""
        return sum(len(slot.running) for slot in self._slots)

    def describe(self) -> str:
        """Return what is running where, for messages."""
        parts = []
        for index, slot in enumerate(self._slots):
            if slot.running:
                calls = ", ".join(f"{request.method} {request.label}" for request, _ in slot.running.values())
                parts.append(f"{self._name(index)}: {calls}")
        missing = [str(index) for index, slot in enumerate(self._slots) if not slot.ready]
        if missing:
            parts.append(f"{self.role} actor {', '.join(missing)}: starting, or waiting for room on the cluster")
        return "; ".join(parts)

    def _dispatch(self) -> None:
        while self._waiting:
            free = [slot for slot in self._slots if slot.ready and len(slot.running) < self._in_flight]
            if not free:
                return
            slot = min(free, key=lambda each: len(each.running))
            request = self._waiting.popleft()
            kept, last = call(slot.actor, request.method, request.arguments, request.kept)
            if not slot.running:
                slot.since, slot.counted = time.monotonic(), 0.0
            slot.running[last] = (request, kept)
            self._loop.watch(last, lambda ref, slot=slot: self._receive(slot, ref))  # type: ignore[misc]

    def _receive(self, slot: _Slot, ref: ObjectRef[Any]) -> None:
        index = self._slots.index(slot)
        try:
            timed: Timed = fetch(ref, self._name(index))
        except ActorGone as error:
            self._replace(index, str(error), blame=error.alone)
            return
        except ActorSilent as error:
            logger.warning("%s; asking again", error)
            self._put_back(slot, blame=False)
            slot.ready, self._last_ready = False, time.monotonic()
            self._introduce(index)
            return
        except OutputLost as error:
            logger.warning("%s; making it again", error)
            request, _ = self._finish(slot, ref)
            self._retried += 1
            self.submit(request)
            return
        except InputLost as error:
            request, _ = self._finish(slot, ref)
            if request.lost is None:
                # Not as InputLost: other callers that wait in the loop would take it for their own.
                raise ClusterError(str(error)) from error
            logger.warning("%s; making it again", error)
            self._retried += 1
            request.lost()
            self._dispatch()
            return
        except BaseException:
            self._finish(slot, ref)
            raise
        slot.busy += timed.seconds - slot.counted
        request, kept = self._finish(slot, ref)
        now = time.time()
        self._spans.append(Span(self.role, index, request.method, now - timed.seconds, now))
        self._dispatch()
        request.then(timed.value, *kept)

    def _finish(self, slot: _Slot, ref: ObjectRef[Any]) -> tuple[Request, tuple[ObjectRef[Any], ...]]:
        """Remove and return the request behind an answer; the actor goes on with the next one."""
        slot.since, slot.counted = time.monotonic(), 0.0
        return slot.running.pop(ref)

    # --- actors -----------------------------------------------------------------------------------------------

    @property
    def n_ready(self) -> int:
        """Number of actors that are ready."""
        return sum(slot.ready for slot in self._slots)

    @property
    def info(self) -> list[dict[str, Any]]:
        """Descriptions of the ready actors by themselves, with role, index and seconds until they were ready."""
        return [self._info[index] for index, slot in enumerate(self._slots) if slot.ready]

    def wait_for(self, count: int) -> None:
        """Wait until the first `count` actors are ready.

        Raises:
            ClusterError: An actor says that it cannot work, dies while it starts, or does not start in time.
        """
        begin = time.monotonic()

        def done() -> bool:
            missing = [str(index) for index, slot in enumerate(self._slots[:count]) if not slot.ready]
            if missing and time.monotonic() - begin > self._start_timeout:
                names = ", ".join(missing)
                raise ClusterError(
                    f"these {self.role} actors have not started after {self._start_timeout:g} s: {names}; {LOGS}"
                )
            return not missing

        self._loop.until(done)
        self._complete = True

    def take_busy(self) -> dict[int, float]:
        """Return the seconds that each ready actor worked since the last call."""
        now = time.monotonic()
        for slot in self._slots:
            if slot.running:
                slot.busy += now - slot.since - slot.counted
                slot.counted = now - slot.since
        busy = {index: slot.busy for index, slot in enumerate(self._slots) if slot.ready}
        for slot in self._slots:
            slot.busy = 0.0
        return busy

    def take_spans(self) -> list[Span]:
        """Return what the actors did since the last call, and their current work as if it ended now."""
        spans = list(self._spans)
        self._spans.clear()
        now, present = time.time(), time.monotonic()
        for index, slot in enumerate(self._slots):
            if slot.running:
                request, _ = next(iter(slot.running.values()))
                spans.append(Span(self.role, index, request.method, now - (present - slot.since), now))
        return spans

    def take_failures(self) -> dict[str, int]:
        """Return how many actors were replaced and how many requests sent again since the last call."""
        counts = {f"replaced_{self.role}": self._replaced, f"retried_{self.role}": self._retried}
        self._replaced = self._retried = 0
        return counts

    def close(self) -> None:
        """End all actors."""
        self._closed = True
        self._waiting.clear()
        for slot in self._slots:
            for ref in slot.running:
                self._loop.forget(ref)
            slot.running.clear()
            slot.ready = False
            ray.kill(slot.actor)

    def _name(self, index: int) -> str:
        return f"{self.role} actor {index}"

    def _introduce(self, index: int) -> None:
        """Ask the actor of a slot for its info; it gets no requests before it answers."""
        slot, start = self._slots[index], time.perf_counter()
        slot.since = time.monotonic()

        def receive(ref: ObjectRef[Any]) -> None:
            if slot.info != ref:
                return  # the actor has been replaced meanwhile
            slot.info = None
            try:
                info = fetch(ref, self._name(index)).value
                refuse_other(info.get("software", {}), self._name(index), info.get("node", "?"))
            except ClusterError as error:
                self._handle_failed_start(index, error)
                return
            seconds = round(time.perf_counter() - start, 3)
            self._info[index] = {"role": self.role, "index": index, **info, "ready_seconds": seconds}
            slot.ready, slot.starts, self._last_ready = True, 0, time.monotonic()
            self._dispatch()

        slot.info = slot.actor.info.remote()
        self._loop.watch(slot.info, receive)

    def _handle_failed_start(self, index: int, error: ClusterError) -> None:
        """Try again if there is hope: other actors of the role work, or the failure may pass."""
        slot = self._slots[index]
        slot.starts += 1
        says_no = not isinstance(error, ActorGone | ActorSilent)
        if isinstance(error, SoftwareError):
            raise error
        if (says_no and not self._complete) or (slot.starts >= MAX_STARTS and not self.n_ready):
            raise ClusterError(str(error)) from error
        self._replace(index, str(error), pause=PAUSE if slot.starts < MAX_STARTS else LONG_PAUSE)

    def _replace(self, index: int, why: str, pause: float = 0.0, blame: bool = True) -> None:
        """Put another actor into the slot of one that is gone."""
        slot = self._slots[index]
        if slot.info is not None:
            self._loop.forget(slot.info)
            slot.info = None
        n_back = len(slot.running)
        again = f", {n_back} request{'s' * (n_back != 1)} sent again" if n_back else ""
        logger.warning("%s; another one takes its place%s", why, again)
        if slot.ready:
            slot.ready, self._last_ready = False, time.monotonic()
        self._replaced += 1
        self._put_back(slot, blame)
        slot.again = time.monotonic() + pause
        if not pause:
            self._start_again(index)

    def _start_again(self, index: int) -> None:
        slot = self._slots[index]
        slot.again = None
        ray.kill(slot.actor)
        slot.actor = self._start_actor(index)
        self._introduce(index)

    def _put_back(self, slot: _Slot, blame: bool) -> None:
        """Put an actor's unanswered requests back at the head of the queue; the first is the one it worked on."""
        requests = [request for request, _ in slot.running.values()]
        for ref in slot.running:
            self._loop.forget(ref)
        slot.running.clear()
        self._retried += len(requests)
        if blame and requests:
            requests[0].attempts += 1
            if requests[0].attempts >= MAX_ATTEMPTS:
                hopeless = requests.pop(0)
                why = f"{hopeless.method} {hopeless.label}: {MAX_ATTEMPTS} {self.role} actors died or hung over it"
                if hopeless.given_up is None:
                    raise ClusterError(why)
                logger.warning("%s; it counts as failed", why)
                hopeless.given_up(why)
        self._waiting.extendleft(reversed(requests))
        self._dispatch()

    def _check(self) -> None:
        """Check deadlines; called every second."""
        if self._closed:
            return
        now = time.monotonic()
        for index, slot in enumerate(self._slots):
            if slot.ready and slot.running and now - slot.since > self._request_timeout:
                self._replace(
                    index, f"{self._name(index)} has not answered for {self._request_timeout:g} s (ray.request_timeout)"
                )
            elif slot.info is not None and now - slot.since > self._start_timeout:
                self._replace(
                    index, f"{self._name(index)} has not started after {self._start_timeout:g} s", pause=PAUSE
                )
            elif slot.again is not None and now >= slot.again:
                self._start_again(index)
        if self.n_ready:
            self._last_ready = now
        elif now - self._last_ready > self._start_timeout:
            raise ClusterError(
                f"there has been no {self.role} actor for {self._start_timeout:g} s: the rest of the cluster has no "
                f"room for one, or none can start; {LOGS}"
            )
