"""Metrics that Ray exports to Prometheus during a run; `cluster/grafana/omatg_ray.json` plots them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean

import torch
from ray.util.metrics import Counter, Gauge

from omatg_ray.distributed.event_loop import EventLoop
from omatg_ray.distributed.learner_group import LearnerGroup
from omatg_ray.distributed.worker_group import WorkerGroup
from omatg_ray.rl.scoring import ScoredItem
from omatg_ray.rl.work import WorkItem

RUN = "run"
"""Tag of every metric: the name of the run folder."""


MEASURES: Mapping[str, tuple[str, ...]] = {
    "omatg_ray_iteration": ("Iterations done",),
    "omatg_ray_trajectories_per_second": ("Trajectories of the last iteration per second",),
    "omatg_ray_staleness_versions": ("Versions between the weights that sampled and those that were updated",),
    "omatg_ray_invalid_share": ("Share of invalid crystals in the last iteration",),
    "omatg_ray_reward_mean": ("Mean reward in the last iteration",),
    "omatg_ray_stage_seconds": ("Seconds that the driver waited in the last iteration, by stage", "stage"),
    "omatg_ray_idle_share": ("Idle share of the last iteration, mean over the actors of a role", "role"),
    "omatg_ray_actors_ready": ("Actors that are ready", "role"),
    "omatg_ray_requests_waiting": ("Requests not yet given to an actor", "role"),
    "omatg_ray_requests_running": ("Requests given to actors and not yet answered", "role"),
    "omatg_ray_replaced_actors": ("Actors replaced since the driver started", "role"),
    "omatg_ray_retried_requests": ("Requests sent again since the driver started", "role"),
}
"""Metrics by name: description and, beside the run, the tag that distinguishes its series.

Ray exports them as `ray_<name>`, and counters as `ray_<name>_total`.
"""
COUNTERS = {"replaced": "omatg_ray_replaced_actors", "retried": "omatg_ray_retried_requests"}
"""Metrics that only grow, by the prefix of what a backend logs for an iteration."""


class Telemetry:
    """Updater of Ray's metrics of a run: most after every iteration, queues and actors every second.

    Ray exports a gauge once each time it is set, and forgets it some seconds later. So the event loop that the driver
    waits in sets all of them again every second.

    Args:
        run: Name of the run.
        loop: Event loop that the driver waits in.
        pools: Actors with queues.
        learners: Learners, which have no queue.
    """

    def __init__(self, run: str, loop: EventLoop, pools: Sequence[WorkerGroup], learners: LearnerGroup) -> None:
        self._run, self._pools, self._learners = run, pools, learners
        self._gauges, self._counters = dict[str, Gauge](), dict[str, Counter]()
        for name, (text, *tag) in MEASURES.items():
            if name in COUNTERS.values():
                self._counters[name] = Counter(name, text, (RUN, *tag))
            else:
                self._gauges[name] = Gauge(name, text, (RUN, *tag))
        self._values: dict[tuple[str, str], float] = {}
        loop.join(self._refresh, lambda: "")

    def scored(self, scored: Sequence[ScoredItem]) -> None:
        """Record the scores of a collected iteration."""
        rewards = torch.cat([item.result.reward for item in scored])
        self._note("omatg_ray_reward_mean", float(rewards.nanmean()))
        valid = [item.result.values["valid"] for item in scored if "valid" in item.result.values]
        if valid:
            self._note("omatg_ray_invalid_share", 1.0 - float(torch.cat(valid).nanmean()))

    def learned(self, items: Sequence[WorkItem], version: int, seconds: float, timings: Mapping[str, float]) -> None:
        """Record the end of an iteration.

        Args:
            items: All items of the iteration.
            version: Version of the weights that they were sampled with.
            seconds: Duration of the iteration.
            timings: What the backend logs for it (`time_*`, `idle_*`, `replaced_*`, `retried_*`).
        """
        iteration = items[0].iteration
        self._note("omatg_ray_iteration", iteration + 1)
        self._note("omatg_ray_trajectories_per_second", sum(len(item.seeds) for item in items) / seconds)
        self._note("omatg_ray_staleness_versions", iteration - version)
        idle: dict[str, list[float]] = {}
        for name, value in timings.items():
            kind, _, rest = name.partition("_")
            if kind == "time":
                self._note("omatg_ray_stage_seconds", value, rest)
            elif kind == "idle":
                idle.setdefault(rest.rpartition("_")[0], []).append(value)
            elif kind in COUNTERS and value:
                counter = COUNTERS[kind]
                self._counters[counter].inc(value, self._tags(counter, rest))
        for role, shares in idle.items():
            self._note("omatg_ray_idle_share", fmean(shares), role)
        self._refresh()

    def _note(self, name: str, value: float, of: str = "") -> None:
        """Set a value until the next one; values that are not finite are not shown."""
        self._values.pop((name, of), None)
        if math.isfinite(value):
            self._values[name, of] = float(value)

    def _refresh(self) -> None:
        for pool in self._pools:
            self._note("omatg_ray_actors_ready", pool.n_ready, pool.role)
            self._note("omatg_ray_requests_waiting", pool.waiting, pool.role)
            self._note("omatg_ray_requests_running", pool.running, pool.role)
        self._note("omatg_ray_actors_ready", len(self._learners.info), self._learners.role)
        for (name, of), value in self._values.items():
            self._gauges[name].set(value, self._tags(name, of))

    def _tags(self, name: str, of: str) -> dict[str, str]:
        _, *tag = MEASURES[name]
        return {RUN: self._run} | dict.fromkeys(tag, of)
