"""Schedulers, which decide the trials of a sweep that continue: their names, their keys, and how each is built.

A new scheduler needs a name in `SchedulerSettings.kind`, its keys, and a function in `SCHEDULERS`. Reading settings
imports no Ray; a scheduler is built when a sweep starts. `memory.py` holds the schedulers of Ray Tune that keep their
memory when a sweep is resumed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from omatg_ray.settings import Settings
from omatg_ray.tune.space import Domain

if TYPE_CHECKING:
    from omatg_ray.tune.trial import SweepRuns

OBJECTIVE, TIME = "objective", "training_iteration"
"""Results of a trial: cost of its last validation (lower is better), and number of validations so far."""


class SchedulerSettings(Settings):
    """Which trials continue, decided at every validation. Times count validations."""

    kind: Literal["asha", "median", "pbt", "none"] = Field(
        "asha",
        description="asha: after 1, 3, 9, ... grace periods only the best third continues · median: a trial worse than "
        "the median of the others stops · pbt: bad trials copy good ones and change keys · none: all run to "
        "their end",
    )
    grace_period: int = Field(1, ge=1, description="validations before a trial can be stopped")
    reduction_factor: float = Field(3.0, gt=1, description="asha: one in this many continues")
    interval: int = Field(2, ge=1, description="pbt: validations between changes")
    quantile: float = Field(0.25, gt=0, le=0.5, description="pbt: share of bad trials, which copy as many good ones")
    resample: float = Field(
        0.25, ge=0, le=1, description="pbt: probability that a key is resampled instead of changed by a fifth"
    )


Space = Mapping[str, Domain]


def _asha(settings: SchedulerSettings, work: SweepRuns, space: Space, mutable: Space) -> Any:
    from omatg_ray.tune.memory import Halving

    return Halving(work, settings.grace_period, settings.reduction_factor)


def _median(settings: SchedulerSettings, work: SweepRuns, space: Space, mutable: Space) -> Any:
    from omatg_ray.tune.memory import Median

    return Median(work, settings.grace_period)


def _pbt(settings: SchedulerSettings, work: SweepRuns, space: Space, mutable: Space) -> Any:
    from ray.tune.schedulers import PopulationBasedTraining

    from omatg_ray.tune.memory import keep_within, mutations

    return PopulationBasedTraining(
        time_attr=TIME,
        metric=OBJECTIVE,
        mode="min",
        perturbation_interval=settings.interval,
        burn_in_period=settings.grace_period,
        hyperparam_mutations={"values": {key: mutations(domain) for key, domain in mutable.items()}},
        quantile_fraction=settings.quantile,
        resample_probability=settings.resample,
        custom_explore_fn=partial(keep_within, space),
        # All trials wait for the slowest, so that the outcome does not depend on their speed.
        synch=True,
        log_config=False,
    )


def _none(settings: SchedulerSettings, work: SweepRuns, space: Space, mutable: Space) -> Any:
    from ray.tune.schedulers import FIFOScheduler

    return FIFOScheduler()


SCHEDULERS: dict[str, Callable[[SchedulerSettings, SweepRuns, Space, Space], Any]] = {
    "asha": _asha,
    "median": _median,
    "pbt": _pbt,
    "none": _none,
}
"""By `SchedulerSettings.kind`: functions that build a scheduler for Ray Tune.

They take the settings, the runs of the sweep (with the earlier results of trials), the domains of the keys that vary,
and the domains of those that may change during a run.
"""
