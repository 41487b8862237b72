"""The controller: feeds rollout, reward and learner actors, one iteration at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ray
from torch import Tensor

from omatg_ray.distributed.pool import Answer, Published, Request, answers, fetch
from omatg_ray.distributed.staff import Staff
from omatg_ray.distributed.timings import Timings
from omatg_ray.model import FlowModel
from omatg_ray.rl.crew import Samples
from omatg_ray.rl.judge import Judged
from omatg_ray.rl.work import WorkItem


class RayCrew:
    """A crew of actors. Trajectories stay in the object store; this process moves references to them.

    Args:
        staff: With rollout, reward and learner actors.
        model: This process's copy of the sampler; its weights follow the learner's.
        steps: Grid points of the rollouts.
        with_base: Whether they record the base's drift.
    """

    def __init__(self, staff: Staff, model: FlowModel, steps: int, with_base: bool) -> None:
        self.rollout, self.reward, self.learner = (staff.pools[role] for role in ("rollout", "reward", "learner"))
        self.model, self._steps, self._with_base = model, steps, with_base
        self._clock = Timings((self.rollout, self.reward, self.learner), staff.startup)
        self._weights = Published(ray.put(model.learned.state_dict()))

    def sample(self, items: Sequence[WorkItem], version: int) -> Samples:
        """Rollouts; every item goes on to a reward actor as soon as it is there."""
        self._clock.begin()
        how = (version, self._weights, self._steps, self._with_base)
        for index, item in enumerate(items):
            self.rollout.submit(Request(index, "rollout", (item, *how), kept=2))
        trajectories: dict[int, Any] = {}
        judged: dict[int, Judged] = {}
        for pool, answer in answers(self.rollout, self.reward):
            if pool is self.rollout:
                trajectories[answer.index], crystals = answer.kept
                self.reward.submit(Request(answer.index, "judge", (crystals, items[answer.index].group_size)))
                self._clock.trajectory()
                if len(trajectories) == len(items):
                    self._clock.end("rollout")
            else:
                judged[answer.index] = answer.value
        self._clock.end("reward")
        order = range(len(items))
        return Samples([trajectories[index] for index in order], [judged[index] for index in order])

    def learn(self, trajectories: Sequence[Any], counted: Tensor, advantage: Tensor) -> dict[str, float]:
        """The learner's update, and its weights to everybody by one `ray.put`."""
        self._clock.resume()
        answer = self._ask_learner(Request(0, "update", (counted, advantage, *trajectories), kept=1))
        self._clock.end("learn")
        weights = fetch(answer.kept[0], "the learner")
        self.model.learned.load_state_dict(weights)
        self._weights = Published(ray.put(weights))
        self._clock.end("weights")
        metrics: dict[str, float] = answer.value
        return metrics

    def timings(self) -> dict[str, float]:
        return self._clock.take()

    def state_dict(self) -> dict[str, Tensor]:
        state: dict[str, Tensor] = self._ask_learner(Request(0, "state_dict", ())).value
        return state

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self._ask_learner(Request(0, "load_state_dict", (state,)))

    def _ask_learner(self, request: Request) -> Answer:
        self.learner.submit(request)
        ((_, answer),) = answers(self.learner)
        return answer
