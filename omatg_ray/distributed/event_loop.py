"""The controller's event loop: waits for references on the cluster, and calls back once they are ready."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

import ray
from ray import ObjectRef

from omatg_ray.errors import ClusterError

logger = logging.getLogger(__name__)

TICK = 1.0
"""Seconds after which deadlines are checked, whether anything has arrived or not."""
PATIENCE = 60.0
"""Seconds without a result after which a message says what is still running."""


class EventLoop:
    """Loop that calls back for references as they become ready.

    All pools of a run share one loop: while the controller waits for the learner, rollouts and rewards of the next
    iterations continue through the same calls.
    """

    def __init__(self) -> None:
        self._waiting: dict[ObjectRef[Any], Callable[[ObjectRef[Any]], None]] = {}
        self._checks: list[Callable[[], None]] = []
        self._descriptions: list[Callable[[], str]] = []

    def watch(self, ref: ObjectRef[Any], then: Callable[[ObjectRef[Any]], None]) -> None:
        """Call `then(ref)` once the reference is ready or has failed."""
        self._waiting[ref] = then

    def forget(self, ref: ObjectRef[Any]) -> None:
        """Stop waiting for a reference."""
        self._waiting.pop(ref, None)

    def join(self, check: Callable[[], None], describe: Callable[[], str]) -> None:
        """Add a part of the run that checks its deadlines every second, and can say what it waits for."""
        self._checks.append(check)
        self._descriptions.append(describe)

    def until(self, done: Callable[[], bool]) -> None:
        """Run until `done` returns True; errors of callbacks propagate.

        Everything that is ready is handled before `done` is called again, so that no role waits for another, and before
        deadlines are checked.

        Raises:
            ClusterError: Nothing is running that could ever answer.
        """
        quiet = checked = time.monotonic()
        while not done():
            ready: list[ObjectRef[Any]] = []
            if self._waiting:
                ready, _ = ray.wait(list(self._waiting), timeout=TICK)
            else:
                time.sleep(0.05)
            if ready:
                # Get everything else that is ready; one at a time would be slow with a thousand actors.
                ready, _ = ray.wait(list(self._waiting), num_returns=len(self._waiting), timeout=0)
                for ref in ready:
                    if ref in self._waiting:
                        self._waiting.pop(ref)(ref)
                quiet = time.monotonic()
            now = time.monotonic()
            if now - checked >= TICK:
                checked = now
                for check in self._checks:
                    check()
            if now - quiet >= PATIENCE:
                quiet = now
                running = "; ".join(text for describe in self._descriptions if (text := describe()))
                if not running:
                    raise ClusterError("nothing is running on the cluster any more that this run could wait for")
                logger.warning("no result for %.0f s; running: %s", PATIENCE, running)
