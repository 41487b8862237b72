from __future__ import annotations

import math
import warnings

import pytest
import torch

from omatg_ray.rl.divergence import CORRELATION, SHIFT, DivergenceWatch, rank_correlation

NAN = math.nan


def rows(*groups: list[float]) -> torch.Tensor:
    return torch.tensor(groups, dtype=torch.float64)


def test_spearman_within_groups() -> None:
    """1 - 6 Σ d² / (n (n² - 1)), whatever the energies of the groups are."""
    first = rows([1.0, 2.0, 3.0, 4.0, 5.0], [-10.0, -9.0, -8.0, -7.0, -6.0])
    second = rows([10.0, 30.0, 20.0, 40.0, 50.0], [5.0, 4.0, 3.0, 2.0, 1.0])
    assert rank_correlation(first, second) == pytest.approx(((1 - 6 * 2 / 120) + -1.0) / 2)


def test_groups_that_say_nothing_are_left_out() -> None:
    first = rows([1.0, 2.0, 3.0, 4.0, NAN], [1.0, 2.0, 3.0, NAN, NAN], [2.0] * 5)
    second = rows([4.0, 3.0, 2.0, 1.0, 0.0], [1.0, 2.0, 3.0, 4.0, 5.0], [1.0, 2.0, 3.0, 4.0, 5.0])
    assert rank_correlation(first, second) == pytest.approx(-1.0)
    assert math.isnan(rank_correlation(first[1:], second[1:]))


def said(watch: DivergenceWatch, iteration: int, correlation: float, shift: float) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        watch(iteration, {CORRELATION: correlation, SHIFT: shift})
    return [str(one.message) for one in caught]


def test_a_rise_of_the_shift_is_told_once_until_it_falls_again() -> None:
    watch = DivergenceWatch()
    assert said(watch, 1, 0.9, 0.3) == said(watch, 2, 0.9, 0.35) == []
    (text,) = said(watch, 3, 0.9, 0.45)
    assert "iteration 3" in text and "0.15 eV/atom more" in text and "correlate" not in text
    assert said(watch, 4, 0.9, 0.6) == said(watch, 5, 0.9, 0.2) == []
    assert len(said(watch, 6, 0.9, 0.5)) == 1


def test_ranks_that_disagree_are_told() -> None:
    (text,) = said(DivergenceWatch(), 1, 0.4, 0.0)
    assert "correlate by only 0.40" in text


def test_a_run_that_goes_on_keeps_its_first_shift() -> None:
    assert len(said(DivergenceWatch(0.0), 8, 0.9, 0.2)) == 1
    assert said(DivergenceWatch(None), 8, 0.9, 0.2) == []


def test_without_a_second_potential_nothing_is_said() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        DivergenceWatch()(1, {"reward_mean": 1.0})
        DivergenceWatch()(1, {CORRELATION: NAN, SHIFT: NAN})
