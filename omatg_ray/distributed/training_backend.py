"""The controller: gives work to rollout, reward and learner actors, iteration by iteration."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from ray import ObjectRef
from torch import Tensor

from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.distributed.actor_set import ActorSet
from omatg_ray.distributed.failures import InputLost, OutputLost, fetch
from omatg_ray.distributed.learner_group import LearnerGroup
from omatg_ray.distributed.telemetry import Telemetry
from omatg_ray.distributed.timings import Timings
from omatg_ray.distributed.weights import PublishedWeights
from omatg_ray.distributed.worker_group import MAX_ATTEMPTS, Request
from omatg_ray.errors import ClusterError
from omatg_ray.model.flow_model import FlowModel
from omatg_ray.reward.protocol import RewardResult
from omatg_ray.rl.backend import join_state, split_state
from omatg_ray.rl.scoring import ScoredItem
from omatg_ray.rl.settings import ObjectiveSettings
from omatg_ray.rl.signal import Signal
from omatg_ray.rl.work import WorkItem
from omatg_ray.run.timeline import Timeline

logger = logging.getLogger(__name__)


@dataclass
class _Flight:
    """An iteration in flight, with references to trajectories, and scores, by item."""

    items: Sequence[WorkItem]
    version: int
    trajectories: dict[int, Any] = field(default_factory=dict)
    scored: dict[int, ScoredItem] = field(default_factory=dict)

    def label(self, index: int) -> str:
        """Return the name of an item in messages."""
        return f"{index} of iteration {self.items[index].iteration + 1}"

    @property
    def rolled_out(self) -> bool:
        return len(self.trajectories) == len(self.items)

    @property
    def done(self) -> bool:
        return self.rolled_out and len(self.scored) == len(self.items)


class RayTrainingBackend:
    """Training backend on actors. Trajectories stay in the object store; this process passes references to them.

    Several iterations may be in flight; each item is sampled with the version of the weights that it was submitted
    with, whichever actor rolls it out and however often.

    Args:
        actors: Actors, with rollout, reward and learner actors among them.
        model: This process's copy of the sampler; its weights follow the learners'.
        objective: What is learned, which says what rollouts record and what is scored.
        staleness: Number of versions before the current one that may still be needed.
        run: Name of the run in Ray's metrics.

    Attributes:
        timeline: What the actors did in the last iteration. If iterations are sampled ahead, it is the last one with
            others in flight, since the end of a run is not typical of it. None before the first.
    """

    def __init__(
        self,
        actors: ActorSet,
        model: FlowModel,
        objective: ObjectiveSettings,
        staleness: int = 0,
        run: str = "",
    ) -> None:
        self._loop, self.rollout, self.reward = actors.loop, actors.pools["rollout"], actors.pools["reward"]
        assert actors.learners is not None
        self.learners: LearnerGroup = actors.learners
        self.model, self._objective, self._staleness = model, objective, staleness
        self._with_base = objective.needs_base(model.policy())
        self._clock = Timings((self.rollout, self.reward, self.learners), actors.startup)
        self._telemetry = Telemetry(run, actors.loop, (self.rollout, self.reward), self.learners)
        self._flights: dict[int, _Flight] = {}
        self.timeline: Timeline | None = None
        self._learned: tuple[Sequence[WorkItem], int] | None = None
        self.weights = PublishedWeights(model, staleness)

    def score(self, batches: Sequence[CrystalBatch]) -> Iterator[Tensor]:
        rewards: dict[int, Tensor] = {}

        def done(index: int, scored: ScoredItem) -> None:
            rewards[index] = scored.result.reward

        def give_up(index: int, why: str) -> None:
            rewards[index] = torch.full((len(batches[index]),), math.nan, dtype=torch.float64)

        for index, batch in enumerate(batches):
            name, given_up = f"batch {index} of known crystals", partial(give_up, index)
            self.reward.submit(Request(name, "score", (batch,), partial(done, index), given_up=given_up))
        for index in range(len(batches)):
            self._loop.until(partial(rewards.__contains__, index))
            yield rewards.pop(index)

    def submit(self, items: Sequence[WorkItem], version: int) -> None:
        """Start rollouts; every item goes on to a reward actor as soon as it is rolled out."""
        if not self._flights:
            self._clock.begin()
        flight = self._flights[items[0].iteration] = _Flight(items, version)
        for index in range(len(items)):
            self._roll_out(flight, index)

    def _roll_out(self, flight: _Flight, index: int) -> None:
        item = flight.items[index]
        weights = self.weights[flight.version]
        arguments = (item, weights, self._with_base)

        def done(_: None, trajectory: ObjectRef[Any], crystals: ObjectRef[Any]) -> None:
            flight.trajectories[index] = trajectory
            self._clock.trajectory()
            if index not in flight.scored:
                self._score(flight, index, crystals)

        def lost() -> None:
            self.weights.publish_again(flight.version, weights)
            self._roll_out(flight, index)

        self.rollout.submit(Request(flight.label(index), "rollout", arguments, done, kept=2, lost=lost))

    def _score(self, flight: _Flight, index: int, crystals: ObjectRef[Any]) -> None:
        item = flight.items[index]

        def done(scored: ScoredItem) -> None:
            flight.scored[index] = scored

        def lost() -> None:
            flight.trajectories.pop(index, None)
            self._roll_out(flight, index)

        def give_up(why: str) -> None:
            n = len(item.seeds)
            failed = RewardResult(torch.full((n,), math.nan, dtype=torch.float64), {})
            groups, members = len(item.compositions), item.group_size
            apart = torch.full((groups, members, members), math.nan) if members > 1 else None
            flight.scored[index] = ScoredItem(torch.ones(n, dtype=torch.bool), failed, item.species, apart)

        arguments = (crystals, item.group_size, self._objective)
        self.reward.submit(Request(flight.label(index), "score", arguments, done, lost=lost, given_up=give_up))

    def collect(self, iteration: int) -> Sequence[ScoredItem]:
        self._clock.resume()
        flight = self._flights[iteration]
        self._loop.until(lambda: flight.rolled_out)
        self._clock.end("rollout")
        self._loop.until(lambda: flight.done)
        self._clock.end("reward")
        scored = [flight.scored[index] for index in range(len(flight.items))]
        self._telemetry.scored(scored)
        return scored

    def learn(self, iteration: int, signal: Signal) -> dict[str, float]:
        """Run the learners' update. All actors read its weights from where the first learner has put them."""
        self._clock.resume()
        flight = self._flights[iteration]
        metrics = self._update(flight, signal) if signal else {}
        self._clock.end("learn")
        del self._flights[iteration]
        self._learned = flight.items, flight.version
        if metrics:
            self.model.learned.load_state_dict(self.learners.weights)
        self.weights.publish(iteration + 1, self.learners.handle if metrics else self.weights[iteration])
        self._clock.end("weights")
        return metrics

    def _update(self, flight: _Flight, signal: Signal) -> dict[str, float]:
        for _ in range(MAX_ATTEMPTS):
            trajectories = [flight.trajectories[index] for index in range(len(flight.items))]
            try:
                return self.learners.update(flight.items, trajectories, signal)
            except InputLost as error:
                logger.warning("%s; rolling it out again", error)
                reason = error
                self._make_again(flight)
        raise ClusterError(str(reason)) from reason

    def _make_again(self, flight: _Flight) -> None:
        """Roll out again what was lost with a node."""
        for index, trajectory in list(flight.trajectories.items()):
            try:
                fetch(trajectory, "a rollout actor")
            except OutputLost:
                del flight.trajectories[index]
                self._roll_out(flight, index)
        self._loop.until(lambda: flight.rolled_out)

    def timings(self) -> dict[str, float]:
        assert self._learned is not None
        items, version = self._learned
        timings, timeline = self._clock.take(items[0].iteration + 1)
        for part in (self.rollout, self.reward, self.learners):
            timings |= part.take_failures()
        if self.timeline is None or self._flights or not self._staleness:
            self.timeline = timeline
        self._telemetry.learned(items, version, timeline.seconds, timings)
        return timings

    def state_dict(self) -> dict[str, Tensor]:
        return join_state(self.learners.optimizer, self.weights.older)

    def load_state_dict(self, state: dict[str, Tensor], version: int) -> None:
        optimizer, older = split_state(state)
        self.learners.restore(self.model.learned.state_dict(), optimizer)
        self.weights.restore(older, version)
