"""The search for the best hand-made schedule."""

from __future__ import annotations

import math

import pytest

from omatg_ray.evaluate.tuning import TriedSettings, tune
from omatg_ray.policy.annealing import CosineAnnealing, StepSizes

TRIED = TriedSettings(pos=[0, 1, 2, 5], cell=[0, 1, 2], power=[0.5, 1, 2])


def test_the_best_slopes_of_a_separable_score_are_found_and_nothing_is_tried_twice():
    asked = []

    def score(schedule):
        asked.append((schedule.pos, schedule.cell))
        return (schedule.pos - 2) ** 2 + (schedule.cell - 1) ** 2

    found = tune("cosine", TRIED, score)
    assert found.schedule == CosineAnnealing(pos=2, cell=1) and found.score == 0.0
    assert len(asked) == len(set(asked)) == len(found.tried)


def test_slopes_for_positions_are_tried_again_with_those_of_lattices():
    """Alone, slope 5 is best for positions; with the best one for lattices it is 1."""
    scores = {(pos, cell): 10.0 for pos in TRIED.pos for cell in TRIED.cell}
    scores |= {(5, 0): 5.0, (5, 2): 4.0, (1, 2): 1.0}
    found = tune("linear", TRIED, lambda schedule: scores[schedule.pos, schedule.cell])
    assert (found.schedule.pos, found.schedule.cell, found.score) == (1, 2, 1.0)


@pytest.mark.parametrize("values, best", [({0.5: 3.0, 1: 2.0, 2: 1.0}, 2), ({0.5: 1.0, 1: math.nan, 2: 3.0}, 0.5)])
def test_powers_are_tried_and_nan_is_worst(values, best):
    assert tune("steps", TRIED, lambda schedule: values[schedule.power]).schedule == StepSizes(power=best)
