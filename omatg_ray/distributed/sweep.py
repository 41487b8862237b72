"""A sweep on Ray Tune: trials are sampled, placed, scheduled, retried and restored by it."""

from __future__ import annotations

import importlib
import logging
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, ClassVar

from ray import tune
from ray.tune.search import BasicVariantGenerator

from omatg_ray.distributed.cluster import joined, room
from omatg_ray.distributed.schedulers import sampled, scheduler_of
from omatg_ray.distributed.settings import RaySettings
from omatg_ray.distributed.sweep_room import RoomWatch
from omatg_ray.distributed.sweep_state import FOLDER, StateKeeper, bring_back, refuse_loss
from omatg_ray.distributed.trial import Trial, Work, name_of
from omatg_ray.distributed.tuning import Domain, SchedulerSettings
from omatg_ray.errors import ClusterError, DataError, DiskError, OmatgRayError, SoftwareError
from omatg_ray.evaluate import sweep
from omatg_ray.evaluate.sweep import FAILED, FINISHED, STOPPED, UNFINISHED, Goal, Sweep
from omatg_ray.run.advice import command
from omatg_ray.run.atomic import NO_SPACE, disk_errors
from omatg_ray.run.interrupt import StopRequest
from omatg_ray.run.progress import print_line
from omatg_ray.run.text import counted

logger = logging.getLogger(__name__)
# Its lines go to the terminal alone.
logger.propagate = False
COSTS = "costs"
"""Results of a trial, for searchers: by metric of the validation that counts, lower is better."""
# Trials stay in the working directory of the driver; metrics are in their run folders, and not in files of Tune too.
# Of what finished, all but the last second is known after a kill.
ENVIRONMENT = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "1",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}


@dataclass(frozen=True)
class Plan:
    """A sweep.

    Attributes:
        folder: Where, an absolute path; trials on other nodes have to see it.
        work: Makes the runs.
        space: Domains of the keys that are varied.
        trials: How many, or how often every point of a grid.
        expected: How many in all.
        concurrent: Trials at a time; None for as many as there is room for.
        scheduler: Which trials go on.
        search: random, grid or optuna.
        retries: How often a trial that failed goes on.
        seed: Of the search.
        goals: What decides. With several there is no scheduler.
        mutable: Those of the space that a population may change in the middle of a run.
        ray: The cluster.
    """

    folder: Path
    work: Work
    space: Mapping[str, Domain]
    trials: int
    expected: int
    concurrent: int | None
    scheduler: SchedulerSettings
    search: str
    retries: int
    seed: int
    goals: Sequence[Goal]
    mutable: Mapping[str, Domain]
    ray: RaySettings


@contextmanager
def joined_with_room(plan: Plan, needs: Sequence[Mapping[str, Any]], progress: bool) -> Iterator[None]:
    """Joins the cluster, for as long as the context lasts, and looks whether it has room for a trial.

    Args:
        plan: The sweep.
        needs: Values of the keys, one for each way in which trials differ in what they need.
        progress: Tell the user how it goes.

    Raises:
        ClusterError: It cannot be joined, or has no room for one trial; says what was asked and what there is.
    """
    with joined(plan.ray, progress) as cluster:
        for values in needs:
            with room(plan.work.bundles(values), plan.ray, cluster.grows):
                pass
        yield


def run_sweep(plan: Plan, resume: bool, progress: bool) -> bool:
    """Runs all trials; `trials.json` is kept up to date.

    Args:
        plan: The sweep.
        resume: Go on with what is in the folder: finished trials stay, others go on from their last checkpoint.
        progress: Print one line for every result.

    Returns:
        Whether all came to their end: a signal that asks for a stop has it at once, with a state to resume.

    Raises:
        DataError: What Tune knew of a sweep that shall go on is damaged; nothing was changed.
        DiskError: The disk is full, here or where a trial writes; the sweep can go on once there is room.
        ClusterError: For `ray.wait` seconds there was no room for any trial; likewise.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    with _lines(progress), _Stop("saving the sweep") as stop:
        with _errors(plan.folder):
            tuner = _tuner(plan, resume)
            if not stop.requested:
                tuner.fit()
            if stop.error is not None:
                raise stop.error
        return not stop.requested


@contextmanager
def _errors(folder: Path) -> Iterator[None]:
    """Raises what callbacks raised inside of Tune, of which it keeps no more than the traceback, as it was."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - raised again
        try:
            with disk_errors(folder):
                raise next((one for one in _chain(error) if isinstance(one, OmatgRayError)), error)
        except (ClusterError, DiskError) as own:
            raise type(own)(
                f"{own}. The sweep has stopped, nothing that was finished is lost; go on, once that is mended: "
                f"{command('tune', '--resume', folder)}"
            ) from error


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


@contextmanager
def _lines(progress: bool) -> Iterator[None]:
    """Prints what `SweepLog` says, or not, and nothing that Tune says: what ends a trial is kept in trials.json."""
    tunes, level = logging.getLogger("ray.tune"), logging.getLogger("ray.tune").level
    handler = _Lines()
    tunes.setLevel(logging.CRITICAL)
    logger.setLevel(logging.INFO if progress else logging.CRITICAL)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        tunes.setLevel(level)


class _Lines(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        print_line(record.getMessage())


def _tuner(plan: Plan, resume: bool) -> tune.Tuner:
    path, grids = plan.folder / FOLDER, plan.search == "grid"
    space = {
        "values": {key: _domain(domain, grids) for key, domain in plan.space.items()},
        # Tune keeps no objects in what it stores of trials.
        "work": plan.work,
    }
    searcher = _searcher(plan)
    # Writes what is asked for, from which Tune makes the tuner of a sweep that goes on.
    tuner = tune.Tuner(
        Trial,
        param_space=space,
        tune_config=tune.TuneConfig(
            num_samples=1 if grids else plan.trials,
            search_alg=searcher,
            scheduler=scheduler_of(plan.scheduler, plan.work, plan.space, plan.mutable),
            max_concurrent_trials=None if isinstance(searcher, BasicVariantGenerator) else plan.concurrent,
            reuse_actors=True,
            trial_name_creator=_named,
            trial_dirname_creator=_named,
        ),
        run_config=tune.RunConfig(
            name=FOLDER,
            storage_path=str(plan.folder),
            # The donor of a population may be some validations ahead of the checkpoint that is taken over.
            checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=1, num_to_keep=3),
            failure_config=tune.FailureConfig(max_failures=plan.retries),
            callbacks=[SweepLog(plan.folder, plan.goals, plan.expected), RoomWatch(plan.work, plan.ray)],
            verbose=0,
        ),
    )
    if resume and bring_back(plan.folder):
        return tune.Tuner.restore(str(path), trainable=Trial, resume_errored=True, param_space=space)
    return tuner


def _named(trial: Any) -> str:
    return name_of(trial.trial_id, trial.config)


def _domain(domain: Domain, grids: bool) -> Any:
    if domain.kind == "grid" or (grids and domain.kind == "choice"):
        return tune.grid_search(list(domain.values))
    return sampled(domain)


def _searcher(plan: Plan) -> Any:
    if plan.search != "optuna":
        return BasicVariantGenerator(random_state=plan.seed, max_concurrent=plan.concurrent or 0)
    from omatg_ray.distributed.optuna_search import NumberedSearch

    return NumberedSearch([f"{COSTS}/{goal.metric}" for goal in plan.goals], plan.seed)


class SweepLog(tune.Callback):
    """Logs a line for every result, keeps `trials.json` and Tune's state, and stops the sweep where a disk is full.

    Args:
        folder: Of the sweep.
        goals: What decides.
        expected: Trials in all.
    """

    def __init__(self, folder: Path, goals: Sequence[Goal], expected: int) -> None:
        self._folder, self._goals, self._expected = folder, list(goals), expected
        self._complete, self._checked, self._kept = set[str](), False, False
        self._keeper = StateKeeper(folder)

    def setup(self, *args: Any, total_num_samples: int | None = None, **info: Any) -> None:
        if total_num_samples != self._expected:
            # Tune could not read its state, and would start over with another number.
            refuse_loss(self._folder, [])
            raise DataError(
                f"what Ray Tune knew of the sweep in {self._folder} is damaged: it knows of {total_num_samples} "
                f"trials, and not of {self._expected}; start it anew in another folder"
            )

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        self._check(trials)

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        self._keeper.keep(trials)

    def _check(self, trials: Sequence[Any]) -> None:
        """Before anything is written: of a sweep that goes on, all results have to be known to Tune."""
        if not self._checked:
            refuse_loss(self._folder, trials)
            self._checked = True

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        if result["ended"] is None:
            last, best = result["last"], result["best"] or {}
            reached = ", ".join(f"{goal.metric} {_form(last.get(goal.metric))}" for goal in self._goals)
            before = ", ".join(_form(best.get(goal.metric)) for goal in self._goals)
            # A trial that goes on after its end has its objections in its folder alone.
            why = f": {', '.join(result['objections'])}" if result["objections"] else ""
            mark = f", a guard objects{why}" if result["hacked"] else ""
            text = f"iteration {result['iteration']} of {result['iterations']}, {reached} (best {before}){mark}"
        else:
            text = f"cannot be run: {result['ended']}"
        self._say(trial, text)
        self._keep(trials)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        # Its status says so only after this.
        self._complete.add(trial.trial_id)
        done = sum(one.is_finished() or one is trial for one in trials)
        self._say(trial, f"{_ending(trial.last_result or {})}; {counted(done, 'trial')} done")
        self._keep(trials)

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        if not self._stopped_by(trial):
            self._say(trial, f"lost its process, and goes on from its last validation{_why(trial)}")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        if not self._stopped_by(trial):
            self._say(trial, f"failed: {_error(trial)}")
            self._keep(trials)

    def on_experiment_end(self, trials: list[Any], **info: Any) -> None:
        self._check(trials)
        self._keeper.keep(trials)
        # By now Tune says of those that a signal stopped that they have ended. Only where nothing happened, all had.
        if not self._kept:
            self._keep(trials)

    def _stopped_by(self, trial: Any) -> bool:
        """Ends the sweep where what a trial failed over is no matter of this trial: others would fail too."""
        error = _error(trial)
        if SoftwareError.__name__ in error:
            _Stop.active.because(SoftwareError(error.rpartition(f"{SoftwareError.__name__}: ")[2]))
        elif DiskError.__name__ in error or NO_SPACE in error:
            cause = error.rpartition(f"{DiskError.__name__}: ")[2]
            _Stop.active.because(DiskError(f"trial {_named(trial)}: {cause}"))
        return _Stop.active.error is not None

    def _say(self, trial: Any, text: str) -> None:
        logger.info("trial %s: %s", _named(trial), text)

    def _keep(self, trials: Sequence[Any]) -> None:
        self._kept = True
        found = [described(trial, trial.trial_id in self._complete) for trial in trials]
        # Tune lists those that it restores in another order.
        found.sort(key=lambda trial: trial.name)
        Sweep(self._goals, found).write(self._folder)


def described(trial: Any, complete: bool = False) -> sweep.Trial:
    """What `trials.json` says of a trial of Tune, which is complete or says so itself."""
    result = trial.last_result or {}
    error = result.get("ended") or (_error(trial) if trial.status == "ERROR" else None)
    status = UNFINISHED
    if error is not None:
        status = FAILED
    elif complete or trial.status == "TERMINATED":
        status = _ending(result)
    return sweep.Trial(
        _named(trial),
        dict(trial.config["values"]),
        status,
        result.get("iteration", 0),
        dict(result.get("last", {})),
        result.get("best"),
        result.get("best_iteration"),
        result.get("since", 0),
        bool(result.get("ever_hacked", False)),
        error,
    )


def _ending(result: Mapping[str, Any]) -> str:
    """How a trial came to its end."""
    if result.get("ended") is not None:
        return FAILED
    return FINISHED if result.get("iteration", 0) >= result.get("iterations", 1) else STOPPED


def _form(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _why(trial: Any) -> str:
    error = _error(trial)
    return f" ({error})" if error else ""


def _error(trial: Any) -> str:
    """The last line that a failed trial left, on this machine: where a disk is full it gets no further."""
    file = trial.error_file
    if file is None or not Path(file).is_file():
        return ""
    lines = [line.strip() for line in Path(file).read_text(encoding="utf-8").splitlines() if line.strip()]
    return lines[-1] if lines else ""


LISTENS = "_setup_signal_catching"
"""What in Tune gives the event at which it stops."""


class _Stop(StopRequest):
    """Lets Tune, while it runs, save the sweep and stop.

    Attributes:
        active: That of the sweep that runs. Tune pickles its callbacks, which thus cannot hold it.
        error: Why it has to, if not by a signal.
    """

    active: ClassVar[_Stop]
    error: OmatgRayError | None = None

    def because(self, error: OmatgRayError) -> None:
        """Stops Tune at its next step. An exception there would leave its state as it was up to a second ago."""
        self.error = self.error or error
        self._told.set()

    def __enter__(self) -> _Stop:
        # Tune itself would listen to SIGUSR1, and tell nobody that it was why it ended.
        self._tune, self._told = vars(importlib.import_module("ray.tune.tune")), threading.Event()
        self._listens = self._tune[LISTENS]
        self._tune[LISTENS] = lambda: self._told
        _Stop.active = self
        super().__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._tune[LISTENS] = self._listens
        super().__exit__(*error)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        super()._handle(number, frame)
        self._told.set()
