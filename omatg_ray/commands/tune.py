"""`omatg-ray tune`: many runs of reinforcement that differ in a few keys, to find good ones."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from omatg_ray.errors import ConfigError, TrainingError
from omatg_ray.evaluate.metrics import REWARD
from omatg_ray.report.run import write_report
from omatg_ray.report.sweep import BEST_FILE, FRONT, write_sweep
from omatg_ray.run.advice import command
from omatg_ray.run.atomic import write_text
from omatg_ray.run.interrupt import Interrupted
from omatg_ray.run.location import Location
from omatg_ray.run.location_keys import locations
from omatg_ray.run.lock import lock
from omatg_ray.run.progress import print_line
from omatg_ray.run.text import counted
from omatg_ray.train.build import build_run
from omatg_ray.train.job import anchored
from omatg_ray.tree import flat, set_key
from omatg_ray.tune.results import TRIALS, Sweep
from omatg_ray.tune.settings import DEFAULT_METRIC, SWEEP_FILE, SweepSettings, folder_of_sweep, refuse_taken_by_sweep
from omatg_ray.tune.trial import SweepRuns, write_settings

STARTS_FROM = ("base", "data")
"""Groups of keys that a sweep may leave to its space, and without which nothing can be tried."""


@dataclass(frozen=True)
class TuneResult:
    """What became of a sweep.

    Attributes:
        sweep: All trials.
        best: The configuration of the best one, a file for `omatg-ray train`.
        front: Such files of all trials on the Pareto front of several metrics; none of one metric.
        report: The report.
    """

    sweep: Sweep
    best: Path
    front: list[Path]
    report: Path


def tune(settings: SweepSettings, progress: bool = True) -> TuneResult:
    """Runs a sweep.

    Raises:
        ConfigError: A configuration of the space could not be run; or the folder holds a sweep already.
        InUseError: Another process runs a sweep there; names process and host.
        ClusterError: There is no Ray cluster, or no room on it for one trial.
        TrainingError: No trial came to a validation that counts.
        Interrupted: Stopped by the user; can be resumed.
        OmatgRayError: As `build_run`.
    """
    folder = refuse_taken_by_sweep(settings)
    configs = settings.check()
    settings = _portable(settings, folder)
    # What is missing is missing in all trials: better said once, and now.
    first = next(settings.corners())
    needed = {key: value for key, value in first.items() if key.startswith(STARTS_FROM)}
    config = settings.with_values(needed, folder)
    # How far a lower precision shifts actions depends on keys that trials differ in, and on where they run.
    rollout = config.rollout.model_copy(update={"precision": "float32"})
    parts = build_run(config.model_copy(update={"device": "cpu", "rollout": rollout}), progress=False)
    by_energy = any(config.reward.energy_alone for config in configs) and not parts.model.generates_species
    if REWARD in settings.metric and by_energy:
        raise ConfigError(
            f"metric: validations measure {REWARD} where more than the energy is rewarded; take {DEFAULT_METRIC}"
        )
    with lock(folder):
        refuse_taken_by_sweep(settings)  # by a driver that was quicker
        return _run(settings, folder, progress, resume=False)


def resume_tune(run: Location, progress: bool = True) -> TuneResult:
    """Goes on with a sweep: what has finished stays, other trials go on from their last checkpoints.

    Raises:
        ConfigError: There is no sweep in the folder, or it was moved.
        OmatgRayError: As `tune`.
    """
    folder = folder_of_sweep(run)
    settings = SweepSettings.load(folder / SWEEP_FILE)
    if settings.run != folder:
        raise ConfigError(f"{folder} was moved from {settings.run}, where its trials lie; move it back to go on")
    settings.check()
    with lock(folder):
        return _run(settings, folder, progress, resume=True)


def _portable(settings: SweepSettings, folder: Path) -> SweepSettings:
    """The sweep with all of its config in one tree, with absolute locations: trials may run anywhere."""
    tree, first = settings.copied_tree(), next(settings.corners())
    for key, value in _moved(settings, first, folder).items():
        if key not in settings.space:
            set_key(tree, key, value)

    def moved(key: str, value: Any) -> Any:
        values = first | {key: value}
        # A job says where it finds a file, so nothing but locations is looked for.
        named = locations(settings.with_values(values, folder))
        return _moved(settings, values, folder).get(key, value) if key in named else value

    space = {key: domain.mapped(partial(moved, key)) for key, domain in settings.space.items()}
    portable = {"config": tree, "overrides": {}, "run": folder, "space": space}
    return SweepSettings.model_validate(settings.model_dump() | portable)


def _moved(settings: SweepSettings, values: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The keys of a trial with such values that trials need with another value than was given: locations."""
    config = settings.with_values(values, folder)
    given, needed = (flat(one.model_dump(mode="json")) for one in (config, anchored(config).resolved()))
    return {key: value for key, value in needed.items() if given.get(key) != value and key != "run"}


def _run(settings: SweepSettings, folder: Path, progress: bool, resume: bool) -> TuneResult:
    from omatg_ray.tune.ray_tune import joined_with_room, run_sweep

    work = SweepRuns(settings)
    with joined_with_room(settings, work, progress):
        if not resume:
            write_settings(settings, folder / SWEEP_FILE)
        if progress:
            print_line(_announced(settings, folder))
        complete = run_sweep(settings, work, resume, progress)
    if not complete:
        raise Interrupted(f"stopped in mid-sweep; go on with: {command('tune', '--resume', folder)}")
    sweep = Sweep.read(folder)
    best = sweep.best
    if best is None:
        reasons = [trial.error for trial in sweep.trials if trial.error is not None]
        why = reasons[0] if reasons else "all validations were reward hacking by the guards; see exclude_hacked"
        write_sweep(folder)
        raise TrainingError(f"no trial of {folder} came to a validation that counts: {why}")
    chosen = {folder / BEST_FILE: best}
    front = {} if len(sweep.goals) == 1 else {folder / FRONT / f"{one.name}.yaml": one for one in sweep.front}
    for path, trial in (chosen | front).items():
        path.parent.mkdir(exist_ok=True)
        write_text(path, settings.with_values(trial.values, path.with_suffix("")).to_yaml())
        write_report(folder / TRIALS / trial.name)
    return TuneResult(sweep, folder / BEST_FILE, list(front), write_sweep(folder))


def _announced(settings: SweepSettings, folder: Path) -> str:
    over = f"{counted(settings.expected, 'trial')} over {', '.join(settings.space)}"
    goals = " and ".join(f"{goal.metric} ({goal.mode})" for goal in settings.goals)
    return f"{over} in {folder}, decided by {goals}"
