from __future__ import annotations

import json
import math

import pytest
import torch
from torch import Tensor, tensor

from omatg_ray.errors import DataError
from omatg_ray.evaluate import metrics
from omatg_ray.evaluate.metrics import CSPMetrics, mean_interval, paired_interval

nan, inf = float("nan"), float("inf")


def matches_of(values: list[float], stol: float = 0.5) -> dict[str, float]:
    rows = metrics.match_rows(tensor(values, dtype=torch.float64), stol)
    return {name: metrics.mean(row) for name, row in rows.items()}


def energies_of(energy: Tensor, reference: Tensor, valid: Tensor) -> dict[str, float]:
    rows = metrics.energy_rows(energy, reference, valid, cap=3.0)
    means = {name: metrics.mean(row) for name, row in rows.items()}
    return means | metrics.energy_quantiles(rows["relative_energy_mean"])


def test_matches() -> None:
    crmse = (0.1 + 0.5 + 0.3 + 0.5 + 0.2) / 5
    assert matches_of([0.1, nan, 0.3, nan, 0.2]) == pytest.approx({"match_rate": 0.6, "rmse": 0.2, "crmse": crmse})
    none = matches_of([nan, nan], 0.3)
    assert (none["match_rate"], none["crmse"]) == (0.0, pytest.approx(0.3))
    assert math.isnan(none["rmse"])
    assert all(math.isnan(value) for value in matches_of([]).values())


def test_relative_energies() -> None:
    energy = tensor([-1.0, -2.0, nan, 500.0, nan])
    reference = tensor([-1.5, -2.0, -4.0, -1.0, -3.0])
    valid = tensor([True, True, False, True, True])  # the last energy is one that the potential could not give
    found = energies_of(energy, reference, valid)
    assert found["relative_energy_mean"] == pytest.approx((0.5 + 0.0 + 501.0) / 3)
    assert found["relative_energy_median"] == pytest.approx(0.5)
    # Row 2 is invalid and row 3 above the cap: both count as 3 eV/atom, before the reference is taken off.
    assert found["relative_energy_mean_capped"] == pytest.approx((0.5 + 0.0 + 7.0 + 4.0) / 4)


def test_median_of_an_even_number_is_the_middle() -> None:
    zero, valid = torch.zeros(4), torch.ones(4, dtype=torch.bool)
    found = energies_of(tensor([1.0, 2.0, 3.0, 10.0]), zero, valid)
    assert found["relative_energy_median"] == pytest.approx(2.5)


def test_quantiles_are_of_the_valid_and_interpolated() -> None:
    energy, reference = tensor([0.0, 1.0, 2.0, 3.0, 4.0, 900.0]), torch.zeros(6)
    valid = tensor([True] * 5 + [False])
    # A tenth of the way from the first to the fifth of five lies at 0.4.
    found = energies_of(energy, reference, valid)
    assert (found["relative_energy_q10"], found["relative_energy_q90"]) == (pytest.approx(0.4), pytest.approx(3.6))
    assert math.isnan(energies_of(energy, reference, ~valid & valid)["relative_energy_q90"])


def test_becoming_invalid_never_lowers_the_capped_mean() -> None:
    energy, reference = torch.randn(20) * 5, torch.randn(20)
    all_valid = torch.ones(20, dtype=torch.bool)
    before = energies_of(energy, reference, all_valid)["relative_energy_mean_capped"]
    for row in range(20):
        fewer = all_valid.clone()
        fewer[row] = False
        assert energies_of(energy, reference, fewer)["relative_energy_mean_capped"] >= before


def test_no_valid_crystal() -> None:
    found = energies_of(tensor([nan, nan]), tensor([-1.0, -2.0]), tensor([False, False]))
    assert math.isnan(found["relative_energy_mean"])
    assert math.isnan(found["relative_energy_median"])
    assert found["relative_energy_mean_capped"] == pytest.approx(4.5)


def test_as_dict_is_json() -> None:
    out = CSPMetrics(n=3, match_rate=0.5, rmse=nan, relative_energy_mean=inf, timed_out=0).as_dict()
    assert list(out) == [
        "n", "match_rate", "match_any", "match_lowest", "n_polymorphic", "metre", "coverage", "coverage_at", "rmse",
        "crmse", "relative_energy_mean", "relative_energy_median", "relative_energy_q10", "relative_energy_q90",
        "relative_energy_mean_capped", "invalid_share", "plausible_share", "plausible_match_rate", "plausible_rmse",
        "plausible_crmse", "same_composition", "energy_mean", "unique_share", "unique_structures",
        "timed_out", "failed",
    ]  # fmt: skip
    assert json.loads(json.dumps(out, allow_nan=False)) == out
    assert (out["n"], out["match_rate"], out["timed_out"]) == (3, 0.5, 0)
    assert out["rmse"] is out["relative_energy_mean"] is out["crmse"] is None


def test_columns_that_no_row_has_are_left_out() -> None:
    rows = [CSPMetrics(n=3, match_rate=0.5, rmse=nan), CSPMetrics(n=3, match_rate=0.0, match_any=0.0)]
    assert list(metrics.measured_columns(row.as_dict() for row in rows)) == ["match_rate", "match_any", "n"]
    assert metrics.measured_columns([]) == metrics.measured_columns([{}]) == {}
    assert list(metrics.measured_columns([{"n": 1, "metre": 0.5}])) == ["n"]
    assert list(metrics.measured_columns([{"n": 1, "metre": 0.5}], details=True)) == ["metre", "n"]


def test_robust_figures_lead_and_the_plain_mean_comes_last() -> None:
    columns = list(metrics.COLUMNS)
    assert columns[:4] == ["relative_energy_mean_capped", "relative_energy_median", "invalid_share", "match_rate"]
    assert columns[-1] == "relative_energy_mean"
    counts = {"timed_out", "failed", "coverage_at", "relaxed_timed_out", "relaxed_failed"}
    assert set(columns) == CSPMetrics(n=0, relaxed_steps=0.0).as_dict().keys() - counts


def test_metrics_of_relaxed_crystals_are_there_where_some_were_relaxed() -> None:
    assert not any(metrics.is_relaxed(name) for name in CSPMetrics(n=1).as_dict())
    none_could_be = CSPMetrics(n=1, relaxed_steps=nan, relaxed_match_rate=0.0).as_dict()
    assert metrics.was_relaxed(none_could_be) and none_could_be["relaxed_steps"] is None
    assert metrics.after_relaxation({"match_rate": 1, "metre": 2}) == {"relaxed_match_rate": 1}


def test_t_interval_in_closed_form() -> None:
    # n = 3, mean 2, standard deviation 1, t(0.975, 2) = 4.302653 (table).
    interval = mean_interval(tensor([1.0, 2.0, 3.0, nan]), method="t")
    half = 4.302653 / math.sqrt(3)
    assert (interval.n, interval.mean) == (3, pytest.approx(2.0))
    assert (interval.low, interval.high) == (pytest.approx(2.0 - half, abs=1e-5), pytest.approx(2.0 + half, abs=1e-5))


def test_bootstrap_interval_of_a_share_is_binomial() -> None:
    # Resampled means of 40 of 100 ones are binomial(100, 0.4) / 100, whose 2.5 and 97.5 percentiles are 0.31 and 0.50.
    hits = torch.arange(100) < 40
    interval = mean_interval(hits, resamples=20_000, seed=3)
    assert interval.mean == pytest.approx(0.4)
    assert interval.low == pytest.approx(0.31, abs=0.011) and interval.high == pytest.approx(0.50, abs=0.011)


def test_bootstrap_is_reproducible_and_does_not_depend_on_its_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    values = torch.randn(50)
    one = mean_interval(values, seed=1, resamples=500)
    assert one == mean_interval(values, seed=1, resamples=500)
    assert one != mean_interval(values, seed=2, resamples=500)
    monkeypatch.setattr(metrics, "BOOTSTRAP_ENTRIES_AT_ONCE", 7 * 50)
    assert one == mean_interval(values, seed=1, resamples=500)


@pytest.mark.parametrize("method", ["bootstrap", "t"])
def test_wider_confidence_is_a_wider_interval(method: str) -> None:
    values = torch.randn(30)
    narrow = mean_interval(values, method=method, confidence=0.5)  # type: ignore[arg-type]
    wide = mean_interval(values, method=method, confidence=0.99)  # type: ignore[arg-type]
    assert wide.low < narrow.low < narrow.mean < narrow.high < wide.high


def test_pairing_takes_out_what_rows_share() -> None:
    hardness, gain = 10 * torch.randn(200, dtype=torch.float64), 0.1 * torch.randn(200, dtype=torch.float64)
    paired = paired_interval(hardness + 1.0 + gain, hardness)
    assert paired.low < 1.0 + gain.mean() < paired.high
    assert paired.low > 0.9 and paired.high < 1.1
    alone = mean_interval(hardness + 1.0 + gain)
    assert alone.high - alone.low > 10 * (paired.high - paired.low)


def test_pairs_that_lack_a_side_are_left_out() -> None:
    interval = paired_interval(tensor([1.0, nan, 3.0, 9.0]), tensor([0.5, 1.0, nan, 8.0]), method="t")
    assert (interval.n, interval.mean) == (2, pytest.approx(0.75))


def test_too_few_rows_have_no_limits() -> None:
    interval = mean_interval(tensor([2.0]))
    assert interval.mean == 2.0 and math.isnan(interval.low) and math.isnan(interval.high)
    assert math.isnan(mean_interval(tensor([nan])).mean)


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(DataError, match="paired"):
        paired_interval(torch.zeros(3), torch.zeros(4))
    with pytest.raises(DataError, match="one value per row"):
        mean_interval(torch.zeros(3, 2))
