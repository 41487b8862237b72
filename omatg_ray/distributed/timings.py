"""Timing of iterations: stages as the controller waits for them, and what the actors did meanwhile."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from omatg_ray.distributed.learner_group import LearnerGroup
from omatg_ray.distributed.worker_group import WorkerGroup
from omatg_ray.run.timeline import Timeline

STAGES = ("rollout", "reward", "learn", "weights")


class Timings:
    """A clock of iterations.

    Args:
        pools: Actors whose idle shares count.
        startup: Seconds that each part of the start-up took.
    """

    def __init__(self, pools: Sequence[WorkerGroup | LearnerGroup], startup: Mapping[str, float]) -> None:
        self._pools, self._startup = pools, dict(startup)
        self._seconds = dict.fromkeys(STAGES, 0.0)
        self._began = self._lap = time.perf_counter()
        self._waits_for_first = True
        self._began_at = time.time()

    def begin(self) -> None:
        """Start an iteration while none is in flight. Earlier work of the actors, such as validation, is excluded."""
        for pool in self._pools:
            pool.take_busy()
            pool.take_spans()
        self._began = self._lap = time.perf_counter()
        self._began_at = time.time()

    def resume(self) -> None:
        """Discard the time since the last stage ended."""
        self._lap = time.perf_counter()

    def end(self, stage: str) -> None:
        """End a stage, which began when the one before ended."""
        now = time.perf_counter()
        self._seconds[stage] += now - self._lap
        self._lap = now

    def trajectory(self) -> None:
        """Note a new trajectory; the first one ends the start-up, which excludes validation."""
        if self._waits_for_first:
            waited = time.perf_counter() - self._began
            self._startup["startup_first_trajectory"] = sum(self._startup.values()) + waited
            self._waits_for_first = False

    def take(self, iteration: int) -> tuple[dict[str, float], Timeline]:
        """Return the seconds of every stage (`time_*`), each actor's idle share (`idle_*`) and, once, `startup_*`.

        Resets all counts. Returns the timeline of the iteration, too.

        Args:
            iteration: Number of the iteration that ends now, from 1.
        """
        elapsed = time.perf_counter() - self._began
        stages = {f"time_{stage}": seconds for stage, seconds in self._seconds.items()}
        busy = {(pool.role, index): s for pool in self._pools for index, s in pool.take_busy().items()}
        idle = {f"idle_{role}_{index}": min(1.0, max(0.0, 1.0 - s / elapsed)) for (role, index), s in busy.items()}
        timings = stages | idle | self._startup
        spans = [span for pool in self._pools for span in pool.take_spans()]
        timeline = Timeline.between(self._began_at, time.time(), iteration, tuple(busy), spans)
        self._seconds, self._startup = dict.fromkeys(STAGES, 0.0), {}
        self._began, self._began_at = time.perf_counter(), time.time()
        return timings, timeline
