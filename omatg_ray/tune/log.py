"""Output of a running sweep: lines for the terminal, `trials.json`, and a copy of Tune's state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ray import tune

from omatg_ray.config import Config
from omatg_ray.errors import DataError, DiskError, SoftwareError
from omatg_ray.run.atomic import NO_SPACE
from omatg_ray.run.progress import print_line
from omatg_ray.run.text import counted
from omatg_ray.settings import current_key
from omatg_ray.tune import results as sweep
from omatg_ray.tune.results import FAILED, FINISHED, STOPPED, UNFINISHED, Goal, Sweep
from omatg_ray.tune.state import keep_state, refuse_loss
from omatg_ray.tune.stop import SweepStop
from omatg_ray.tune.trainable import name_in_tune


class SweepLog(tune.Callback):
    """Callback that prints every result, keeps `trials.json` and Tune's state, and stops the sweep if a disk is full.

    Args:
        folder: Folder of the sweep.
        goals: The metrics that decide.
        expected: Total number of trials.
        shown: Whether to print lines.
    """

    def __init__(self, folder: Path, goals: Sequence[Goal], expected: int, shown: bool) -> None:
        self._folder, self._goals, self._expected, self._shown = folder, list(goals), expected, shown
        self._complete, self._checked, self._written = set[str](), False, False
        self._state = 0

    def setup(self, *args: Any, total_num_samples: int | None = None, **info: Any) -> None:
        if total_num_samples != self._expected:
            # Tune could not read its state, and would start over with another number of trials.
            refuse_loss(self._folder, [])
            raise DataError(
                f"Ray Tune's state of the sweep in {self._folder} is damaged: it has {total_num_samples} trials, "
                f"not {self._expected}; start a new sweep in another folder"
            )

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        self._check(trials)

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        self._state = keep_state(self._folder, trials, self._state)

    def _check(self, trials: Sequence[Any]) -> None:
        """Check, before anything is written, that Tune knows all results of a resumed sweep."""
        if not self._checked:
            refuse_loss(self._folder, trials)
            self._checked = True

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        if result["ended"] is None:
            last, best = result["last"], result["best"] or {}
            reached = ", ".join(f"{goal.metric} {_format(last.get(goal.metric))}" for goal in self._goals)
            before = ", ".join(_format(best.get(goal.metric)) for goal in self._goals)
            # A trial that continues after its end has its objections only in its folder.
            why = f": {', '.join(result['objections'])}" if result["objections"] else ""
            mark = f", a guard objects{why}" if result["hacked"] else ""
            text = f"iteration {result['iteration']} of {result['iterations']}, {reached} (best {before}){mark}"
        else:
            text = f"cannot be run: {result['ended']}"
        self._say(trial, text)
        self._write(trials)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        # Tune updates the status only after this call.
        self._complete.add(trial.trial_id)
        done = sum(other.is_finished() or other is trial for other in trials)
        self._say(trial, f"{_ending(trial.last_result or {})}; {counted(done, 'trial')} done")
        self._write(trials)

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        if not self._stop_if_shared(trial):
            error = _error(trial)
            why = f" ({error})" if error else ""
            self._say(trial, f"lost its process and resumes from its last validation{why}")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        if not self._stop_if_shared(trial):
            self._say(trial, f"failed: {_error(trial)}")
            self._write(trials)

    def on_experiment_end(self, trials: list[Any], **info: Any) -> None:
        self._check(trials)
        # By now Tune reports trials that a signal stopped as terminated, so write only if nothing was written before.
        if not self._written:
            self._write(trials)
        self._state = keep_state(self._folder, trials, self._state)

    def _stop_if_shared(self, trial: Any) -> bool:
        """End the sweep if the cause of a trial's failure would make others fail too; return whether it is ending."""
        error = _error(trial)
        if SoftwareError.__name__ in error:
            SweepStop.active.because(SoftwareError(error.rpartition(f"{SoftwareError.__name__}: ")[2]))
        elif DiskError.__name__ in error or NO_SPACE in error:
            cause = error.rpartition(f"{DiskError.__name__}: ")[2]
            SweepStop.active.because(DiskError(f"trial {name_in_tune(trial)}: {cause}"))
        return SweepStop.active.error is not None

    def _say(self, trial: Any, text: str) -> None:
        if self._shown:
            print_line(f"trial {name_in_tune(trial)}: {text}")

    def _write(self, trials: Sequence[Any]) -> None:
        self._written = True
        entries = [describe_trial(trial, trial.trial_id in self._complete) for trial in trials]
        # Tune lists restored trials in another order.
        entries.sort(key=lambda trial: trial.name)
        Sweep(self._goals, entries).write(self._folder)


def describe_trial(trial: Any, complete: bool = False) -> sweep.Trial:
    """Convert one of Tune's trials to its entry in `trials.json`. It counts as complete if either says so."""
    result = trial.last_result or {}
    error = result.get("ended") or (_error(trial) if trial.status == "ERROR" else None)
    status = UNFINISHED
    if error is not None:
        status = FAILED
    elif complete or trial.status == "TERMINATED":
        status = _ending(result)
    return sweep.Trial(
        name_in_tune(trial),
        dict(current_key(Config, key, value) for key, value in trial.config["values"].items()),
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
    """Return the final status of a trial."""
    if result.get("ended") is not None:
        return FAILED
    return FINISHED if result.get("iteration", 0) >= result.get("iterations", 1) else STOPPED


def _format(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _error(trial: Any) -> str:
    """Return the last line of a failed trial's error file on this machine, or an empty text.

    With a full disk the file does not reach the folder of the sweep.
    """
    file = trial.error_file
    if file is None or not Path(file).is_file():
        return ""
    lines = [line.strip() for line in Path(file).read_text(encoding="utf-8").splitlines() if line.strip()]
    return lines[-1] if lines else ""
