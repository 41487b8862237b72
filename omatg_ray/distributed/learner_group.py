"""The learners of a run, as one: they start, learn and are replaced together."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import ray
from ray import ObjectRef
from ray.actor import ActorHandle
from torch import Tensor

from omatg_ray.distributed.learners import LearnersLostError, plan_shares
from omatg_ray.distributed.loop import Loop
from omatg_ray.distributed.pool import MAX_ATTEMPTS
from omatg_ray.distributed.results import ActorGone, ActorSilent, InputLost, OutputLost, Timed, fetch
from omatg_ray.errors import ClusterError
from omatg_ray.rl.work import WorkItem
from omatg_ray.run.timeline import Span

logger = logging.getLogger(__name__)

Snapshot = dict[str, dict[str, Tensor]]
Made = TypeVar("Made")


class LearnerGroup:
    """Data-parallel learners, the first of which speaks for all.

    After every update this process has their weights and the state of their optimizer. When one dies or hangs, all are
    replaced, begin from there, and repeat the update: the result is the same.

    Args:
        loop: Where answers arrive; what else it waits for goes on meanwhile.
        hire: Starts the actor of a rank.
        count: Learners.
        deadline: Seconds that an update may take.
    """

    role = "learner"

    def __init__(
        self, loop: Loop, hire: Callable[[int], ActorHandle[Any]], count: int, deadline: float = float("inf")
    ) -> None:
        self._loop, self._hire, self._deadline = loop, hire, deadline
        self._actors = [hire(rank) for rank in range(count)]
        self._snapshot: Snapshot | None = None
        self._about: list[dict[str, Any]] = []
        self._busy = dict.fromkeys(range(count), 0.0)
        self._spans: list[Span] = []
        self._replaced = 0
        self._calls: dict[ObjectRef[Any], tuple[int, str]] = {}
        self._since = 0.0
        loop.join(self._check, self.describe)

    # --- learning ---------------------------------------------------------------------------------------------

    @property
    def weights(self) -> dict[str, Tensor]:
        """After the last update, on the CPU."""
        assert self._snapshot is not None
        return self._snapshot["weights"]

    @property
    def optimizer(self) -> dict[str, Tensor]:
        """The optimizer's state after the last update, on the CPU; nothing before the first."""
        return {} if self._snapshot is None else self._snapshot["optimizer"]

    def restore(self, snapshot: Snapshot) -> None:
        """Puts weights and optimizer back to where they were."""
        self._snapshot = snapshot
        self._with_replacement(self._load)

    def update(
        self, items: Sequence[WorkItem], trajectories: Sequence[ObjectRef[Any]], counted: Tensor, advantage: Tensor
    ) -> dict[str, float]:
        """All epochs on an iteration.

        Args:
            items: What was rolled out.
            trajectories: Of every item.
            counted: Structures to learn from, over all items (b,).
            advantage: Theirs (b,).

        Raises:
            InputLost: Some trajectory has gone with a node; nothing was learned.
            TrainingError: As `Learner.update`.
            ClusterError: The learners die over it again and again.
        """
        sizes = [[len(composition) for composition in item.species] for item in items]
        shares = plan_shares(sizes, counted, len(self._actors))
        calls = [
            (share.counted, advantage[share.positions], len(counted), *(trajectories[item] for item in share.items))
            for share in shares
        ]

        def learn() -> dict[str, float]:
            try:
                stays, timed = self._all("update", calls, kept=1)[0]
            except InputLost:
                if len(self._actors) > 1:
                    # The others wait for the one that did not begin.
                    self._hire_again()
                raise
            self._snapshot = fetch(stays[0], "learner actor 0")
            metrics: dict[str, float] = timed.value
            return metrics

        return self._with_replacement(learn)

    # --- actors -----------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Returns once all are there and know each other.

        Raises:
            ClusterError: One says that it cannot work, or dies while it starts.
        """
        begun = time.perf_counter()
        answers = self._all("about", [()] * len(self._actors))
        seconds = round(time.perf_counter() - begun, 3)
        self._about = [
            {"role": self.role, "index": rank, **timed.value, "ready_seconds": seconds}
            for rank, (_, timed) in enumerate(answers)
        ]
        if len(self._actors) > 1:
            ((_, timed),) = self._all("rendezvous", [()])
            self._all("join", [(timed.value, rank, len(self._actors)) for rank in range(len(self._actors))])

    @property
    def about(self) -> list[dict[str, Any]]:
        """What they say of themselves."""
        return self._about

    def describe(self) -> str:
        """What they do, for messages."""
        return "; ".join(f"learner actor {rank}: {method}" for rank, method in self._calls.values())

    def take_busy(self) -> dict[int, float]:
        """Seconds that each worked since this was last asked."""
        busy, self._busy = self._busy, dict.fromkeys(self._busy, 0.0)
        return busy

    def take_spans(self) -> list[Span]:
        """What they did since this was last asked."""
        spans, self._spans = self._spans, []
        return spans

    def take_failures(self) -> dict[str, int]:
        """How often they were replaced since this was last asked."""
        replaced, self._replaced = self._replaced, 0
        return {"replaced_learner": replaced}

    def close(self) -> None:
        """Ends them."""
        self._forget()
        for actor in self._actors:
            ray.kill(actor)

    def _with_replacement(self, act: Callable[[], Made]) -> Made:
        """What `act` gives, with new learners in the place of those that die over it."""
        for _ in range(MAX_ATTEMPTS):
            try:
                if not self._about:
                    self.start()
                    self._load()
                return act()
            except (ActorGone, ActorSilent, OutputLost, LearnersLostError) as error:
                last = error
                self._replaced += 1
                logger.warning("%s; the learners start again from the last update", error)
                self._hire_again()
        raise ClusterError(f"{MAX_ATTEMPTS} times the learners died: {last}")

    def _hire_again(self) -> None:
        """Others in the place of all; they start, and are told where the last update ended, before the next one."""
        self.close()
        self._actors = [self._hire(rank) for rank in range(len(self._actors))]
        self._about = []

    def _load(self) -> None:
        if self._snapshot is not None:
            snapshot = ray.put(self._snapshot)
            self._all("load", [(snapshot,)] * len(self._actors))

    def _all(
        self, method: str, arguments: Sequence[tuple[Any, ...]], kept: int = 0
    ) -> list[tuple[tuple[ObjectRef[Any], ...], Timed]]:
        """One call of each learner, the first of them if there are fewer arguments; what stays, and the answers."""
        refs: list[tuple[tuple[ObjectRef[Any], ...], ObjectRef[Any]]] = []
        found: dict[int, Timed] = {}
        for rank, given in enumerate(arguments):
            made = getattr(self._actors[rank], method).options(num_returns=kept + 1).remote(*given)
            *stays, last = made if isinstance(made, list) else [made]
            refs.append((tuple(stays), last))

        def answered(rank: int) -> Callable[[ObjectRef[Any]], None]:
            def take(ref: ObjectRef[Any]) -> None:
                self._calls.pop(ref)
                found[rank] = fetch(ref, f"learner actor {rank}")
                now = time.time()
                self._busy[rank] += found[rank].seconds
                self._spans.append(Span(self.role, rank, method, now - found[rank].seconds, now))

            return take

        self._since = time.monotonic()
        for rank, (_, ref) in enumerate(refs):
            self._calls[ref] = (rank, method)
            self._loop.watch(ref, answered(rank))
        try:
            self._loop.until(lambda: len(found) == len(refs))
        finally:
            self._forget()
        return [(stays, found[rank]) for rank, (stays, _) in enumerate(refs)]

    def _forget(self) -> None:
        for ref in self._calls:
            self._loop.forget(ref)
        self._calls.clear()

    def _check(self) -> None:
        if self._calls and time.monotonic() - self._since > self._deadline:
            raise ActorGone(f"{self.describe()} has taken more than {self._deadline:g} s (ray.deadline)")
