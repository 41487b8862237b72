"""Work items: coverage, seeds and independence of how an iteration is cut."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from pydantic import ValidationError

from omatg_ray.crystal.base import BaseDistribution
from omatg_ray.rl.rollout import Trajectory
from omatg_ray.rl.settings import RolloutSettings
from omatg_ray.rl.work import plan_iteration, run_item
from tests.small import small_network, velocity_policy

COMPOSITIONS = [[55, 17], [11, 17], [38, 22, 8, 8, 8], [30, 16], [13]]
BASE = BaseDistribution(log_length_mean=(1.4, 1.4, 1.4), log_length_std=(0.1, 0.1, 0.1))
CPU = torch.device("cpu")


def policy():
    return velocity_policy(small_network(0, torch.float32), small_network(1, torch.float32))


def settings(**values):
    return RolloutSettings(**({"groups": 3, "group_size": 4, "steps": 5} | values))


@pytest.mark.parametrize("per_item, sizes", [(1, [1, 1, 1]), (2, [2, 1]), (5, [3])])
def test_items_hold_their_groups(per_item, sizes):
    items = plan_iteration(settings(groups_per_item=per_item), COMPOSITIONS, iteration=7, seed=0)
    assert [len(item.compositions) for item in items] == sizes
    assert all(item.group_size == 4 and item.iteration == 7 for item in items)
    assert all(list(c) in COMPOSITIONS for item in items for c in item.compositions)


def test_every_composition_is_visited_once_before_any_twice():
    visited = []
    for iteration in range(10):
        for item in plan_iteration(settings(), COMPOSITIONS, iteration, seed=0):
            visited += item.compositions
    for start in range(0, len(visited), len(COMPOSITIONS)):
        assert set(Counter(visited[start : start + len(COMPOSITIONS)]).values()) == {1}
    rounds = {tuple(visited[start : start + 5]) for start in range(0, 30, 5)}
    assert len(rounds) > 1


def test_seeds_are_unique_and_depend_on_the_run():
    seeds = [
        seed
        for run in range(2)
        for iteration in range(4)
        for item in plan_iteration(settings(), COMPOSITIONS, iteration, seed=run)
        for seed in item.seeds
    ]
    assert len(set(seeds)) == len(seeds) == 2 * 4 * 3 * 4


def test_a_shared_start_is_that_of_the_first_member():
    (item,) = plan_iteration(settings(groups=2, group_size=3, groups_per_item=2, shared_start=True), [(11,)], 0, 0)
    first, second = item.seeds[0], item.seeds[3]
    assert item.start_seeds == [first] * 3 + [second] * 3
    (own,) = plan_iteration(settings(groups=2, group_size=3, groups_per_item=2), [(11,)], 0, 0)
    assert own.start_seeds == list(own.seeds) == list(item.seeds)


def test_how_groups_are_cut_into_items_does_not_change_the_plan():
    plans = [plan_iteration(settings(groups_per_item=n), COMPOSITIONS, 2, seed=5) for n in (1, 2, 3)]
    flat = [
        ([c for item in plan for c in item.compositions], [s for item in plan for s in item.seeds]) for plan in plans
    ]
    assert flat[0] == flat[1] == flat[2]


def test_several_numbers_of_grid_points_take_turns():
    plans = [plan_iteration(settings(steps=[5, 9, 3]), COMPOSITIONS, iteration, seed=0) for iteration in range(4)]
    assert [{item.steps for item in plan} for plan in plans] == [{5}, {9}, {3}, {5}]
    lengths = [run_item(plan[0], policy(), BASE, False, CPU).n_steps for plan in plans]
    assert lengths == [4, 8, 2, 4]


def learned(points, **values):
    """Steps that 24 iterations learn from, and their items."""
    plans = [
        plan_iteration(settings(steps=points, learn_from=values, groups_per_item=2), COMPOSITIONS, iteration, seed=0)
        for iteration in range(24)
    ]
    assert all(plan[0].learn_from == plan[1].learn_from for plan in plans)
    return [plan[0].learn_from for plan in plans], plans


def test_windows_move_on_until_every_step_was_in_one():
    windows, plans = learned(10, transitions=4)
    assert windows[:4] == [(0, 1, 2, 3), (2, 3, 4, 5), (5, 6, 7, 8), (0, 1, 2, 3)]
    assert not any(item.noise_elsewhere for plan in plans for item in plan)
    assert learned(10, transitions=3)[0][:4] == [(0, 1, 2), (3, 4, 5), (6, 7, 8), (0, 1, 2)]


def test_windows_move_on_where_numbers_of_grid_points_take_turns():
    assert learned([5, 9], transitions=2)[0][:8] == [(0, 1), (0, 1), (2, 3), (2, 3), (0, 1), (4, 5), (2, 3), (6, 7)]


def test_random_steps_are_drawn_anew_without_repetition():
    steps, plans = learned(10, transitions=3, kind="random")
    assert all(len(set(each)) == 3 and list(each) == sorted(each) for each in steps)
    assert len(set(steps)) > 12 and set().union(*steps) == set(range(9))
    assert all(item.noise_elsewhere for plan in plans for item in plan)


@pytest.mark.parametrize(
    "points, values, expected",
    [
        (10, None, 1),
        ([10, 5, 3], None, 3),
        (10, {"transitions": 3}, 3),
        (10, {"transitions": 9}, 1),
        ([10, 9], {"transitions": 3}, 2 * 3),
        ([10, 5], {"transitions": 2}, 2 * 10),
        (10, {"transitions": 3, "kind": "random"}, 1),
    ],
)
def test_after_a_period_iterations_sample_in_the_same_way(points, values, expected):
    what = settings(steps=points, learn_from=values)
    assert what.period == expected
    if values != {"transitions": 3, "kind": "random"}:
        ways = [
            (item.steps, item.learn_from)
            for iteration in range(2 * expected)
            for item in plan_iteration(what, COMPOSITIONS, iteration, seed=0)[:1]
        ]
        assert ways[:expected] == ways[expected:]


def test_more_steps_to_learn_from_than_there_are_are_refused():
    settings(steps=[9, 5], learn_from={"transitions": 4})
    with pytest.raises(ValidationError, match="learn_from"):
        settings(learn_from=True)
    assert settings(learn_from=3).learn_from == settings(learn_from={"transitions": 3}).learn_from
    with pytest.raises(
        ValidationError, match=r"learn_from.transitions = 5: trajectories over 5 grid points have 4 Euler"
    ):
        settings(steps=[9, 5], learn_from={"transitions": 5})


@pytest.mark.parametrize("steps", [1, [5, 1], [], 2.5, True, "5"])
def test_grid_points_that_are_too_few_are_refused(steps):
    with pytest.raises(ValidationError, match="steps\n.*whole number of at least 2"):
        settings(steps=steps)


def test_rollouts_do_not_depend_on_their_neighbours():
    one, three = (
        [
            run_item(item, policy(), BASE, True, CPU)
            for item in plan_iteration(settings(groups_per_item=n), COMPOSITIONS, 2, seed=5)
        ]
        for n in (1, 3)
    )
    apart, together = Trajectory.cat(one), Trajectory.cat(three)
    assert torch.equal(apart.x_0.species, together.x_0.species)
    assert torch.equal(apart.x_0.pos, together.x_0.pos) and torch.equal(apart.x_0.cell, together.x_0.cell)
    for field in ("pos", "cell"):
        assert torch.equal(apart.log_prob[field], together.log_prob[field])
        torch.testing.assert_close(apart.displacement[field], together.displacement[field], atol=1e-5, rtol=0)


def test_an_item_says_in_which_precision_it_is_sampled():
    items = {
        precision: plan_iteration(settings(precision=precision), COMPOSITIONS, 0, seed=1)[0]
        for precision in ("float32", "bfloat16")
    }
    exact, coarse = (run_item(item, policy(), BASE, False, CPU) for item in items.values())
    for field in ("pos", "cell"):
        assert torch.equal(exact.log_prob[field], coarse.log_prob[field])
        assert not torch.equal(exact.displacement[field], coarse.displacement[field])
        torch.testing.assert_close(exact.displacement[field], coarse.displacement[field], atol=0.02, rtol=0)


def test_an_item_gives_the_same_numbers_again():
    item = plan_iteration(settings(), COMPOSITIONS, 0, seed=1)[0]
    first, second = (run_item(item, policy(), BASE, False, CPU) for _ in range(2))
    assert torch.equal(first.final().pos, second.final().pos) and torch.equal(first.final().cell, second.final().cell)
    members = first.x_0.pos.view(4, -1)
    assert len({tuple(row.tolist()) for row in members}) == 4
    assert len(first) == 4 and first.base_outputs == {}
