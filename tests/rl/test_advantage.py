"""Group-relative advantages."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from omatg_ray.rl.advantage import group_advantages, spread_within
from omatg_ray.rl.settings import AdvantageSettings

NAN, INF = float("nan"), float("inf")


def random_rewards(groups=6, members=16):
    return torch.randn(groups, members, dtype=torch.float64) * 3 - 5


def test_closed_form():
    result = group_advantages(torch.tensor([[1.0, 3.0], [0.0, 0.0]]))
    assert result.values.flatten().tolist() == pytest.approx([-1.0, 1.0, 0.0, 0.0])
    assert result.values.dtype == torch.float64
    assert result.counted.tolist() == [[True, True], [False, False]]
    assert result.skipped_groups == 1


@pytest.mark.parametrize("shaping", ["none", "clip", "rank"])
def test_groups_sum_to_zero_with_unit_spread(shaping):
    result = group_advantages(random_rewards(), AdvantageSettings(shaping=shaping))
    assert float(result.values.sum(1).abs().max()) < 1e-12
    torch.testing.assert_close(result.values.square().mean(1), torch.ones(6, dtype=torch.float64), atol=1e-6, rtol=0)


@pytest.mark.parametrize("shaping", ["none", "clip", "rank"])
@pytest.mark.parametrize("factor, shift", [(1000.0, 0.0), (1e-3, 0.0), (2.5, 7.0)])
def test_a_constant_factor_or_shift_of_the_reward_changes_nothing(shaping, factor, shift):
    rewards, settings = random_rewards(), AdvantageSettings(shaping=shaping)
    before, after = (group_advantages(r, settings).values for r in (rewards, factor * rewards + shift))
    # The 1e-8 beside the standard deviation is not scaled.
    torch.testing.assert_close(after, before, atol=1e-4, rtol=0)


@pytest.mark.parametrize("shaping", ["none", "clip", "rank"])
def test_the_opposite_reward_has_the_opposite_advantages(shaping):
    rewards, settings = random_rewards(), AdvantageSettings(shaping=shaping)
    forward, backward = (group_advantages(r, settings).values for r in (rewards, -rewards))
    torch.testing.assert_close(backward, -forward, atol=1e-12, rtol=0)


def test_groups_do_not_see_each_other():
    rewards = random_rewards()
    alone = torch.cat([group_advantages(row[None]).values for row in rewards])
    assert torch.equal(group_advantages(rewards).values, alone)


@pytest.mark.parametrize("value", [0.1, -3.14159, 1e7 + 0.3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_rewards_are_skipped_whatever_their_rounding(value, dtype):
    result = group_advantages(torch.full((1, 7), value, dtype=dtype))
    assert bool((result.values == 0).all()) and not bool(result.counted.any())
    assert result.skipped_groups == 1


@pytest.mark.parametrize("failure", [NAN, INF, -INF])
@pytest.mark.parametrize("shaping", ["none", "clip", "rank"])
def test_failed_members_leave_their_group(failure, shaping):
    settings = AdvantageSettings(shaping=shaping)
    rewards = random_rewards(2, 8)
    broken = torch.cat([rewards[:, :3], torch.full((2, 1), failure, dtype=torch.float64), rewards[:, 3:]], dim=1)
    result = group_advantages(broken, settings)
    kept = [0, 1, 2, 4, 5, 6, 7, 8]
    assert torch.equal(result.values[:, kept], group_advantages(rewards, settings).values)
    assert result.values[:, 3].tolist() == [0.0, 0.0]
    assert result.counted.tolist() == [[i != 3 for i in range(9)]] * 2
    assert result.skipped_groups == 0


@pytest.mark.parametrize("rewards", [[NAN, NAN, NAN], [1.0, NAN, NAN], [2.0, 2.0, NAN]])
def test_groups_without_two_different_rewards_are_skipped(rewards):
    result = group_advantages(torch.tensor([rewards, [0.0, 1.0, 2.0]]))
    assert not bool(result.counted[0].any()) and bool((result.values[0] == 0).all())
    assert bool(result.counted[1].all())
    assert result.skipped_groups == 1


def test_clip_pulls_outliers_back_and_leaves_the_rest():
    calm = [-2.0, -1.0, 0.0, 1.0, 2.0]
    settings = AdvantageSettings(shaping="clip")
    clipped = group_advantages(torch.tensor([[*calm, -1000.0, 5.0]], dtype=torch.float64), settings).values
    # Median 0; the deviations are 0, 1, 1, 2, 2, 5, 1000 with median 2: the edge is 3 robust deviations of 2 · 1.4826.
    pulled = torch.tensor([[*calm, -3 * 1.4826 * 2, 5.0]], dtype=torch.float64)
    torch.testing.assert_close(clipped, group_advantages(pulled).values, atol=1e-12, rtol=0)
    unchanged = torch.tensor([calm], dtype=torch.float64)
    assert torch.equal(group_advantages(unchanged, settings).values, group_advantages(unchanged).values)


def test_clip_std_clips_to_the_population_deviation_of_the_group():
    """Mean 1 and deviation 3 of nine zeros and a ten; the other group has neither outliers nor another's deviation."""
    rewards = torch.tensor([[0.0] * 9 + [10.0], [float(i) for i in range(10)]], dtype=torch.float64)
    result = group_advantages(rewards, AdvantageSettings(shaping="none", clip_std=2.0))
    by_hand = rewards.clone()
    by_hand[0, 9] = 1 + 2 * 3
    torch.testing.assert_close(result.values, group_advantages(by_hand).values, atol=1e-12, rtol=0)


@pytest.mark.parametrize("shaping", ["rank", "clip"])
def test_clip_std_goes_with_no_shaping(shaping):
    """Clipped before they are ranked, outliers would only be tied."""
    with pytest.raises(ValidationError, match=f"cannot be combined with shaping {shaping}.*advantage.shaping=none"):
        AdvantageSettings(shaping=shaping, clip_std=2.0)


def test_clip_std_leaves_failed_members_out():
    rewards = torch.tensor([[0.0] * 9 + [10.0]], dtype=torch.float64)
    broken = torch.cat([rewards, torch.full((1, 1), NAN, dtype=torch.float64)], dim=1)
    settings = AdvantageSettings(shaping="none", clip_std=1.0)
    assert torch.equal(group_advantages(broken, settings).values[:, :10], group_advantages(rewards, settings).values)


def test_rank_depends_on_the_order_alone():
    settings = AdvantageSettings(shaping="rank")
    rewards = torch.tensor([[-500.0, 0.1, 0.0, 3.0]], dtype=torch.float64)
    ranks = torch.tensor([[1.0, 3.0, 2.0, 4.0]], dtype=torch.float64)
    assert torch.equal(group_advantages(rewards, settings).values, group_advantages(ranks).values)
    tied = group_advantages(torch.tensor([[1.0, 1.0, 2.0]]), settings).values[0]
    assert float(tied[0]) == float(tied[1]) < float(tied[2])


def test_rewards_are_not_changed():
    rewards = torch.tensor([[1.0, NAN, 3.0]], dtype=torch.float64)
    copy = rewards.clone()
    group_advantages(rewards, AdvantageSettings(shaping="clip"))
    assert torch.equal(rewards.nan_to_num(7.0), copy.nan_to_num(7.0))


DIVERSE = AdvantageSettings(shaping="none", diversity_weight=0.5)


def test_the_diversity_term_prefers_what_is_unlike_the_other_good_members():
    # Of four good members, two are the same and one is far from all; the bad ones lie farther still.
    places = torch.tensor([0.0, 0.0, 1.0, 3.0, 50.0, -50.0, 90.0, -90.0], dtype=torch.float64)
    distance = (places[:, None] - places).abs()[None]
    rewards = torch.tensor([[4.0, 4.0, 4.0, 4.0, 0.0, 0.0, 0.0, 0.0]])
    plain = group_advantages(rewards)
    diverse = group_advantages(rewards, DIVERSE, distance)
    # Mean distances to the other three: 4/3, 4/3, 4/3, 8/3; standardised over the four.
    mean = torch.tensor([4.0, 4.0, 4.0, 8.0], dtype=torch.float64) / 3
    expected = 0.5 * (mean - mean.mean()) / mean.std(unbiased=False)
    assert (diverse.values - plain.values)[0, :4].tolist() == pytest.approx(expected.tolist())
    assert torch.equal(diverse.values[0, 4:], plain.values[0, 4:])
    assert float(diverse.values.sum()) == pytest.approx(0.0, abs=1e-12)


def test_without_weight_or_spread_the_diversity_term_is_nothing():
    rewards = random_rewards(2, 8)
    plain = group_advantages(rewards)
    same = torch.zeros(2, 8, 8)
    assert torch.equal(group_advantages(rewards, DIVERSE, same).values, plain.values)
    distance = torch.rand(2, 8, 8)
    assert torch.equal(group_advantages(rewards, AdvantageSettings(shaping="none"), distance).values, plain.values)
    assert not torch.equal(group_advantages(rewards, DIVERSE, distance).values, plain.values)


def test_members_without_reward_or_distance_have_no_part_in_the_diversity_term():
    rewards = torch.tensor([[NAN, 5.0, 4.0, 3.0, 2.0, 1.0]])
    places = torch.tensor([7.0, 0.0, NAN, 4.0, 9.0, 11.0])
    distance = (places[:, None] - places).abs()[None]
    added = group_advantages(rewards, DIVERSE, distance).values - group_advantages(rewards).values
    # The better half of the five that count is the first three, one of which has no distances: two equal ones are left.
    assert added.abs().max() == 0


def test_beside_gradients_advantages_have_the_size_of_their_rewards() -> None:
    """Times the spread within its group, an advantage without shaping is the reward's distance to the group's mean."""
    rewards = torch.tensor([[1.0, 2.0, 6.0], [0.1, NAN, 0.3], [4.0, 4.0, 4.0]]).double()
    found = group_advantages(rewards).times(spread_within(rewards))
    expected = torch.tensor([[-2.0, -1.0, 3.0], [-0.1, 0.0, 0.1], [0.0, 0.0, 0.0]]).double()
    torch.testing.assert_close(found.values, expected, rtol=0, atol=1e-6)
    assert torch.equal(spread_within(rewards[2:]), torch.zeros(1).double())
