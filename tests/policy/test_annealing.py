"""Hand-made annealing."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from omatg_ray.policy.annealing import LinearAnnealing


def test_factor_is_linear_in_time_and_of_each_field():
    schedule = LinearAnnealing(pos=5.0, cell=-0.5)
    t = torch.tensor([0.0, 0.4, 1.0], dtype=torch.float64)
    assert schedule.factor("pos", t).tolist() == [1.0, 3.0, 6.0]
    assert schedule.factor("cell", t).tolist() == [1.0, 0.8, 0.5]


def test_a_slope_that_turns_the_flow_round_is_refused():
    with pytest.raises(ValidationError):
        LinearAnnealing(pos=-1.5)
