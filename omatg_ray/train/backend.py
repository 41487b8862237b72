"""Who works: this process alone, or actors on a Ray cluster where a configuration asks for rollout workers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omatg_ray.config import Config
from omatg_ray.evaluate.bench import Bench, LocalBench
from omatg_ray.model.flow_model import FlowModel
from omatg_ray.reward.build import Judges
from omatg_ray.reward.energy import MatGLEnergy
from omatg_ray.reward.matching import Matcher
from omatg_ray.rl.crew import Crew, LocalCrew
from omatg_ray.rl.learner import Learner
from omatg_ray.run.atomic import write_json
from omatg_ray.run.timeline import Timeline
from omatg_ray.train.options import WorkOptions
from omatg_ray.train.parts import Parts


@dataclass(frozen=True)
class Workforce:
    """What a run works with.

    Attributes:
        crew: Does iterations.
        bench: Does evaluations.
        actors: What is known of each actor that is there; none in one process.
        timeline: What the actors did in the last iteration, if there was one.
    """

    crew: Crew
    bench: Bench
    actors: Callable[[], list[dict[str, Any]]] = list
    timeline: Callable[[], Timeline | None] = lambda: None


class ActorsFile:
    """Keeps `actors.json` at who is there: actors are replaced, come and go.

    Args:
        path: Of the file; without any actors there is none.
        actors: What is known of those that are there.
    """

    def __init__(self, path: Path, actors: Callable[[], list[dict[str, Any]]]) -> None:
        self._path, self._actors = path, actors
        self._written: list[dict[str, Any]] = []

    def __call__(self) -> None:
        """Writes it if anything has changed."""
        if (found := self._actors()) and found != self._written:
            write_json(self._path, found)
            self._written = found


@contextmanager
def workforce(config: Config, parts: Parts, progress: bool, inside: bool = False) -> Iterator[Workforce]:
    """The crew and the bench of a reinforcement run.

    Args:
        config: The run.
        parts: What it works with.
        progress: Tell the user how it goes.
        inside: Actors, where there are any, have their room already (`staffed`).

    Raises:
        ClusterError: The cluster cannot be joined, or has no room.
    """
    model = parts.model
    if not config.ray.rollout.workers:
        with closing(parts.reward), Matcher(config.workers, config.validation.match_timeout) as matcher:
            yield Workforce(local_crew(config, parts), LocalBench(matcher, parts.energy, parts.reward))
        return
    from omatg_ray.distributed.bench import RayBench
    from omatg_ray.distributed.crew import RayCrew
    from omatg_ray.distributed.staff import learner_role, sampling_roles, staffed

    with_base = config.objective.needs_base(model.policy())
    roles = [
        learner_role(config.ray, model, config.objective, config.learner),
        *sampling_roles(config.ray, model, parts.judges, config.validation.match_timeout),
    ]
    # What tried the rewards out here is not needed any more.
    parts.reward.close()
    with staffed(config.ray, roles, progress, inside) as staff:
        crew = RayCrew(staff, model, with_base, config.rollout.max_staleness, Path(config.run).name)
        yield Workforce(crew, RayBench(staff, parts.energy), lambda: staff.about, lambda: crew.timeline)


def local_crew(config: Config, parts: Parts) -> LocalCrew:
    """The crew that is this process."""
    model = parts.model
    learner = Learner(model.policy(), config.objective, config.learner)
    return LocalCrew(
        learner,
        model.learned,
        model.description.base_distribution,
        parts.reward,
        model.device,
        config.rollout.max_staleness,
    )


@contextmanager
def evaluation_bench(
    options: WorkOptions, model: FlowModel, reward: MatGLEnergy | None, progress: bool
) -> Iterator[Bench]:
    """The bench of an evaluation that is no part of a run.

    Args:
        options: Without rollout workers, this process measures.
        model: The model to evaluate, or one of them.
        reward: Potential of the energies.
        progress: Tell the user how it goes.

    Raises:
        ClusterError: The cluster cannot be joined, or has no room.
    """
    if not options.ray.rollout.workers:
        with Matcher(options.workers, options.timeout) as matcher:
            yield LocalBench(matcher, reward)
        return
    from omatg_ray.distributed.bench import RayBench
    from omatg_ray.distributed.staff import sampling_roles, staffed

    roles = sampling_roles(options.ray, model, Judges(None, reward), options.timeout)
    with staffed(options.ray, roles, progress) as staff:
        yield RayBench(staff, reward)
