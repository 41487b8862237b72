"""What is said of a sweep while it runs, and kept of it: lines for the terminal, `trials.json`, Tune's state."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ray import tune

from omatg_ray.errors import DataError, DiskError, SoftwareError
from omatg_ray.run.atomic import NO_SPACE
from omatg_ray.run.text import counted
from omatg_ray.tune import results as sweep
from omatg_ray.tune.results import FAILED, FINISHED, STOPPED, UNFINISHED, Goal, Sweep
from omatg_ray.tune.state import StateKeeper, refuse_loss
from omatg_ray.tune.stop import SweepStop
from omatg_ray.tune.trainable import name_in_tune

logger = logging.getLogger(__name__)
# Its lines go to the terminal alone.
logger.propagate = False


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
            SweepStop.active.because(SoftwareError(error.rpartition(f"{SoftwareError.__name__}: ")[2]))
        elif DiskError.__name__ in error or NO_SPACE in error:
            cause = error.rpartition(f"{DiskError.__name__}: ")[2]
            SweepStop.active.because(DiskError(f"trial {name_in_tune(trial)}: {cause}"))
        return SweepStop.active.error is not None

    def _say(self, trial: Any, text: str) -> None:
        logger.info("trial %s: %s", name_in_tune(trial), text)

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
        name_in_tune(trial),
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
