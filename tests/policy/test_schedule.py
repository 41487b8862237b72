"""Annealing made by hand and learned."""

from __future__ import annotations

import math

import pytest
import torch
from pydantic import ValidationError

from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.errors import ModelError
from omatg_ray.flow.settings import PathSettings
from omatg_ray.model.schedule import brief, read_schedule
from omatg_ray.policy.features import features_of
from omatg_ray.policy.grid import time_grid
from omatg_ray.policy.hand_made import (
    ConstantSchedule,
    CosineSchedule,
    LinearSchedule,
    QuadraticSchedule,
    StepSizes,
)
from omatg_ray.policy.schedule import LearnedSchedule, curves, describe, require_straight_paths
from omatg_ray.policy.settings import AnySchedule, LearnedScheduleSettings
from omatg_ray.settings import Settings


class Holder(Settings):
    schedule: AnySchedule = None


def test_factor_is_linear_in_time_and_of_each_field():
    schedule = LinearSchedule(pos=5.0, cell=-0.5)
    t = torch.tensor([0.0, 0.4, 1.0], dtype=torch.float64)
    assert schedule.factor("pos", t).tolist() == [1.0, 3.0, 6.0]
    assert schedule.factor("cell", t).tolist() == [1.0, 0.8, 0.5]


def test_a_limit_keeps_steps_from_passing_the_end():
    schedule = LinearSchedule(pos=9.0, limit=0.5)
    t, dt = torch.tensor([0.0, 0.2, 0.6, 0.9], dtype=torch.float64), torch.tensor(0.1)
    # 1 + 9 t = 1, 2.8, 6.4, 9.1; half of what is left takes 5, 4, 2, 0.5 steps; never below the velocity itself.
    torch.testing.assert_close(schedule.factor("pos", t, None, dt).tolist(), [1.0, 2.8, 2.0, 1.0])
    # Along the straight path to a point the limit is the share of what is left that a lengthened step takes.
    left = []
    x = 0.0
    for k in range(10):
        velocity = (1.0 - x) / (1.0 - 0.1 * k)
        step = 0.1 * float(schedule.factor("pos", torch.tensor(0.1 * k), None, dt)) * velocity
        left.append(step / (1.0 - x))
        x += step
    # From t = 0.3 to 0.8 steps are cut to half of what is left; the last one takes all, as it would anyway.
    assert left == pytest.approx([0.1, 0.19 / 0.9, 0.35, *[0.5] * 6, 1.0], abs=1e-6)
    # Each structure may have its own step, and each kind and field its limit.
    own = ConstantSchedule(cell=3.0, limit=0.8)
    steps = torch.tensor([0.05, 0.1, 0.2, 0.5])
    assert own.factor("cell", torch.full((4,), 0.5), None, steps).tolist() == pytest.approx([4.0, 4.0, 2.0, 1.0])
    assert own.factor("pos", torch.full((4,), 0.5), None, steps).tolist() == [1.0] * 4
    assert LinearSchedule(pos=9.0).factor("pos", t, None, dt)[2] == pytest.approx(6.4)
    with pytest.raises(ModelError, match="length of the steps"):
        schedule.factor("pos", t)
    assert [curve.of for curve in curves(schedule)] == ["5 steps", "20 steps", "100 steps"]
    (curve,) = curves(schedule, [11])
    at = torch.tensor(curve.t)
    assert curve.pos == pytest.approx(schedule.factor("pos", at, None, time_grid(11).diff()[3]).tolist(), abs=1e-6)
    assert describe(schedule) != describe(LinearSchedule(pos=9.0))
    assert read_schedule(brief(schedule)) == schedule


@pytest.mark.parametrize("values", [{"pos": -1.5}, {"limit": 0.0}, {"limit": 1.5}], ids=str)
def test_a_slope_that_turns_the_flow_round_and_a_limit_beyond_the_end_are_refused(values):
    with pytest.raises(ValidationError):
        LinearSchedule(**values)


def test_a_limit_needs_linear_paths_where_it_acts():
    schedule = LinearSchedule(pos=5.0, limit=0.6)
    bent, noisy = {"kind": "trigonometric"}, {"kind": "linear", "gamma": {"kind": "sqrt", "a": 0.1}}
    require_straight_paths(schedule, PathSettings(cell=bent))
    require_straight_paths(LinearSchedule(pos=5.0), PathSettings(pos=bent))
    with pytest.raises(ModelError, match="that of pos is trigonometric"):
        require_straight_paths(schedule, PathSettings(pos=bent))
    with pytest.raises(ModelError, match="that of cell is linear with gamma"):
        require_straight_paths(ConstantSchedule(cell=1.0, limit=0.6), PathSettings(cell=noisy))


def test_other_shapes_end_at_one_and_the_slope():
    t = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
    assert QuadraticSchedule(pos=4.0).factor("pos", t).tolist() == [1.0, 2.0, 5.0]
    assert ConstantSchedule(cell=4.0).factor("cell", t).tolist() == [5.0, 5.0, 5.0]
    cosine = CosineSchedule(cell=4.0)
    torch.testing.assert_close(cosine.factor("cell", t), torch.tensor([1.0, 3.0, 5.0], dtype=torch.float64))
    # sin² of half the angle.
    at = torch.tensor(0.3, dtype=torch.float64)
    torch.testing.assert_close(
        cosine.factor("cell", at), 1.0 + 4.0 * math.sin(0.15 * math.pi) ** 2 * torch.ones_like(at)
    )


def test_step_sizes_follow_their_power_and_scale_nothing():
    t = torch.rand(4)
    assert StepSizes(power=2.0).factor("pos", t).tolist() == [1.0] * 4
    times = StepSizes(power=2.0).times(5).double()
    assert float(times[0]) == pytest.approx(0.001) and float(times[-1]) == pytest.approx(0.999)
    # 1 − (1 − u)² at quarters: steps of 7, 5, 3, 1 sixteenths.
    expected = 0.998 / 16 * torch.tensor([7.0, 5.0, 3.0, 1.0], dtype=torch.float64)
    torch.testing.assert_close(times.diff(), expected, atol=1e-6, rtol=0)
    assert torch.equal(StepSizes().times(5), time_grid(5)) and torch.equal(LinearSchedule(pos=2).times(5), time_grid(5))


@pytest.mark.parametrize(
    "schedule",
    [
        LinearSchedule(pos=5.0),
        CosineSchedule(pos=2.0, cell=1.0),
        LinearSchedule(pos=2.0, limit=0.5),
        StepSizes(power=0.5),
        LearnedScheduleSettings(fields=["pos"]),
    ],
)
def test_every_kind_is_read_back_from_what_it_is_written_as(schedule):
    holder = Holder(schedule=schedule)
    assert Holder.model_validate_json(holder.model_dump_json()).schedule == schedule


def test_without_a_kind_it_is_linear():
    assert Holder(schedule={"pos": 5.0}).schedule == LinearSchedule(pos=5.0)
    assert Holder(schedule=None).schedule is None


def crystals() -> CrystalBatch:
    """Na4Cl4, eight atoms whose electronegativities differ by 3.16 − 0.93, and one atom of tungsten."""
    species = torch.tensor([11, 17] * 4 + [74])
    return CrystalBatch(species, torch.rand(9, 3), 4 * torch.eye(3).expand(2, 3, 3), torch.tensor([8, 1]))


def test_features_are_what_they_say():
    t, dt = torch.tensor(0.5), torch.tensor(0.01)
    found = features_of(["atoms", "electronegativity", "steps"], t, crystals(), dt)
    torch.testing.assert_close(found, torch.tensor([[0.0, (3.16 - 0.93) / 2, 1.0], [-3.0, 0.0, 1.0]]))
    # One time and one step length for each structure, as a learner asks.
    found = features_of(["steps"], torch.tensor([0.1, 0.2]), None, torch.tensor([0.1, 0.01]))
    torch.testing.assert_close(found, torch.tensor([[0.0], [1.0]]))


def test_features_that_are_not_known_are_missed_by_name():
    with pytest.raises(ModelError, match="number|atoms"):
        features_of(["atoms"], torch.tensor(0.5), None, None)
    with pytest.raises(ModelError, match="length of the steps"):
        features_of(["steps"], torch.tensor(0.5), crystals(), None)


def test_an_element_without_electronegativity_counts_as_no_different():
    helium_fluoride = CrystalBatch(torch.tensor([2, 9]), torch.rand(2, 3), torch.eye(3)[None], torch.tensor([2]))
    assert float(features_of(["electronegativity"], torch.tensor(0.5), helium_fluoride, None)) == 0.0


@pytest.mark.parametrize("shared", [True, False])
def test_a_conditioned_schedule_learns_what_differs_between_structures(shared):
    schedule = LearnedSchedule(
        LearnedScheduleSettings(hidden=16, layers=1, shared=shared, fields=["pos"], features=["atoms"])
    )
    batch, t = crystals(), torch.tensor([0.2, 0.8])
    assert schedule.factor("pos", t, batch).tolist() == [1.0, 1.0]
    optimizer = torch.optim.Adam(schedule.parameters(), lr=1e-2)
    goal = torch.tensor([2.0, -0.5])
    for _ in range(300):
        loss = ((schedule.factor("pos", t, batch) - 1) - goal).square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    torch.testing.assert_close((schedule.factor("pos", t, batch) - 1).detach(), goal, atol=0.05, rtol=0)
    # Each structure alone has the same s, and one time for all is one for each.
    alone = torch.cat([(schedule.factor("pos", t[i], batch.select([i])) - 1) for i in range(2)])
    torch.testing.assert_close(alone, (schedule.factor("pos", t, batch) - 1))
    labels = [curve.of for curve in curves(schedule)]
    assert labels == ["2 atoms", "8 atoms", "20 atoms"]
    (eight,) = [curve for curve in curves(schedule) if curve.of == "8 atoms"]
    at = torch.tensor(eight.t[10])
    assert eight.pos[10] == pytest.approx(float(schedule.factor("pos", at, batch.select([0])).detach()), abs=1e-6)


def test_curves_are_those_of_the_device_of_the_weights():
    """The meta device refuses tensors of another one, as a GPU does."""
    with pytest.raises(NotImplementedError, match="[Mm]eta"):  # there are no numbers to show, but no mixture either
        curves(LearnedSchedule(LearnedScheduleSettings(fields=["pos"])).to("meta"))


def test_what_changes_nothing_is_described_as_one():
    assert describe(LinearSchedule()) == describe(CosineSchedule()) == describe(StepSizes()) == {"kind": "none"}
    assert describe(LinearSchedule(cell=1.0)) != describe(CosineSchedule(cell=1.0))


def test_a_description_tells_weights_apart():
    settings = LearnedScheduleSettings(hidden=4, layers=0, fields=["pos"])
    one, other = LearnedSchedule(settings), LearnedSchedule(settings)
    other.load_state_dict(one.state_dict())
    assert describe(one) == describe(other) and describe(None) is None
    with torch.no_grad():
        next(other.parameters()).add_(1.0)
    assert describe(one) != describe(other)
    assert describe(LinearSchedule(pos=5.0)) == {"kind": "linear", "pos": 5.0, "cell": 0.0}


@pytest.mark.parametrize("shared", [True, False])
def test_a_learned_schedule_starts_at_zero_and_learns_for_its_fields_alone(shared):
    schedule = LearnedSchedule(LearnedScheduleSettings(hidden=8, layers=2, shared=shared, fields=["pos"])).double()
    t = torch.tensor([[0.1, 0.5], [0.6, 0.9]], dtype=torch.float64)
    assert schedule.factor("pos", t).tolist() == [[1.0, 1.0], [1.0, 1.0]]
    optimizer = torch.optim.Adam(schedule.parameters(), lr=1e-2)
    for _ in range(400):
        loss = ((schedule.factor("pos", t) - 1) - (2.0 - 3.0 * t)).square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    torch.testing.assert_close(schedule.factor("pos", t).detach(), 3.0 - 3.0 * t, atol=0.05, rtol=0)
    assert schedule.factor("cell", t).tolist() == [[1.0, 1.0], [1.0, 1.0]]
