"""The learners of a run as one unit: they start, learn and are replaced together."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, TypeVar

import ray
import torch
from ray import ObjectRef
from ray.actor import ActorHandle
from torch import Tensor

from omatg_ray.crystal.batch import Layout
from omatg_ray.distributed.event_loop import EventLoop
from omatg_ray.distributed.failures import ActorGone, ActorSilent, InputLost, ObjectHandle, OutputLost, Timed, fetch
from omatg_ray.distributed.process_group import LearnersLostError, plan_shares, reason_of
from omatg_ray.distributed.worker_group import LOGS, MAX_ATTEMPTS, SECONDS_TO_START, call
from omatg_ray.errors import ClusterError
from omatg_ray.rl.signal import Signal
from omatg_ray.rl.work import WorkItem
from omatg_ray.run.timeline import Span
from omatg_ray.run.versions import refuse_other

logger = logging.getLogger(__name__)

SECONDS_TO_SAY_WHY = 3.0
"""How long to wait for the other learners once one has failed."""
Made = TypeVar("Made")


class LearnerGroup:
    """Data-parallel learners, of which the first reports for all.

    After every update this process has their weights, which rollout actors take from the same object, and a reference
    to the state of their optimizer. If one dies or hangs, all are replaced, resume from there, and repeat the update:
    the result is the same.

    Args:
        loop: Event loop where answers arrive; its other work continues meanwhile.
        start_actor: Starts the actor of a rank.
        count: Number of learners.
        request_timeout: Seconds that an update may take.
        start_timeout: Seconds that the learners may take to start.

    Attributes:
        info: Descriptions of the learners, by themselves.
        handle: Handle of the weights after the last update in the object store, where the first learner has put them.
    """

    role = "learner"

    def __init__(
        self,
        loop: EventLoop,
        start_actor: Callable[[int], ActorHandle[Any]],
        count: int,
        request_timeout: float = float("inf"),
        start_timeout: float = SECONDS_TO_START,
    ) -> None:
        self._loop, self._start_actor = loop, start_actor
        self._request_timeout, self._start_timeout = request_timeout, start_timeout
        self._actors = [start_actor(rank) for rank in range(count)]
        self._weights: dict[str, Tensor] | None = None
        self._optimizer: dict[str, Tensor] | ObjectRef[Any] = {}
        self.handle: ObjectHandle | None = None
        self.info: list[dict[str, Any]] = []
        self._busy = dict.fromkeys(range(count), 0.0)
        self._spans: list[Span] = []
        self._replaced = 0
        self._calls: dict[ObjectRef[Any], tuple[int, str]] = {}
        self._since = 0.0
        self._failed: list[Exception] = []
        loop.join(self._check, self.describe)

    # --- learning ---------------------------------------------------------------------------------------------

    @property
    def weights(self) -> dict[str, Tensor]:
        """Weights after the last update, on the CPU."""
        assert self._weights is not None
        return self._weights

    @property
    def optimizer(self) -> dict[str, Tensor]:
        """State of the optimizer after the last update, on the CPU; empty before the first.

        Raises:
            ClusterError: It was lost with the node of the first learner before it could be copied to this one.
        """
        if not isinstance(self._optimizer, dict):
            try:
                self._optimizer = dict(fetch(self._optimizer, "learner actor 0"))
            except OutputLost as error:
                raise ClusterError(
                    f"the state of the optimizer after the last update: {error}, before it was copied to this node"
                ) from error
        return self._optimizer

    def _keep_optimizer(self, ref: ObjectRef[Any]) -> None:
        """Hold the state of the optimizer once it is on this node, so that it outlives the first learner's node."""
        if ref is self._optimizer:
            with suppress(ClusterError):  # raised where the state is needed
                self._optimizer = self.optimizer

    def restore(self, weights: dict[str, Tensor], optimizer: dict[str, Tensor]) -> None:
        """Restore earlier weights and state of the optimizer."""
        self._weights, self._optimizer, self.handle = weights, optimizer, None
        self._with_replacement(self._load)

    def update(
        self,
        items: Sequence[WorkItem],
        trajectories: Sequence[ObjectRef[Any]],
        signal: Signal,
    ) -> dict[str, float]:
        """Run all epochs on an iteration.

        Args:
            items: The items rolled out.
            trajectories: References to the trajectories of every item.
            signal: What is learned from.

        Raises:
            InputLost: A trajectory was lost with a node; nothing was learned.
            TrainingError: As `Learner.update`.
            ClusterError: The learners die repeatedly.
        """
        sizes = [[len(composition) for composition in item.species] for item in items]
        shares = plan_shares(sizes, signal.counted, len(self._actors))
        flat = torch.tensor([size for item in sizes for size in item])
        layout = Layout(flat[signal.counted])
        calls = [
            (
                signal.share(own, positions, layout, rank, len(shares)),
                len(signal.counted),
                *(trajectories[item] for item in needed),
            )
            for rank, (needed, own, positions) in enumerate(shares)
        ]

        def learn() -> dict[str, float]:
            (weights, optimizer), timed = self._call_all("update", calls, kept=2)[0]
            self._weights, self.handle = fetch(weights, "learner actor 0"), ObjectHandle(weights)
            # Only a checkpoint reads it. Watching it copies it to this node.
            self._optimizer = optimizer
            self._loop.watch(optimizer, self._keep_optimizer)
            metrics: dict[str, float] = timed.value
            return metrics

        return self._with_replacement(learn)

    # --- actors -----------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Wait until all learners are ready and connected to each other.

        Raises:
            ClusterError: A learner says that it cannot work, dies while it starts, or does not start in time.
            SoftwareError: A learner runs other software than this process.
        """
        begin = time.perf_counter()
        answers = self._call_all("info", [()] * len(self._actors))
        for rank, (_, timed) in enumerate(answers):
            refuse_other(timed.value.get("software", {}), f"learner actor {rank}", timed.value.get("node", "?"))
        seconds = round(time.perf_counter() - begin, 3)
        self.info = [
            {"role": self.role, "index": rank, **timed.value, "ready_seconds": seconds}
            for rank, (_, timed) in enumerate(answers)
        ]
        if len(self._actors) > 1:
            ((_, timed),) = self._call_all("rendezvous", [()])
            self._call_all("join", [(timed.value, rank, len(self._actors)) for rank in range(len(self._actors))])

    def describe(self) -> str:
        """Return what the learners are doing, for messages."""
        return "; ".join(f"learner actor {rank}: {method}" for rank, method in self._calls.values())

    def take_busy(self) -> dict[int, float]:
        """Return the seconds that each learner worked since the last call."""
        busy, self._busy = self._busy, dict.fromkeys(self._busy, 0.0)
        return busy

    def take_spans(self) -> list[Span]:
        """Return what the learners did since the last call."""
        spans, self._spans = self._spans, []
        return spans

    def take_failures(self) -> dict[str, int]:
        """Return how often the learners were replaced since the last call."""
        replaced, self._replaced = self._replaced, 0
        return {"replaced_learner": replaced}

    def close(self) -> None:
        """End the learners."""
        self._forget()
        for actor in self._actors:
            ray.kill(actor)

    def _with_replacement(self, act: Callable[[], Made]) -> Made:
        """Return the result of `act`, replacing learners that die meanwhile."""
        for _ in range(MAX_ATTEMPTS):
            try:
                if not self.info:
                    self.start()
                    self._load()
                return act()
            except InputLost:
                if len(self._actors) > 1:
                    # The others wait for the one that did not start.
                    self._start_again()
                raise
            except (ActorGone, ActorSilent, OutputLost, LearnersLostError) as error:
                last = error
                self._replaced += 1
                logger.warning("%s; the learners start again from the last update", error)
                self._start_again()
        raise ClusterError(f"the learners died {MAX_ATTEMPTS} times: {last}")

    def _start_again(self) -> None:
        """Replace all learners; the new ones start, and load the state of the last update, before the next one."""
        self.close()
        self._actors = [self._start_actor(rank) for rank in range(len(self._actors))]
        self.info = []

    def _load(self) -> None:
        if self._weights is not None:
            state = ray.put(self._weights), ray.put(self.optimizer)
            self._call_all("load", [state] * len(self._actors))

    def _call_all(
        self, method: str, arguments: Sequence[tuple[Any, ...]], kept: int = 0
    ) -> list[tuple[tuple[ObjectRef[Any], ...], Timed]]:
        """Call each learner, or only the first ones if there are fewer arguments; return kept objects and answers."""
        refs = [call(self._actors[rank], method, own, kept) for rank, own in enumerate(arguments)]
        answers: dict[int, Timed] = {}

        def receiver(rank: int) -> Callable[[ObjectRef[Any]], None]:
            def receive(ref: ObjectRef[Any]) -> None:
                self._calls.pop(ref)
                try:
                    answers[rank] = fetch(ref, f"learner actor {rank}")
                except Exception as error:  # noqa: BLE001 - raised below; here it would end any other wait in the loop
                    self._failed.append(error)
                    return
                now = time.time()
                self._busy[rank] += answers[rank].seconds
                self._spans.append(Span(self.role, rank, method, now - answers[rank].seconds, now))

            return receive

        self._since = time.monotonic()
        self._failed.clear()
        for rank, (_, ref) in enumerate(refs):
            self._calls[ref] = (rank, method)
            self._loop.watch(ref, receiver(rank))
        try:
            self._loop.until(lambda: bool(self._failed) or len(answers) == len(refs))
            if self._failed and len(refs) > 1:
                # The others only report that they lost one. That one knows the reason, but may answer a little later.
                end = time.monotonic() + SECONDS_TO_SAY_WHY
                self._loop.until(lambda: not self._calls or time.monotonic() > end)
            if self._failed:
                raise reason_of(self._failed)
        finally:
            self._forget()
        return [(stays, answers[rank]) for rank, (stays, _) in enumerate(refs)]

    def _forget(self) -> None:
        for ref in self._calls:
            self._loop.forget(ref)
        self._calls.clear()

    def _check(self) -> None:
        if not self._calls or self._failed:
            return
        elapsed = time.monotonic() - self._since
        if any(method == "info" for _, method in self._calls.values()):
            if elapsed > self._start_timeout:
                self._failed.append(
                    ClusterError(
                        f"the learners have not started after {self._start_timeout:g} s: the rest of the cluster has "
                        f"no room for them, or they cannot start; {LOGS}"
                    )
                )
        elif elapsed > self._request_timeout:
            self._failed.append(
                ActorGone(f"{self.describe()} has taken more than {self._request_timeout:g} s (ray.request_timeout)")
            )
