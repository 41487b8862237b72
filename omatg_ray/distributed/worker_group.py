"""Actors of one role: each has a few requests in flight, the others wait here; who dies or hangs is replaced."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import ray
from ray import ObjectRef
from ray.actor import ActorHandle

from omatg_ray.distributed.event_loop import EventLoop
from omatg_ray.distributed.failures import ActorGone, ActorSilent, InputLost, OutputLost, Timed, fetch
from omatg_ray.distributed.software import refuse_other
from omatg_ray.errors import ClusterError, SoftwareError
from omatg_ray.run.timeline import Span

logger = logging.getLogger(__name__)

MAX_ATTEMPTS = 5
"""Actors that a request may outlive; after so many it is taken for what kills them."""
MAX_STARTS = 3
"""Actors in a row that may die while they start, where no other of their role is there."""
PAUSE = 5.0
"""Seconds before another actor is started in the place of one that died while it started."""
LONG_PAUSE = 300.0
"""The same after `MAX_STARTS` in a row, where others of the role do the work meanwhile."""
KEPT_SPANS = 10_000
"""Spans that are kept where nobody asks for them."""
SECONDS_TO_START = 600.0
"""How long a role may be without any actor, when a node is lost say, before the run ends; how long one may start."""
LOGS = "the logs of Ray on its nodes (/tmp/ray/session_latest/logs) may say why"


@dataclass(frozen=True)
class Answer:
    """What came of a request: references to what stays in the object store, and the small value."""

    kept: tuple[ObjectRef[Any], ...]
    value: Any


@dataclass(eq=False)
class Request:
    """A call of an actor's method.

    Attributes:
        label: What messages call it.
        method: Name of the method; it returns `kept` values that stay in the object store, then a `Timed`.
        arguments: Object references among them are resolved on the actor's side.
        then: What is done with the answer.
        kept: How many values stay in the object store.
        lost: What is done where an argument has gone with a node; None ends the run.
        given_up: What is done where every actor that was given it died or hung; None ends the run.
        attempts: Actors that died by themselves, or hung, over it.
    """

    label: str
    method: str
    arguments: tuple[Any, ...]
    then: Callable[[Answer], None]
    kept: int = 0
    lost: Callable[[], None] | None = None
    given_up: Callable[[str], None] | None = None
    attempts: int = 0


@dataclass(eq=False)
class _Slot:
    """The place of an actor, whoever holds it."""

    actor: ActorHandle[Any]
    ready: bool = False
    starts: int = 0
    busy: float = 0.0
    since: float = 0.0
    """When it began what it does now, or to start."""
    counted: float = 0.0
    """Seconds of what it does now that `take_busy` has counted already."""
    again: float | None = None
    """When another actor is to be started here."""
    info: ObjectRef[Any] | None = None
    """What tells that it has started, while it does."""
    running: dict[ObjectRef[Any], tuple[Request, tuple[ObjectRef[Any], ...]]] = field(default_factory=dict)


class WorkerGroup:
    """Gives requests to actors, at most `in_flight` at a time to each, first come first served.

    An actor that dies, or takes longer than `request_timeout` over one request, is replaced; what it had not answered
    goes to others. One that cannot be reached is asked again who it is, and gets no requests before it answers.

    Args:
        role: What messages call these actors.
        loop: Where answers arrive.
        start_actor: Starts an actor for the place of this index; where the cluster has no room, Ray starts it later.
        count: Places.
        in_flight: Requests that an actor is given before it has answered.
        request_timeout: Seconds that an actor may take over one request.
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
        """Takes a request; an actor gets it as soon as one has room for it."""
        self._waiting.append(request)
        self._dispatch()

    @property
    def waiting(self) -> int:
        """Requests that no actor has been given."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """Requests that actors have been given and not answered."""
        return sum(len(slot.running) for slot in self._slots)

    @property
    def unfinished(self) -> int:
        """Requests without an answer."""
        return self.waiting + self.running

    def describe(self) -> str:
        """What is running where, for messages."""
        parts = []
        for index, slot in enumerate(self._slots):
            if slot.running:
                calls = ", ".join(f"{request.method} {request.label}" for request, _ in slot.running.values())
                parts.append(f"{self._who(index)}: {calls}")
        missing = [str(index) for index, slot in enumerate(self._slots) if not slot.ready]
        if missing:
            parts.append(f"{self.role} actor {', '.join(missing)}: starting, or waiting for room on the cluster")
        return "; ".join(parts)

    def _dispatch(self) -> None:
        while self._waiting:
            free = [slot for slot in self._slots if slot.ready and len(slot.running) < self._in_flight]
            if not free:
                return
            slot = min(free, key=lambda one: len(one.running))
            request = self._waiting.popleft()
            method = getattr(slot.actor, request.method).options(num_returns=request.kept + 1)
            refs = method.remote(*request.arguments)
            *kept, last = refs if isinstance(refs, list) else [refs]
            if not slot.running:
                slot.since, slot.counted = time.monotonic(), 0.0
            slot.running[last] = (request, tuple(kept))
            self._loop.watch(last, lambda ref, slot=slot: self._take(slot, ref))  # type: ignore[misc]

    def _take(self, slot: _Slot, ref: ObjectRef[Any]) -> None:
        index = self._slots.index(slot)
        try:
            timed: Timed = fetch(ref, self._who(index))
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
            logger.warning("%s; it is made again", error)
            request, _ = self._answered(slot, ref)
            self._retried += 1
            self.submit(request)
            return
        except InputLost as error:
            request, _ = self._answered(slot, ref)
            if request.lost is None:
                # Not as it is: whoever else waits in the loop would take it for theirs.
                raise ClusterError(str(error)) from error
            logger.warning("%s; it is made again", error)
            self._retried += 1
            request.lost()
            self._dispatch()
            return
        except BaseException:
            self._answered(slot, ref)
            raise
        slot.busy += timed.seconds - slot.counted
        request, kept = self._answered(slot, ref)
        now = time.time()
        self._spans.append(Span(self.role, index, request.method, now - timed.seconds, now))
        self._dispatch()
        request.then(Answer(kept, timed.value))

    def _answered(self, slot: _Slot, ref: ObjectRef[Any]) -> tuple[Request, tuple[ObjectRef[Any], ...]]:
        """The request behind an answer; the actor goes on with the next one."""
        slot.since, slot.counted = time.monotonic(), 0.0
        return slot.running.pop(ref)

    # --- actors -----------------------------------------------------------------------------------------------

    @property
    def n_ready(self) -> int:
        """Actors that are there."""
        return sum(slot.ready for slot in self._slots)

    @property
    def info(self) -> list[dict[str, Any]]:
        """What the actors that are there say of themselves, with role, index and seconds until they were ready."""
        return [self._info[index] for index, slot in enumerate(self._slots) if slot.ready]

    def wait_for(self, count: int) -> None:
        """Returns once the first `count` actors are there.

        Raises:
            ClusterError: One says that it cannot work, dies while it starts, or none comes in time.
        """
        begun = time.monotonic()

        def done() -> bool:
            missing = [str(index) for index, slot in enumerate(self._slots[:count]) if not slot.ready]
            if missing and time.monotonic() - begun > self._start_timeout:
                names = ", ".join(missing)
                raise ClusterError(
                    f"after {self._start_timeout:g} s these {self.role} actors have not started: {names}; {LOGS}"
                )
            return not missing

        self._loop.until(done)
        self._complete = True

    def take_busy(self) -> dict[int, float]:
        """Seconds that each actor worked since this was last asked; of those that are there."""
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
        """What they did since this was last asked, and what they are at, which ends now."""
        spans = list(self._spans)
        self._spans.clear()
        now, present = time.time(), time.monotonic()
        for index, slot in enumerate(self._slots):
            if slot.running:
                request, _ = next(iter(slot.running.values()))
                spans.append(Span(self.role, index, request.method, now - (present - slot.since), now))
        return spans

    def take_failures(self) -> dict[str, int]:
        """Actors that were replaced and requests that were sent again since this was last asked."""
        counts = {f"replaced_{self.role}": self._replaced, f"retried_{self.role}": self._retried}
        self._replaced = self._retried = 0
        return counts

    def close(self) -> None:
        """Ends all actors."""
        self._closed = True
        self._waiting.clear()
        for slot in self._slots:
            for ref in slot.running:
                self._loop.forget(ref)
            slot.running.clear()
            slot.ready = False
            ray.kill(slot.actor)

    def _who(self, index: int) -> str:
        return f"{self.role} actor {index}"

    def _introduce(self, index: int) -> None:
        """Asks the actor of a place who it is; it gets no requests before."""
        slot, start = self._slots[index], time.perf_counter()
        slot.since = time.monotonic()

        def known(ref: ObjectRef[Any]) -> None:
            if slot.info != ref:
                return  # another one has taken its place meanwhile
            slot.info = None
            try:
                info = fetch(ref, self._who(index)).value
                refuse_other(info.get("software", {}), self._who(index), info.get("node", "?"))
            except ClusterError as error:
                self._not_started(index, error)
                return
            seconds = round(time.perf_counter() - start, 3)
            self._info[index] = {"role": self.role, "index": index, **info, "ready_seconds": seconds}
            slot.ready, slot.starts, self._last_ready = True, 0, time.monotonic()
            self._dispatch()

        slot.info = slot.actor.info.remote()
        self._loop.watch(slot.info, known)

    def _not_started(self, index: int, error: ClusterError) -> None:
        """Another try, if there is hope: others of the role that work, or a failure that may pass."""
        slot = self._slots[index]
        slot.starts += 1
        says_no = not isinstance(error, ActorGone | ActorSilent)
        if isinstance(error, SoftwareError):
            raise error
        if (says_no and not self._complete) or (slot.starts >= MAX_STARTS and not self.n_ready):
            raise ClusterError(str(error)) from error
        self._replace(index, str(error), pause=PAUSE if slot.starts < MAX_STARTS else LONG_PAUSE)

    def _replace(self, index: int, why: str, pause: float = 0.0, blame: bool = True) -> None:
        """Puts another actor into the place of one that is gone."""
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
        """What the actor has not answered goes to the head of the queue; the first of it is what it worked on."""
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
        """Deadlines; called every second."""
        if self._closed:
            return
        now = time.monotonic()
        for index, slot in enumerate(self._slots):
            if slot.ready and slot.running and now - slot.since > self._request_timeout:
                self._replace(
                    index, f"{self._who(index)} has not answered for {self._request_timeout:g} s (ray.request_timeout)"
                )
            elif slot.info is not None and now - slot.since > self._start_timeout:
                self._replace(index, f"{self._who(index)} has not started after {self._start_timeout:g} s", pause=PAUSE)
            elif slot.again is not None and now >= slot.again:
                self._start_again(index)
        if self.n_ready:
            self._last_ready = now
        elif now - self._last_ready > self._start_timeout:
            raise ClusterError(
                f"for {self._start_timeout:g} s there has been no {self.role} actor: there is no room for one on what "
                f"is left of the cluster, or none can start; {LOGS}"
            )
