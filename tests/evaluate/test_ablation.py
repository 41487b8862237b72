"""The search for the best hand-made schedule."""

from __future__ import annotations

import math

import pytest

from omatg_ray.errors import ConfigError
from omatg_ray.evaluate.ablation import tune
from omatg_ray.evaluate.settings import TuningSettings
from omatg_ray.policy.hand_made import CosineSchedule, StepSizes

TRIED = TuningSettings(pos=[0, 1, 2, 5], cell=[0, 1, 2], power=[0.5, 1, 2])


def test_the_best_slopes_of_a_separable_score_are_found_and_nothing_is_tried_twice():
    asked = []

    def measure(schedules):
        asked.extend((one.pos, one.cell) for one in schedules)
        return [(one.pos - 2) ** 2 + (one.cell - 1) ** 2 for one in schedules]

    found = tune("cosine", TRIED, 10, measure)
    assert (found.schedule, found.value, found.steps) == (CosineSchedule(pos=2, cell=1), 0.0, 10)
    assert len(asked) == len(set(asked)) == len(found.tried) and found.at_border == []


def test_slopes_for_positions_are_tried_again_with_those_of_lattices():
    """Alone, slope 5 is best for positions; with the best one for lattices it is 1."""
    scores = {(pos, cell): 10.0 for pos in TRIED.pos for cell in TRIED.cell}
    scores |= {(5, 0): 5.0, (5, 2): 4.0, (1, 2): 1.0}
    found = tune("linear", TRIED, 10, lambda schedules: [scores[one.pos, one.cell] for one in schedules])
    assert (found.schedule.pos, found.schedule.cell, found.value) == (1, 2, 1.0)
    assert found.at_border == ["cell"]


def test_limits_are_tried_with_the_best_slopes():
    tried = TRIED.model_copy(update={"limits": [None, 0.6, 1.0]})
    best = {None: 0.0, 0.6: -2.0, 1.0: -1.0}
    found = tune("linear", tried, 10, lambda schedules: [abs(one.pos - 2) + best[one.limit] for one in schedules])
    assert (found.schedule.pos, found.schedule.limit, found.value) == (2, 0.6, -2.0)
    assert found.at_border == [] and found.as_dict()["schedule"] == "linear:pos=2,cell=0,limit=0.6"


@pytest.mark.parametrize(
    ("values", "highest", "best"),
    [
        ({0.5: 3.0, 1: 2.0, 2: 1.0}, False, 2),
        ({0.5: 3.0, 1: 2.0, 2: 1.0}, True, 0.5),
        ({0.5: 1.0, 1: math.nan, 2: 3.0}, False, 0.5),
        ({0.5: -1.0, 1: math.nan, 2: -3.0}, True, 0.5),
    ],
)
def test_powers_are_tried_and_nan_is_worst(values, highest, best):
    tried = TRIED.model_copy(update={"by": "match_rate" if highest else "crmse"})
    found = tune("steps", tried, 5, lambda schedules: [values[one.power] for one in schedules])
    assert found.schedule == StepSizes(power=best) and found.value == values[best]
    assert found.at_border == (["power"] if best == 2 else [])


def test_a_metric_that_was_not_measured_decides_nothing():
    with pytest.raises(ConfigError, match=r"tuning\.by.*not measured"):
        tune("linear", TRIED, 5, lambda schedules: [math.nan] * len(schedules))
