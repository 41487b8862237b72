"""Schedulers of Ray Tune with a memory: a resumed sweep decides as if it had never stopped.

Tune saves no state of a scheduler. Without these classes, the first trials after a resume would have no competitors.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ray import tune
from ray.tune.schedulers import ASHAScheduler, MedianStoppingRule

from omatg_ray.config import Config
from omatg_ray.settings import current_key
from omatg_ray.tune.schedulers import OBJECTIVE, TIME
from omatg_ray.tune.space import Domain
from omatg_ray.tune.trainable import name_in_tune

if TYPE_CHECKING:
    from omatg_ray.tune.trial import SweepRuns


def tune_domain(domain: Domain) -> Any:
    """Return a domain in Tune's terms, for sampling."""
    if domain.kind in ("choice", "grid"):
        return tune.choice(list(domain.values))
    return getattr(tune, domain.kind)(*domain.values)  # Tune has the same names


def earlier_results(work: SweepRuns, trial: Any) -> list[dict[str, float]]:
    """Return the results of a trial that it will not report again, in their order.

    Iterations logged after the checkpoint from which it resumes are repeated, and decided on then.
    """
    if trial.is_finished():
        known = trial.last_result
    else:
        saved = trial.latest_checkpoint_result
        known = {} if saved is None else saved.metrics
    objectives = work.history(name_in_tune(trial))[: (known or {}).get(TIME, 0)]
    return [{TIME: time, OBJECTIVE: objective} for time, objective in enumerate(objectives, start=1)]


class Halving(ASHAScheduler):
    """Asynchronous successive halving.

    Args:
        work: The runs of the sweep, with the earlier results of trials.
        grace_period: Validations before the first decision.
        reduction_factor: One in this many continues.
    """

    def __init__(self, work: SweepRuns, grace_period: int, reduction_factor: float) -> None:
        # No trial is this long; rungs that are never reached cost nothing.
        super().__init__(TIME, OBJECTIVE, "min", 10**6, grace_period=grace_period, reduction_factor=reduction_factor)
        self._work = work

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        super().on_trial_add(tune_controller, trial)
        for result in earlier_results(self._work, trial):
            # Its decision is ignored: it was carried out before the resume.
            self.on_trial_result(tune_controller, trial, result)


class Median(MedianStoppingRule):
    """The median stopping rule.

    Args:
        work: The runs of the sweep, with the earlier results of trials.
        grace_period: Validations before the first decision.
    """

    def __init__(self, work: SweepRuns, grace_period: int) -> None:
        super().__init__(TIME, OBJECTIVE, "min", grace_period=grace_period)
        self._work = work

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        super().on_trial_add(tune_controller, trial)
        # A retried trial reports some of these results again.
        self._results.pop(trial, None)
        if known := earlier_results(self._work, trial):
            self._results[trial] = known

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        # If this rule stopped the trial, its last result is recorded already; do not count it twice.
        known = self._results[trial]
        if not known or known[-1][TIME] < result[TIME]:
            known.append(result)


def mutations(domain: Domain) -> Any:
    """Return a domain in the form that population-based training takes."""
    # Tune steps through a list; other values it multiplies.
    return list(domain.values) if domain.kind in ("choice", "grid") else tune_domain(domain)


def keep_within(space: Mapping[str, Domain], config: dict[str, Any]) -> dict[str, Any]:
    """Limit the mutated values of a trial's configuration to their domains, in place."""
    for key, value in config["values"].items():
        # Trials of a sweep that an earlier version began have old names of keys.
        config["values"][key] = space[current_key(Config, key, value)[0]].nearest(value)
    return config
