from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as parquet
import pytest
import torch

from omatg_ray.crystal.dataset import CrystalDataset
from omatg_ray.errors import DataError
from omatg_ray.evaluate.cases import CaseResult, crystals_of_case
from omatg_ray.evaluate.comparison import Comparison
from omatg_ray.evaluate.compositions import ByComposition, interval_dict
from omatg_ray.evaluate.metrics import CSPMetrics
from omatg_ray.report.comparison import same_crystals, write_comparison
from omatg_ray.report.tables import comparison_table
from tests.evaluate.sodium_chloride import caesium_chloride, dataset, magnesium_oxide, nickel_arsenide, rock_salt
from tests.report.test_run import Tables

nan = float("nan")
REFERENCES = dataset(rock_salt(), caesium_chloride(), magnesium_oxide(), nickel_arsenide())
COMPOSITIONS = REFERENCES.compositions


def result(
    name: str, steps: int, rmse: list[float], way: str = "own", relative: list[float] | None = None, samples: int = 1
) -> CaseResult:
    """With these matches, of which the other numbers follow; relative energies are capped by nothing."""
    match = torch.tensor(rmse, dtype=torch.float64)
    rows = {"match_rate": match.isfinite().double(), "rmse": match, "crmse": match.nan_to_num(nan=0.5)}
    per: dict[str, Any] = {
        "id": REFERENCES.ids * samples,
        "formula": REFERENCES.crystals.formulas() * samples,
        "valid": [True] * len(rmse),
        "rmse": [None if value != value else value for value in rmse],
    }
    by_composition = ByComposition.of(COMPOSITIONS)
    if relative is not None:
        energy = torch.tensor(relative, dtype=torch.float64)
        rows["relative_energy_mean_capped"] = energy
        per["relative_energy"] = relative
        by_composition = by_composition.with_medians(energy)
    by_composition = by_composition.with_rows(rows)
    means = {key: float(values[~values.isnan()].mean()) for key, values in rows.items()}
    metrics = CSPMetrics(n=len(rmse), **means, **({"coverage_at": [0.25, 0.5], "coverage": 0.5} if samples > 1 else {}))  # type: ignore[arg-type]
    values = {
        "label": f"{name}, {steps} points" + ("" if way == "own" else f", {way}"),
        "steps": steps,
        "samples": samples,
        "metrics": metrics.as_dict(),
        "intervals": {key: interval_dict(one) for key, one in by_composition.intervals(resamples=200).items()},
        "per_structure": per,
    }
    return CaseResult(f"{name}{steps}{way}", name, steps, way, values, by_composition, 3.0, 0.5)


GOOD, BAD = [0.1, 0.2, 0.3, 0.1], [0.4, nan, 0.45, nan]


@pytest.fixture
def comparison() -> Comparison:
    return Comparison.of(
        [
            result("base", 10, BAD, relative=[1.0, 2.0, 3.0, 4.0]),
            result("base", 50, GOOD, relative=[0.0, 0.5, 0.5, 1.0]),
            result("better", 10, GOOD, relative=[0.0, 0.0, 0.0, 0.0]),
        ]
    )


def test_series_are_told_apart_by_what_differs(comparison: Comparison) -> None:
    assert {name: [one.steps for one in found] for name, found in comparison.series().items()} == {
        "base": [10, 50],
        "better": [10],
    }
    by_way = Comparison.of([result("a", 50, GOOD), result("a", 10, GOOD, "none"), result("a", 5, GOOD)])
    assert {name: [one.steps for one in found] for name, found in by_way.series().items()} == {
        "own": [5, 50],
        "none": [10],
    }
    both = Comparison.of([result("a", 5, GOOD), result("b", 5, GOOD, "none")])
    assert list(both.series()) == ["a, own", "b, none"]
    assert list(both.names()) == ["model", "schedule"]
    assert list(Comparison.of([result("a", 5, GOOD)]).names()) == ["model"]


def test_cases_on_other_references_are_refused() -> None:
    other = result("a", 5, GOOD)
    other = CaseResult(**(vars(other) | {"by_composition": ByComposition.of(["A", "B", "C", "D"])}))
    with pytest.raises(DataError, match="different references"):
        Comparison.of([result("a", 5, GOOD), other])


def test_a_line_for_each_case(comparison: Comparison) -> None:
    lines = comparison_table(comparison).splitlines()
    titles = ["model", "steps", "E", "capped", "match", "rate", "RMSE", "cRMSE", "in", "domain", "n", "s/1000"]
    assert lines[0].split() == titles and lines[4].startswith("E: eV/atom")
    assert lines[2].startswith("base       50") and lines[3].startswith("better     10")
    assert lines[1].split()[:3] == ["base", "10", "+2.500"] and lines[1].split()[-2:] == ["4", "125.0"]
    assert lines[1].split()[-3] == "unknown"
    comparison.results[1].values["in_domain"] = 0.75
    assert comparison_table(comparison).splitlines()[2].split()[-3] == "75.0%"
    found = comparison.results[0].values["intervals"]["match_rate"]
    assert f"0.500 ±{(found['high'] - found['low']) / 2:.3f}" in lines[1]


def test_cases_with_the_same_crystals_are_named() -> None:
    cases = [result("base", 10, GOOD), result("other", 10, BAD), result("run", 10, GOOD)]
    (sentence,) = same_crystals(cases)
    assert sentence.startswith("run, 10 points gave the same crystals as base, 10 points")


def test_what_is_written(comparison: Comparison, tmp_path: Path) -> None:
    report = write_comparison(tmp_path, comparison, REFERENCES, {"data": "a file", "potential": None})
    written = json.loads((tmp_path / "evaluation.json").read_text())
    assert written["about"] == {"data": "a file", "potential": None}
    first, second, third = written["cases"]
    assert (first["model"], first["steps"], first["schedule"]) == ("base", 10, "own")
    assert "per_structure" not in first and first["less_first"] == {}
    assert first["generation_seconds_per_1000"] == 125.0 and first["seconds"] == 3.0
    assert first["metrics"]["crmse"] == pytest.approx((0.4 + 0.5 + 0.45 + 0.5) / 4)
    assert second["less_first"]["crmse"]["mean"] == pytest.approx((0.7 - 1.85) / 4)
    assert third["less_first"]["relative_energy_mean_capped"]["mean"] == pytest.approx(-2.5)
    assert third["less_first"]["relative_energy_mean_capped"]["high"] < 0
    rows = parquet.read_table(tmp_path / "compositions.parquet").to_pylist()
    assert len(rows) == 3 * 2
    assert rows[0] | {"crmse": None} == {
        "model": "base",
        "steps": 10,
        "schedule": "own",
        "composition": "NaCl",
        "references": 3,
        "samples": 1,
        "match_rate": pytest.approx(1 / 3),
        "rmse": pytest.approx(0.4),
        "crmse": None,
        "metre": None,
        "coverage": None,
        "relative_energy_mean": None,
        "relative_energy_mean_capped": pytest.approx(7 / 3),
        "relative_energy_median": 2.0,
        "invalid_share": None,
        "unique_structures": None,
    }
    text = report.read_text()
    cases, differences = Tables(text).tables
    assert cases[0][:3] == ["model", "steps", "relative energy, capped mean"] and len(cases) == 4
    assert cases[1][2].startswith("+2.500\n[") and differences[1][2].startswith("−2.000\n[")
    assert len(differences) == 3
    for title in ("cRMSE", "Match rate", "Relative energies", "RMSE of matches", "10 grid points"):
        assert title in text
    # No crystals were kept, nor are there several samples.
    assert "<h2>Crystals" not in text and "<h2>Coverage" not in text
    assert "http" not in text.replace("http://www.w3.org", "")


@pytest.mark.pictures
def test_a_single_case_with_samples_and_crystals(tmp_path: Path) -> None:
    from omatg_ray.crystal.write import write_structures

    one = result("<b>", 10, GOOD + BAD, relative=[0.0] * 8, samples=2)
    known: CrystalDataset = REFERENCES
    write_structures(crystals_of_case(tmp_path, one.key), known.crystals.to_structures() * 2)
    text = write_comparison(tmp_path, Comparison.of([one]), known).read_text()
    assert "<h2>Crystals" in text and "<h2>Coverage" in text and "RMSE 0.100" in text
    assert "<b>" not in text and "Difference from the first" not in text and "<h2>Against" not in text
    assert "4 references of 2 compositions, 2 samples of each" in text
