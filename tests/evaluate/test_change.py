from __future__ import annotations

from typing import Any

import pytest

from omatg_ray.evaluate.change import changes


def evaluation(energies: list[float | None], rmse: list[float | None], ids: list[str] | None = None) -> dict[str, Any]:
    ids = [str(i) for i in range(len(rmse))] if ids is None else ids
    return {"per_structure": {"id": ids, "rmse": rmse, "relative_energy_capped": energies}}


def test_an_equal_shift_of_all_rows_is_sure_and_a_few_flipped_matches_are_not() -> None:
    before = evaluation([0.1 * i for i in range(40)], [0.1] * 20 + [None] * 20)
    after = evaluation([0.1 * i - 0.25 for i in range(40)], [None] + [0.2] * 20 + [None] * 18 + [0.3])
    energy, match, displacement = changes(before, after)
    # Pairing takes out what rows have in common, so the interval of a constant difference is that difference.
    assert (energy.interval.mean, energy.interval.low, energy.interval.high) == (pytest.approx(-0.25),) * 3
    assert str(energy) == "relative energy, capped mean: -0.250 [-0.250, -0.250] eV/atom: lower"
    # One lost, two won.
    assert match.interval.mean == pytest.approx(1 / 40)
    assert match.interval.low < 0 < match.interval.high
    assert match.verdict == "no significant change"
    # 19 rows by 0.1 farther, one from 0.1 to unmatched (0.5), two from unmatched to 0.2 and 0.3.
    assert displacement.interval.mean == pytest.approx((19 * 0.1 + 0.4 - 0.3 - 0.2) / 40)
    assert changes(after, before)[0].verdict == "higher"


def test_rows_without_an_energy_on_either_side_are_no_pairs() -> None:
    before, after = evaluation([1.0, None, *[2.0] * 30], [None] * 32), evaluation([None, 1.0, *[1.0] * 30], [None] * 32)
    energy, match, _ = changes(before, after)
    assert (energy.interval.n, energy.interval.mean) == (30, -1.0)
    assert (match.interval.mean, match.verdict) == (0.0, "no significant change")


def test_few_rows_get_no_verdict() -> None:
    match, _ = changes(evaluation([None] * 3, [None] * 3), evaluation([None] * 3, [0.1] * 3))
    assert match.verdict == "too few to tell (3 compositions)"
    alone, _ = changes(evaluation([], [None]), evaluation([], [0.1]))
    assert str(alone) == "match rate: +1.000: too few to tell (1 composition)"


def test_the_users_reward_changes_by_part_and_value() -> None:
    """`energy` is also a part, which is not the relative energy; displacements are over what each side matches."""
    names = [f"C{row // 2}" for row in range(24)]

    def rewarded(total: float, energy: float, rmse: list[float | None]) -> dict[str, Any]:
        own = {"reward": [total] * 24, "reward.energy": [energy] * 24, "reward.crmse.rmse": rmse}
        found = evaluation([0.5] * 24, [None] * 24)
        found["per_structure"] |= {"composition": names, **own}
        return found

    before, after = rewarded(1.0, -2.0, [0.4] * 12 + [None] * 12), rewarded(1.5, -2.0, [0.1] * 24)
    assert [str(change) for change in changes(before, after)][3:] == [
        "reward, weighted sum: +0.500 [+0.500, +0.500]: higher",
        "reward, energy: +0.000 [+0.000, +0.000]: no significant change",
        "reward, crmse.rmse: -0.300 [-0.300, -0.300]: too few to tell (6 compositions)",
    ]


def test_what_is_no_pair_is_not_compared() -> None:
    assert changes(evaluation([1.0], [None], ["a"]), evaluation([0.0], [None], ["b"])) == []
    assert changes({}, {"per_structure": None}) == []
