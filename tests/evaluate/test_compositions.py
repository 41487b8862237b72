from __future__ import annotations

import json
import math
from itertools import combinations

import pytest
import torch
from torch import tensor

from omatg_ray.errors import DataError
from omatg_ray.evaluate import compositions
from omatg_ray.evaluate.compositions import ByComposition, covered
from omatg_ray.evaluate.metrics import mean_interval

nan = float("nan")


@pytest.mark.parametrize("samples", [1, 2, 5])
def test_coverage_is_the_mean_over_all_choices_of_samples(samples: int) -> None:
    for hits in range(samples + 1):
        matched = [place < hits for place in range(samples)]
        for k in range(1, samples + 1):
            choices = [any(matched[place] for place in chosen) for chosen in combinations(range(samples), k)]
            expected = sum(choices) / len(choices)
            assert covered(tensor([hits]), samples, k).tolist() == pytest.approx([expected])


def test_coverage_with_many_samples() -> None:
    assert covered(tensor([0, 1, 1000]), 1000, 500).tolist() == pytest.approx([0.0, 0.5, 1.0])


def test_means_are_over_rows_and_leave_out_what_is_missing() -> None:
    found = ByComposition.of(["A", "B", "A"]).with_rows({"x": tensor([1.0, 2.0, nan, 3.0, 4.0, 5.0])})
    assert (found.names, found.place, found.references) == (["A", "B"], [0, 1, 0], [2, 1])
    assert found.means("x") == [(1 + 3 + 5) / 3, (2 + 4) / 2]
    assert found.means("y") == [None, None]
    interval = found.intervals()["x"]
    assert (interval.mean, interval.n) == (3.0, 5)
    # Of two compositions, each resample has one twice or both.
    assert (interval.low, interval.high) == (3.0, 3.0)
    assert ByComposition.of(["A"]).with_rows({"x": tensor([nan])}).means("x") == [None]


def test_medians() -> None:
    found = ByComposition.of(["A", "B", "A"]).with_medians(tensor([1.0, nan, 3.0, 5.0, nan, nan])).medians
    assert found[0] == 3.0 and math.isnan(found[1])


def test_interval_of_a_share_is_binomial() -> None:
    # As for `mean_interval`: binomial(100, 0.4) / 100 has the percentiles 0.31 and 0.50.
    rows = {"hits": (torch.arange(100) < 40).double()}
    found = ByComposition.of([str(row) for row in range(100)]).with_rows(rows)
    interval = found.intervals(resamples=20_000, seed=3)["hits"]
    assert interval.mean == pytest.approx(0.4)
    assert interval.low == pytest.approx(0.31, abs=0.011) and interval.high == pytest.approx(0.50, abs=0.011)


def test_rows_of_one_composition_are_drawn_together() -> None:
    """Rows that repeat what is known of their composition say nothing new."""
    values = torch.randn(50, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    names = [str(row) for row in range(50)]
    once = ByComposition.of(names).with_rows({"x": values}).intervals()["x"]
    often = ByComposition.of(names * 9).with_rows({"x": values.repeat(9)}).intervals()["x"]
    assert (often.low, often.high) == (pytest.approx(once.low), pytest.approx(once.high))
    apart = mean_interval(values.repeat(9))
    assert once.high - once.low > 2.5 * (apart.high - apart.low)


def test_parts_of_the_bootstrap_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    found = ByComposition.of([str(row) for row in range(7)]).with_rows({"x": torch.arange(7.0)})
    whole = found.intervals(resamples=300)
    monkeypatch.setattr(compositions, "BOOTSTRAP_ENTRIES_AT_ONCE", 50)
    assert found.intervals(resamples=300) == whole
    assert found.intervals(resamples=300, seed=1) != whole


def test_too_few_compositions_have_no_limits() -> None:
    found = ByComposition.of(["A", "B"]).with_rows({"x": tensor([1.0, nan]), "none": tensor([nan, nan])}).intervals()
    assert found["x"].mean == 1.0 and math.isnan(found["x"].low) and math.isnan(found["x"].high)
    assert math.isnan(found["none"].mean) and found["none"].n == 0
    assert ByComposition.of([]).intervals() == {}


def test_what_both_have_in_common_cancels() -> None:
    generator = torch.Generator().manual_seed(1)
    hardness = 10 * torch.randn(40, dtype=torch.float64, generator=generator)
    names = [str(row // 2) for row in range(40)]
    first, second = (ByComposition.of(names).with_rows({"x": hardness + shift}) for shift in (0.0, 0.25))
    found = second.differences(first)["x"]
    assert (found.mean, found.low, found.high) == tuple([pytest.approx(0.25)] * 3)
    assert found.n == 40
    same = first.differences(first)["x"]
    assert (same.mean, same.low, same.high) == (0.0, 0.0, 0.0)


def test_differences_are_those_of_the_table() -> None:
    """Where the two have values in different rows, the difference of the means, not the mean of differences."""
    first = ByComposition.of(["A", "B", "C"]).with_rows({"x": tensor([1.0, nan, 3.0]), "old": tensor([1.0, 1.0, 1.0])})
    second = ByComposition.of(["A", "B", "C"]).with_rows({"x": tensor([nan, 5.0, 7.0])})
    found = second.differences(first)
    assert list(found) == ["x"] and found["x"].mean == pytest.approx(6.0 - 2.0)
    with pytest.raises(DataError, match="different references"):
        second.differences(ByComposition.of(["A", "B", "D"]))


def test_json_and_back() -> None:
    found = ByComposition.of(["A", "B", "A"]).with_rows({"x": tensor([0.1, nan, 0.3]).double()})
    found = found.with_medians(tensor([0.1, nan, 0.3]).double())
    written = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    read = ByComposition.from_dict(written)
    assert read.as_dict() == found.as_dict() and read.intervals() == found.intervals()
    written["totals"]["x"]["sums"].pop()
    with pytest.raises(ValueError, match="do not fit 2 compositions"):
        ByComposition.from_dict(written)
