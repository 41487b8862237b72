"""`omatg-ray tune`: many reinforcement runs that differ in a few keys, to find good values."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from omatg_ray.config import Config
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
from omatg_ray.train.job import with_job_paths
from omatg_ray.tree import flatten, set_key
from omatg_ray.tune.results import TRIALS, Sweep
from omatg_ray.tune.settings import DEFAULT_METRIC, SWEEP_FILE, SweepSettings, folder_of_sweep, refuse_taken_by_sweep
from omatg_ray.tune.trial import SweepRuns, write_settings

STARTS_FROM = ("base", "data")
"""Groups of keys that a sweep may leave to its space, and without which no run can be built."""


@dataclass(frozen=True)
class TuneResult:
    """Result of a sweep.

    Attributes:
        sweep: All trials.
        best: Config file of the best trial, for `omatg-ray train`.
        front: Config files of all trials on the Pareto front of several metrics; empty for one metric.
        report: The report.
    """

    sweep: Sweep
    best: Path
    front: list[Path]
    report: Path


def tune(settings: SweepSettings, progress: bool = True) -> TuneResult:
    """Run a sweep.

    Raises:
        ConfigError: A configuration of the space could not be run; or the folder holds a sweep already.
        InUseError: Another process runs a sweep there; names process and host.
        ClusterError: There is no Ray cluster, or no room on it for one trial.
        TrainingError: No trial had a validation that counts.
        Interrupted: Stopped by the user; can be resumed.
        OmatgRayError: As `build_run`.
    """
    folder = refuse_taken_by_sweep(settings)
    configs = settings.check()
    settings = _make_portable(settings, folder)
    # Anything missing would be missing in all trials, so fail early, and once.
    first = next(settings.corners())
    needed = {key: value for key, value in first.items() if key.startswith(STARTS_FROM)}
    config = settings.with_values(needed, folder)
    # The right precision depends on keys that differ between trials, and on where they run, so it is not decided here.
    rollout = config.rollout.model_copy(update={"precision": "float32"})
    parts = build_run(config.model_copy(update={"device": "cpu", "rollout": rollout}), progress=False)
    by_energy = any(config.reward.energy_alone for config in configs) and not parts.model.generates_species
    if REWARD in settings.metric and by_energy:
        raise ConfigError(
            f"metric: validations measure {REWARD} only if more than the energy is rewarded; use {DEFAULT_METRIC}"
        )
    with lock(folder):
        refuse_taken_by_sweep(settings)  # again: another driver may have been quicker
        return _run(settings, folder, progress, resume=False)


def resume_tune(run: Location, progress: bool = True) -> TuneResult:
    """Resume a sweep: finished trials stay, other trials resume from their last checkpoints.

    Raises:
        ConfigError: There is no sweep in the folder, or it was moved.
        OmatgRayError: As `tune`.
    """
    folder = folder_of_sweep(run)
    settings = SweepSettings.load(folder / SWEEP_FILE)
    if settings.run != folder:
        raise ConfigError(f"{folder} was moved from {settings.run}, where its trials are; move it back to resume it")
    settings.check()
    with lock(folder):
        return _run(settings, folder, progress, resume=True)


def _make_portable(settings: SweepSettings, folder: Path) -> SweepSettings:
    """Return the sweep with its whole config in one tree of absolute locations, because trials may run anywhere."""
    tree, first = deepcopy(settings.tree), next(settings.corners())
    for key, value in _relocate(settings.with_values(first, folder)).items():
        if key not in settings.space:
            set_key(tree, key, value)

    def moved(key: str, value: Any) -> Any:
        config = settings.with_values(first | {key: value}, folder)
        # Looking up a file in a job prints where it is, so look up nothing but locations.
        return _relocate(config).get(key, value) if key in locations(config) else value

    space = {key: domain.mapped(partial(moved, key)) for key, domain in settings.space.items()}
    portable = {"config": tree, "overrides": {}, "run": folder, "space": space}
    return SweepSettings.model_validate(settings.model_dump() | portable)


def _relocate(config: Config) -> dict[str, Any]:
    """Return the locations that a trial with this configuration needs in place of the original ones, by key."""
    original, needed = (flatten(tree.model_dump(mode="json")) for tree in (config, with_job_paths(config).resolved()))
    return {key: value for key, value in needed.items() if original.get(key) != value and key != "run"}


def _run(settings: SweepSettings, folder: Path, progress: bool, resume: bool) -> TuneResult:
    from omatg_ray.tune.ray_tune import joined_with_room, run_sweep

    work = SweepRuns(settings)
    with joined_with_room(settings, work, progress):
        if not resume:
            write_settings(settings, folder / SWEEP_FILE)
        if progress:
            goals = " and ".join(f"{goal.metric} ({goal.mode})" for goal in settings.goals)
            trials = f"{counted(settings.expected, 'trial')} over {', '.join(settings.space)}"
            print_line(f"{trials} in {folder}, decided by {goals}")
        complete = run_sweep(settings, work, resume, progress)
    if not complete:
        raise Interrupted(f"the sweep was stopped; resume it with: {command('tune', '--resume', folder)}")
    sweep = Sweep.read(folder)
    best = sweep.best
    if best is None:
        reasons = [trial.error for trial in sweep.trials if trial.error is not None]
        why = reasons[0] if reasons else "the guards counted all validations as reward hacking; see exclude_hacked"
        write_sweep(folder)
        raise TrainingError(f"no trial of {folder} had a validation that counts: {why}")
    chosen = {folder / BEST_FILE: best}
    front = {} if len(sweep.goals) == 1 else {folder / FRONT / f"{trial.name}.yaml": trial for trial in sweep.front}
    for path, trial in (chosen | front).items():
        path.parent.mkdir(exist_ok=True)
        write_text(path, settings.with_values(trial.values, path.with_suffix("")).to_yaml())
        write_report(folder / TRIALS / trial.name)
    return TuneResult(sweep, folder / BEST_FILE, list(front), write_sweep(folder))
