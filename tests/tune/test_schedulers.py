"""Schedulers decide, in a sweep that goes on, as if it had never stopped. No cluster: trials are told results here."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from omatg_ray.tune.memory import OBJECTIVE, TIME, earlier_results
from omatg_ray.tune.schedulers import SCHEDULERS, SchedulerSettings
from omatg_ray.tune.space import Domain

LENGTH = 9


class FakeTrial:
    """What schedulers see of a trial of Tune."""

    def __init__(self, number: int) -> None:
        self.trial_id, self.config, self.status = f"x_{number:05d}", {}, "PENDING"
        self.last_result: dict[str, Any] = {}
        self.latest_checkpoint_result: Any = None

    def is_finished(self) -> bool:
        return self.status in ("TERMINATED", "ERROR")


class Logged:
    """What trials wrote into their run folders, by name."""

    def __init__(self) -> None:
        self.objectives: dict[str, list[float]] = {}

    def history(self, name: str) -> Sequence[float]:
        return self.objectives.get(name, [])


CONTROLLER: Any = SimpleNamespace(get_live_trials=list)


def report(scheduler: Any, work: Logged, trial: FakeTrial, curve: Sequence[float]) -> str:
    """One more validation of a trial, as Tune's controller deals with it."""
    time = (0 if trial.latest_checkpoint_result is None else trial.latest_checkpoint_result.metrics[TIME]) + 1
    result = {TIME: time, OBJECTIVE: curve[time - 1]}
    name = trial.trial_id[2:]
    work.objectives[name] = [*work.objectives.get(name, [])[: time - 1], curve[time - 1]]
    decision = "STOP" if time == len(curve) else scheduler.on_trial_result(CONTROLLER, trial, result)
    trial.last_result, trial.latest_checkpoint_result = result, SimpleNamespace(metrics=result)
    if decision == "STOP":
        scheduler.on_trial_complete(CONTROLLER, trial, result)
        trial.status = "TERMINATED"
    return f"{name} at {time}: {decision}"


def swept(
    settings: SchedulerSettings, curves: np.ndarray, cuts: Collection[int] = (), lost: Collection[int] = ()
) -> list[str]:
    """All decisions of a sweep with three trials at a time.

    Args:
        settings: The scheduler.
        curves: Objectives of all trials.
        cuts: After so many decisions the sweep stops and goes on.
        lost: After so many decisions the trial that reported loses its process, and is tried again.
    """
    work, trials, decisions = Logged(), [FakeTrial(number) for number in range(len(curves))], list[str]()
    scheduler, added = SCHEDULERS[settings.kind](settings, work, {}, {}), list[FakeTrial]()  # type: ignore[arg-type]

    def add(again: Iterable[FakeTrial]) -> None:
        for trial in again:
            if not trial.is_finished() and trial.latest_checkpoint_result is not None:
                # It had gone on after its checkpoint, and that is lost.
                reported = trial.latest_checkpoint_result.metrics[TIME]
                work.objectives[trial.trial_id[2:]] = curves[trials.index(trial)][: reported + 1].tolist()
            scheduler.on_trial_add(CONTROLLER, trial)

    while running := [trial for trial in trials if not trial.is_finished()][:3]:
        for trial in running:
            if trial not in added:
                add([trial])
                added.append(trial)
            decisions.append(report(scheduler, work, trial, curves[trials.index(trial)].tolist()))
            if len(decisions) in cuts:
                scheduler = SCHEDULERS[settings.kind](settings, work, {}, {})  # type: ignore[arg-type]
                add(added)
            elif len(decisions) in lost and not trial.is_finished():
                add([trial])
    return decisions


@pytest.mark.parametrize(
    "settings",
    [
        SchedulerSettings(kind="asha", reduction_factor=2),
        SchedulerSettings(kind="asha", grace_period=2),
        SchedulerSettings(kind="median", grace_period=1),
        SchedulerSettings(kind="median", grace_period=3),
    ],
    ids=["asha", "asha_grace", "median", "median_grace"],
)
@pytest.mark.parametrize("seed", range(3))
def test_a_sweep_that_goes_on_decides_as_before(settings: SchedulerSettings, seed: int) -> None:
    generator = np.random.default_rng(seed)
    # Trials differ, and change while they run.
    curves = generator.normal(size=(14, 1)) + 0.5 * generator.normal(size=(14, LENGTH))
    whole = swept(settings, curves)
    stopped = {text[:5] for text in whole if text.endswith("STOP") and f"at {LENGTH}" not in text}
    assert 2 <= len(stopped) < len(curves)
    for cut in range(1, len(whole)):
        assert swept(settings, curves, [cut]) == whole
    every = range(1, len(whole))
    assert swept(settings, curves, every) == swept(settings, curves, lost=every) == whole


def test_what_will_be_reported_again_is_not_of_the_past() -> None:
    work, trial = Logged(), FakeTrial(3)
    work.objectives["00003"] = [0.5, 0.4, 0.3]
    assert earlier_results(work, trial) == []
    trial.last_result = {TIME: 3}
    trial.latest_checkpoint_result = SimpleNamespace(metrics={TIME: 2})
    assert earlier_results(work, trial) == [{TIME: 1, OBJECTIVE: 0.5}, {TIME: 2, OBJECTIVE: 0.4}]
    trial.status = "TERMINATED"
    assert len(earlier_results(work, trial)) == 3


@pytest.mark.parametrize(
    ("domain", "value", "nearest"),
    [
        ({"uniform": [0, 1]}, 1.2, 1.0),
        ({"loguniform": [1e-3, 1]}, 1e-4, 1e-3),
        ({"uniform": [0, 1]}, 0.3, 0.3),
        ({"randint": [2, 5]}, 6, 4),
        ({"quniform": [0.5, 2, 0.5]}, 1.2, 1.0),
        ({"quniform": [0.5, 2, 0.5]}, 2.4, 2.0),
        ({"choice": [1, 2]}, 2, 2),
    ],
)
def test_changed_values_stay_in_their_domains(domain: dict[str, Any], value: float, nearest: float) -> None:
    assert Domain.model_validate(domain).nearest(value) == pytest.approx(nearest)
