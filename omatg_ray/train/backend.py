"""Choice of the backend: this process alone, or actors on a Ray cluster if the configuration has rollout workers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from omatg_ray.config import Config
from omatg_ray.evaluate.backend import Backend, local_backend
from omatg_ray.model.flow_model import FlowModel
from omatg_ray.reward.build import Scorers
from omatg_ray.reward.energy import MatGLEnergy
from omatg_ray.reward.weighted import Weighted
from omatg_ray.rl.backend import LocalTrainingBackend
from omatg_ray.rl.learner import Learner
from omatg_ray.train.components import RunComponents
from omatg_ray.train.options import WorkOptions


@contextmanager
def run_backend(config: Config, parts: RunComponents, progress: bool, inside: bool = False) -> Iterator[Backend]:
    """Open the backend of a reinforcement run.

    Args:
        config: The run.
        parts: Its components.
        progress: Show progress.
        inside: Resources for the actors, if there are any, are already reserved (`start_actors`).

    Raises:
        ClusterError: The cluster cannot be joined, or has no room.
    """
    timeout = config.validation.match_timeout
    # Evaluations measure energies anyway; those of crystals of different compositions compare only through the reward.
    rewarded = config.reward.more_than_energy or parts.model.generates_species
    if not config.ray.rollout.workers:
        with closing(parts.reward) as reward:
            own = local_training(config, parts)
            measured = reward if rewarded else None
            with local_backend(config.workers, timeout, parts.scorers.energy, measured, own) as backend:
                yield backend
        return
    from omatg_ray.distributed.actor_set import start_actors
    from omatg_ray.distributed.evaluation_backend import RayEvaluationBackend
    from omatg_ray.distributed.training_backend import RayTrainingBackend

    # Rewards were tried out in this process; from here on actors compute them.
    parts.reward.close()
    model, objective = parts.model, config.objective
    roles = {
        "learner": (model, objective, config.learner),
        "rollout": (model,),
        "reward": (parts.scorers, timeout),
    }
    with start_actors(config.ray, roles, progress, inside) as actors:
        staleness, name = config.rollout.max_staleness, Path(config.run).name
        training = RayTrainingBackend(actors, model, objective, staleness, name)
        evaluate = RayEvaluationBackend(actors, parts.scorers.energy, rewarded)
        yield Backend(evaluate, training, lambda: actors.info, lambda: training.timeline)


def local_training(config: Config, parts: RunComponents) -> LocalTrainingBackend:
    """Return the backend that trains in this process."""
    learner = Learner(parts.model.policy(), config.objective, config.learner)
    return LocalTrainingBackend(learner, parts.model, parts.reward, config.rollout.max_staleness, parts.scorers.energy)


@contextmanager
def evaluation_backend(
    options: WorkOptions, model: FlowModel, energy: MatGLEnergy | None, progress: bool, reward: Weighted | None = None
) -> Iterator[Backend]:
    """Open the backend of an evaluation outside of a run.

    Args:
        options: Without rollout workers, this process does the work.
        model: The model to evaluate, or one of them.
        energy: Potential of the energies.
        progress: Show progress.
        reward: Measured beside the energies.

    Raises:
        ClusterError: The cluster cannot be joined, or has no room.
    """
    if not options.ray.rollout.workers:
        with local_backend(options.workers, options.timeout, energy, reward) as backend:
            yield backend
        return
    from omatg_ray.distributed.actor_set import start_actors
    from omatg_ray.distributed.evaluation_backend import RayEvaluationBackend

    roles = {"rollout": (model,), "reward": (Scorers(reward, energy), options.timeout)}
    with start_actors(options.ray, roles, progress) as actors:
        evaluate = RayEvaluationBackend(actors, energy, reward is not None)
        yield Backend(evaluate, info=lambda: actors.info)
