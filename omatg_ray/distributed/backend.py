"""Actors on a Ray cluster as the backend of a reinforcement run or an evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from omatg_ray.distributed.actor_set import learner_role, sampling_roles, start_actors
from omatg_ray.distributed.evaluation_backend import RayEvaluationBackend
from omatg_ray.distributed.settings import RaySettings
from omatg_ray.distributed.training_backend import RayTrainingBackend
from omatg_ray.evaluate.backend import Backend
from omatg_ray.model.flow_model import FlowModel
from omatg_ray.reward.build import Scorers
from omatg_ray.rl.settings import LearnerSettings, ObjectiveSettings


@dataclass(frozen=True)
class Learning:
    """Settings of the actors that learn.

    Attributes:
        objective: The objective.
        learner: Optimizer and microbatches.
        staleness: Number of versions of the weights before the current one that may still be needed.
        run: Name of the run in Ray's metrics.
    """

    objective: ObjectiveSettings
    learner: LearnerSettings
    staleness: int
    run: str


@contextmanager
def ray_backend(
    settings: RaySettings,
    model: FlowModel,
    scorers: Scorers,
    timeout: float,
    progress: bool,
    learning: Learning | None = None,
    inside: bool = False,
) -> Iterator[Backend]:
    """Join the cluster and start actors, which end with the context.

    Args:
        settings: The cluster and its actors.
        model: The sampler; this process's copy follows the learners' weights.
        scorers: Rewards and energies that reward actors compute.
        timeout: Seconds that one comparison of structures may take.
        progress: Whether to report progress to the user.
        learning: Settings of the learners; None trains nothing.
        inside: Whether this process already has room for its actors (`start_actors`).

    Raises:
        ClusterError: The cluster cannot be joined or has no room.
    """
    roles = sampling_roles(settings, model, scorers, timeout)
    if learning is not None:
        roles = [learner_role(settings, model, learning.objective, learning.learner), *roles]
    with start_actors(settings, roles, progress, inside) as actors:
        evaluate = RayEvaluationBackend(actors, scorers.energy)
        if learning is None:
            yield Backend(evaluate, info=lambda: actors.info)
            return
        with_base = learning.objective.needs_base(model.policy())
        training = RayTrainingBackend(actors, model, with_base, learning.staleness, learning.run)
        yield Backend(evaluate, training, lambda: actors.info, lambda: training.timeline)
