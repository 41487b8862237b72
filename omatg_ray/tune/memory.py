"""Schedulers of Ray Tune that do not forget: a sweep that goes on decides as if it had never stopped.

Tune keeps no state of a scheduler. Without this, the first trials after a resume would compete with nobody.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ray import tune
from ray.tune.schedulers import ASHAScheduler, MedianStoppingRule

from omatg_ray.tune.schedulers import OBJECTIVE, TIME
from omatg_ray.tune.space import Domain
from omatg_ray.tune.trainable import name_of

if TYPE_CHECKING:
    from omatg_ray.tune.trial import SweepRuns


def sampled(domain: Domain) -> Any:
    """A domain in Tune's terms, of which values are drawn."""
    if domain.kind in ("choice", "grid"):
        return tune.choice(list(domain.values))
    made: dict[str, Any] = {
        "uniform": tune.uniform,
        "loguniform": tune.loguniform,
        "quniform": tune.quniform,
        "randint": tune.randint,
    }
    return made[domain.kind](*domain.values)


def past(work: SweepRuns, trial: Any) -> list[dict[str, float]]:
    """The results of a trial that it will not report again, in their order.

    What it logged after the checkpoint that it goes on from is done again, and decided on then.
    """
    if trial.is_finished():
        known = trial.last_result
    else:
        saved = trial.latest_checkpoint_result
        known = {} if saved is None else saved.metrics
    objectives = work.history(name_of(trial.trial_id, trial.config))[: (known or {}).get(TIME, 0)]
    return [{TIME: time, OBJECTIVE: objective} for time, objective in enumerate(objectives, start=1)]


class Halving(ASHAScheduler):
    """Asynchronous successive halving.

    Args:
        work: Knows what trials reported before.
        grace_period: Validations before the first decision.
        reduction_factor: One in so many goes on.
    """

    def __init__(self, work: SweepRuns, grace_period: int, reduction_factor: float) -> None:
        # No trial is longer: rungs beyond the end of all trials are never reached, and cost nothing.
        super().__init__(TIME, OBJECTIVE, "min", 10**6, grace_period=grace_period, reduction_factor=reduction_factor)
        self._work = work

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        super().on_trial_add(tune_controller, trial)
        for result in past(self._work, trial):
            # What it decides was done already.
            self.on_trial_result(tune_controller, trial, result)


class Median(MedianStoppingRule):
    """The median stopping rule.

    Args:
        work: Knows what trials reported before.
        grace_period: Validations before the first decision.
    """

    def __init__(self, work: SweepRuns, grace_period: int) -> None:
        super().__init__(TIME, OBJECTIVE, "min", grace_period=grace_period)
        self._work = work

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        super().on_trial_add(tune_controller, trial)
        # A trial that is tried again will report some of these again.
        self._results.pop(trial, None)
        if known := past(self._work, trial):
            self._results[trial] = known

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        # A trial that this rule stopped has its last result in already, and Tune would count it twice.
        known = self._results[trial]
        if not known or known[-1][TIME] < result[TIME]:
            known.append(result)


def mutations(domain: Domain) -> Any:
    """A domain as population-based training changes values of it."""
    # A list is what Tune steps through; other values it multiplies.
    return list(domain.values) if domain.kind in ("choice", "grid") else sampled(domain)


class Within:
    """Keeps mutated values in their domains."""

    def __init__(self, space: Mapping[str, Domain]) -> None:
        self._space = dict(space)

    def __call__(self, config: dict[str, Any]) -> dict[str, Any]:
        for key, value in config["values"].items():
            config["values"][key] = self._space[key].nearest(value)
        return config
