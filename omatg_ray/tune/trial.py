"""A trial of a sweep: a reinforcement run in its own folder, advanced from validation to validation."""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from omatg_ray.config import Config
from omatg_ray.errors import ClusterError, ConfigError, DiskError, InUseError, OmatgRayError
from omatg_ray.run.atomic import disk_errors, write_bytes, write_text
from omatg_ray.run.folder import METRICS, RunFolder
from omatg_ray.run.metrics import read_metrics
from omatg_ray.run.versions import software
from omatg_ray.train.backend import run_backend
from omatg_ray.train.build import build_run
from omatg_ray.train.checkpoint import Progressed, iteration_of, marked_best, name_of, read_state, save, write_state
from omatg_ray.train.loop import TrainLoop
from omatg_ray.train.precision import resolve_precision
from omatg_ray.train.record import write_description
from omatg_ray.tree import dump
from omatg_ray.tune.guards import HACKED, Guards
from omatg_ray.tune.results import TRIALS, WORST, TrialScore, trial_score
from omatg_ray.tune.settings import SweepSettings

TRIAL_FILE = "trial.json"
"""File in a checkpoint of a trial: which trial it is, since which iteration, and the score of its validation."""
SECONDS_TO_END = 30.0
"""How long a trial waits for its folder."""
OF_ITS_PLACE = (ClusterError, DiskError)
"""Errors of the machine or cluster, not of the trial, which can resume from a checkpoint."""


@dataclass(frozen=True)
class SweepRuns:
    """The runs of a sweep: what they share, and how each is made.

    Attributes:
        settings: The sweep; its config is a tree with absolute locations.
        software: Software versions of the driver.
    """

    settings: SweepSettings
    software: Mapping[str, str] = field(default_factory=software)

    def config(self, values: Mapping[str, Any], name: str) -> Config:
        """Return the configuration of a trial, adapted to its share of a node.

        Raises:
            ConfigError: As `SweepSettings.with_values`.
        """
        config, share = self.settings.with_values(values, self.folder(name)), self.settings.trial
        actors = bool(config.ray.rollout.workers)
        return config.model_copy(
            update={
                "device": "auto" if actors else share.device,
                "threads": share.n_threads,
                "workers": min(config.workers, share.n_threads),
            }
        )

    def folder(self, name: str) -> Path:
        """Return the run folder of a trial."""
        return self.settings.run / TRIALS / name

    def bundles(self, values: Mapping[str, Any]) -> list[tuple[str, Mapping[str, float]]]:
        """Return role and resources of the trial itself, then of every actor in the order a run starts them."""
        ray = self.settings.with_values(values, self.settings.run).ray
        own: list[tuple[str, Mapping[str, float]]] = [("trial", self.settings.trial.bundle)]
        if not ray.rollout.workers:
            return own
        roles = (("learner", ray.learner), ("rollout", ray.rollout), ("reward", ray.reward))
        return own + [(name, share.bundle) for name, share in roles for _ in range(share.workers)]

    def strategy(self, values: Mapping[str, Any]) -> str:
        """Return the placement strategy of these bundles."""
        return self.settings.with_values(values, self.settings.run).ray.strategy.upper()

    def history(self, name: str) -> list[float]:
        """Return the objectives of a trial's validations so far, in their order."""
        validations = [line for line in self.lines(name) if line["kind"] == "validation" and line["step"] > 0]
        return [self.standing([line]).objective for line in validations]

    def lines(self, name: str) -> list[dict[str, Any]]:
        """Return the lines that a trial has logged so far."""
        path = self.folder(name) / METRICS
        return read_metrics(path) if path.is_file() else []

    def standing(self, lines: Sequence[Mapping[str, Any]], since: int = 0) -> TrialScore:
        """Score a trial with these logged lines; as `trial_score`."""
        return trial_score(lines, self.settings.goals, self.settings.exclude_hacked, since)

    def start(self, values: Mapping[str, Any], name: str) -> TrialRun:
        """Start a new trial."""
        return TrialRun(self, values, name)


class TrialRun:
    """A run that advances in steps, each of which ends with the next validation.

    An error that makes the run impossible, and would occur again, ends it with a result that says so.

    Args:
        work: The runs of the sweep.
        values: Values of the keys of the space.
        name: Name of the trial.

    Raises:
        ClusterError: Its actors cannot start.
        DiskError: Its folder cannot be written.
    """

    def __init__(self, work: SweepRuns, values: Mapping[str, Any], name: str) -> None:
        self._sweep, self._name = work, name
        self._stack, self._running = ExitStack(), ExitStack()
        self._work: TrainLoop | None = None
        self._guards: Guards | None = None
        self._done: Progressed | None = None
        self._ended: str | None = None
        self._since = 0
        try:
            with ExitStack() as stack:
                self._config = config = work.config(values, name)
                self._parts = build_run(config)
                self._folder = stack.enter_context(_open_folder(work.folder(name)))
                self._config = config = resolve_precision(config, self._parts, self._folder)
                self._backend = stack.enter_context(run_backend(config, self._parts, progress=False, inside=True))
                write_description(self._folder, config, self._parts.split)
                self._stack = stack.pop_all()
        except OF_ITS_PLACE:
            raise
        except OmatgRayError as error:
            self._ended = _reason(error)

    def step(self) -> dict[str, Any]:
        """Iterate up to and including the next validation. The first step also validates before training.

        Returns:
            Metrics of the validation, and the state of the trial (`_result`).

        Raises:
            ClusterError: Actors died too often; the trial can resume from a checkpoint.
            DiskError: Its folder cannot be written; likewise.
        """
        try:
            if self._ended is None:
                work = self._loop()
                if missing := [metric for metric in self._sweep.settings.metric if metric in work.unmeasured]:
                    raise ConfigError(f"metric: validations of this run do not measure {', '.join(missing)}")
                while not work.done and not work.iterate():
                    pass
        except OF_ITS_PLACE:
            raise
        except OmatgRayError as error:
            self._ended = _reason(error)
        return self._result()

    def _loop(self) -> TrainLoop:
        if self._work is None:
            if self._done is None:
                # Left by a process that was lost before its first checkpoint for Tune.
                self._folder.forget_checkpoints(lambda _: True)
            lines = [] if self._done is None else read_metrics(self._folder.metrics_path)
            self._guards = guards = Guards(self._sweep.settings.guards, lines, self._config.rollout.period)
            work = TrainLoop(
                self._config, self._parts, self._backend, self._folder, self._done, progress=False, callback=guards
            )
            self._work = self._running.enter_context(work)
        return self._work

    def _result(self) -> dict[str, Any]:
        """Return the state of the trial.

        From `TrialScore`: `last`, `best`, `best_iteration`, `ever_hacked`. For schedulers: `objective` of the last
        validation, lower is better. For searchers: `costs` of the validation that counts by metric, lower is better. Of
        the last validation: `hacked`, and why (`objections`). `since`: the state up to this iteration is that of
        another trial. `iteration` of `iterations`. `ended`: why the trial failed for good; if it did, nothing counts.
        `done`.
        """
        work, failed = self._work, self._ended is not None
        standing = self._sweep.standing(self._sweep.lines(self._name), self._since)
        best = None if failed else standing.best
        costs = {goal.metric: goal.cost(best or {}) for goal in self._sweep.settings.goals}
        return {
            "objective": WORST if failed else standing.objective,
            "costs": {metric: WORST if cost is None else cost for metric, cost in costs.items()},
            "last": standing.last,
            HACKED: int(standing.last.get(HACKED, 0)),
            "objections": [] if self._guards is None else self._guards.reasons,
            "best": best,
            "best_iteration": None if failed else standing.best_iteration,
            "ever_hacked": standing.hacked,
            "since": self._since,
            "iteration": 0 if work is None else work.iteration,
            "iterations": self._config.iterations if work is not None else 0,
            "ended": self._ended,
            "done": failed or (work is not None and work.done),
        }

    def save(self, path: Path) -> None:
        """Write everything needed to resume exactly: model, learner, metrics so far, state of the trial.

        Raises:
            DiskError: The disk is full.
        """
        with disk_errors(path):
            about: dict[str, Any] = {"trial": self._name, "ended": self._ended}
            if self._ended is None:
                work = self._loop()
                progressed, score = work.progressed(), work.score
                write_state(path, self._parts.model, progressed, is_best=score <= progressed.best)
                shutil.copyfile(self._folder.metrics_path, path / METRICS)
                about |= {"score": score if math.isfinite(score) else None, "since": self._since}
            (path / TRIAL_FILE).write_text(json.dumps(about) + "\n")

    def load(self, path: Path) -> None:
        """Resume from a checkpoint of `save`, by this trial or by another, whose history then becomes this trial's.

        Raises:
            ModelError: It has another network, or acts on other fields.
            ConfigError: It was rewarded in another way.
        """
        about = json.loads((path / TRIAL_FILE).read_text())
        if about["ended"] is not None or self._ended is not None:
            self._ended = self._ended or about["ended"]
            return
        self._leave()
        folder, model = self._folder, self._parts.model
        # Population-based training mutates noise; the schedule stays that of the configuration unless it is learned.
        done, best = read_state(path, model, may_differ={"noise"})
        own = about["trial"] == self._name
        self._since = about["since"] if own else done.iteration
        if not own:
            # Earlier checkpoints of the other trial are in its own folder, so this one counts as the best.
            best = True
            done = replace(done, best=math.inf if about["score"] is None else about["score"])
        write_bytes(folder.metrics_path, (path / METRICS).read_bytes())
        folder.forget_checkpoints(lambda name: not own or iteration_of(name) > done.iteration)
        save(folder, model, done, self._config.checkpoint.keep, best)
        if folder.pointed_at("best") is None:
            names = sorted((path for path in folder.checkpoints.glob("iteration_*") if marked_best(path)), reverse=True)
            folder.point_best(names[0].name if names else name_of(done.iteration))
        self._backend.train.load_state_dict(done.learner, done.iteration)
        self._done = done

    def close(self) -> None:
        """End the actors and release the folder."""
        self._leave()
        self._stack.close()

    def _leave(self) -> None:
        self._work = None
        self._running.close()


def _open_folder(path: Path) -> RunFolder:
    """Open the run folder of a trial, new or not.

    Raises:
        ClusterError: A process that worked on this trial before does not end.
    """
    deadline = time.monotonic() + SECONDS_TO_END
    while True:
        try:
            return RunFolder.create(path, RunFolder(path).holds_run())
        except InUseError as error:
            # A process that Tune has lost, with a killed driver or a lost node, may live a little longer.
            if time.monotonic() > deadline:
                raise ClusterError(str(error)) from error
            time.sleep(0.2)


def write_settings(settings: SweepSettings, path: Path) -> None:
    """Save the settings of a sweep, so that it can be resumed."""
    write_text(path, dump(settings.model_dump(mode="json")))


def _reason(error: OmatgRayError) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
