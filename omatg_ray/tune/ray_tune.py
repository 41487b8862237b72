"""A sweep on Ray Tune, which samples, places, schedules, retries and restores trials."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.search import BasicVariantGenerator

from omatg_ray.distributed.cluster import join_cluster, reserve_room
from omatg_ray.errors import ClusterError, DiskError, OmatgRayError
from omatg_ray.run.advice import command
from omatg_ray.run.atomic import disk_errors
from omatg_ray.tune.log import SweepLog
from omatg_ray.tune.memory import tune_domain
from omatg_ray.tune.old_names import known_by_old_names
from omatg_ray.tune.room import RoomWatch
from omatg_ray.tune.schedulers import SCHEDULERS
from omatg_ray.tune.settings import SweepSettings
from omatg_ray.tune.space import Domain
from omatg_ray.tune.state import FOLDER, KEPT, bring_back
from omatg_ray.tune.stop import SweepStop
from omatg_ray.tune.trainable import Trial, name_in_tune
from omatg_ray.tune.trial import SweepRuns

COSTS = "costs"
"""Results of a trial for searchers: cost of the counting validation by metric; lower is better."""
# Trials stay in the working directory of the driver, and their metrics only in their run folders. Tune saves its state
# every second, so that a kill loses no more than that.
ENVIRONMENT = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "1",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}


@contextmanager
def joined_with_room(settings: SweepSettings, work: SweepRuns, progress: bool) -> Iterator[None]:
    """Join the cluster for the duration of the context, and check that it has room for a trial.

    Args:
        settings: The sweep.
        work: The runs of the sweep, with the resources of a trial.
        progress: Show progress.

    Raises:
        ClusterError: It cannot be joined, or has no room for one trial; says what was asked for and what there is.
    """
    # Trials may need different resources; check each kind once.
    needs = {str(bundles): bundles for bundles in map(work.bundles, settings.corners())}
    with join_cluster(settings.ray, progress) as (_, grows):
        for bundles in needs.values():
            with reserve_room(bundles, settings.ray, grows):
                pass
        yield


def run_sweep(settings: SweepSettings, work: SweepRuns, resume: bool, progress: bool) -> bool:
    """Run all trials, keeping `trials.json` up to date.

    Args:
        settings: The sweep. `settings.run` is an absolute path that trials on other nodes can also reach.
        work: Makes the runs.
        resume: Resume the sweep in the folder: finished trials stay, others resume from their last checkpoint.
        progress: Print one line for every result.

    Returns:
        Whether all trials ended. If a signal asks for a stop, the sweep stops at once, in a state that can be resumed.

    Raises:
        DataError: Tune's state of the sweep to resume is damaged; nothing was changed.
        DiskError: The disk is full, here or where a trial writes; the sweep can be resumed once there is room.
        ClusterError: There was no room for any trial for `ray.wait` seconds; the sweep can be resumed likewise.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    with _silent_tune(), SweepStop("saving the sweep") as stop:
        with _errors(settings.run):
            # Tune reads pickles of earlier versions when it creates a tuner and when it starts it.
            with known_by_old_names():
                tuner = _tuner(settings, work, resume, progress)
                if not stop.requested:
                    tuner.fit()
            if stop.error is not None:
                raise stop.error
        return not stop.requested


@contextmanager
def _errors(folder: Path) -> Iterator[None]:
    """Raise again the errors of callbacks, of which Tune keeps only the traceback, in their original type."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - raised again
        try:
            with disk_errors(folder):
                raise next((cause for cause in _chain(error) if isinstance(cause, OmatgRayError)), error)
        except (ClusterError, DiskError) as own:
            raise type(own)(
                f"{own}. The sweep has stopped; no finished trial is lost. Fix the problem, then resume with: "
                f"{command('tune', '--resume', folder)}"
            ) from error


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


@contextmanager
def _silent_tune() -> Iterator[None]:
    """Print none of Tune's own lines: `trials.json` says how trials end."""
    logger = logging.getLogger("ray.tune")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def _tuner(settings: SweepSettings, work: SweepRuns, resume: bool, progress: bool) -> tune.Tuner:
    folder, grids = settings.run, settings.search == "grid"
    space = {
        "values": {key: _domain(domain, grids) for key, domain in settings.space.items()},
        "work": work,
    }
    searcher = _searcher(settings)
    # Creating a tuner writes the request, from which Tune restores the tuner of a resumed sweep.
    tuner = tune.Tuner(
        Trial,
        param_space=space,
        tune_config=tune.TuneConfig(
            num_samples=1 if grids else settings.trials,
            search_alg=searcher,
            scheduler=SCHEDULERS[settings.scheduler.kind](settings.scheduler, work, settings.space, settings.mutable),
            max_concurrent_trials=None if isinstance(searcher, BasicVariantGenerator) else settings.concurrent,
            reuse_actors=True,
            trial_name_creator=name_in_tune,
            trial_dirname_creator=name_in_tune,
        ),
        run_config=tune.RunConfig(
            name=FOLDER,
            storage_path=str(folder),
            # In a population, a donor may be some validations ahead of the checkpoint that is copied.
            checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=1, num_to_keep=3),
            failure_config=tune.FailureConfig(max_failures=settings.retries),
            callbacks=[SweepLog(folder, settings.goals, settings.expected, progress), RoomWatch(work, settings.ray)],
            verbose=0,
        ),
    )
    if not resume:
        (folder / KEPT).unlink(missing_ok=True)  # of a sweep that ended before its first trial
    elif bring_back(folder):
        return tune.Tuner.restore(str(folder / FOLDER), trainable=Trial, resume_errored=True, param_space=space)
    return tuner


def _domain(domain: Domain, grids: bool) -> Any:
    if domain.kind == "grid" or (grids and domain.kind == "choice"):
        return tune.grid_search(list(domain.values))
    return tune_domain(domain)


def _searcher(settings: SweepSettings) -> Any:
    if settings.search != "optuna":
        return BasicVariantGenerator(random_state=settings.seed, max_concurrent=settings.concurrent or 0)
    from omatg_ray.tune.optuna import NumberedSearch

    return NumberedSearch([f"{COSTS}/{goal.metric}" for goal in settings.goals], settings.seed)
