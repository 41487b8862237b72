"""Hand-made annealing."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from omatg_ray.policy.annealing import LearnedAnnealing, LearnedSchedule, LinearAnnealing


def test_factor_is_linear_in_time_and_of_each_field():
    schedule = LinearAnnealing(pos=5.0, cell=-0.5)
    t = torch.tensor([0.0, 0.4, 1.0], dtype=torch.float64)
    assert schedule.factor("pos", t).tolist() == [1.0, 3.0, 6.0]
    assert schedule.factor("cell", t).tolist() == [1.0, 0.8, 0.5]


def test_a_slope_that_turns_the_flow_round_is_refused():
    with pytest.raises(ValidationError):
        LinearAnnealing(pos=-1.5)


@pytest.mark.parametrize("shared", [True, False])
def test_a_learned_schedule_starts_at_zero_and_learns_for_its_fields_alone(shared):
    schedule = LearnedAnnealing(LearnedSchedule(hidden=8, layers=2, shared=shared, fields=["pos"])).double()
    t = torch.tensor([[0.1, 0.5], [0.6, 0.9]], dtype=torch.float64)
    assert schedule.factor("pos", t).tolist() == [[1.0, 1.0], [1.0, 1.0]]
    optimizer = torch.optim.Adam(schedule.parameters(), lr=1e-2)
    for _ in range(400):
        loss = (schedule.value("pos", t) - (2.0 - 3.0 * t)).square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    torch.testing.assert_close(schedule.factor("pos", t).detach(), 3.0 - 3.0 * t, atol=0.05, rtol=0)
    assert schedule.factor("cell", t).tolist() == [[1.0, 1.0], [1.0, 1.0]]
