"""Metrics over valid structures only (SMACT and fingerprints) against the official implementation's numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.evaluate.chemistry import PlausibilityCheck, plausible_matches
from omatg_ray.reward.matching import Matcher, MatchSettings
from tests.parity.test_metrics import CASES, assert_rates, crystals
from tests.reward.best import best_matches

pytestmark = pytest.mark.processes

pytest.importorskip("smact", reason="needs the extra `validity`")
pytest.importorskip("matminer", reason="needs the extra `validity`")


@pytest.fixture(scope="module")
def folder(shared: Path) -> Path:
    return shared / "parity"


@pytest.fixture(scope="module")
def generated(folder: Path) -> CrystalBatch:
    return crystals(folder / "metrics_generated.extxyz")


@pytest.fixture(scope="module")
def reference(folder: Path) -> CrystalBatch:
    return crystals(folder / "metrics_reference.extxyz")


@pytest.fixture(scope="module")
def summary(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "metrics_summary.json").read_text())


@pytest.fixture(scope="module")
def rows(folder: Path) -> list[dict[str, Any]]:
    return json.loads((folder / "metrics_per_structure.json").read_text())["rows"]


@pytest.fixture(scope="module")
def plausible(rows: list[dict[str, Any]]) -> list[Tensor]:
    """Which structures are valid, generated and reference; that they are is a test of its own."""
    return [torch.tensor([row[key] for row in rows]) for key in ("valid", "reference_valid")]


# A fingerprint takes a quarter of a second.
@pytest.mark.parametrize("every", [48, pytest.param(1, marks=pytest.mark.long)])
def test_which_structures_are_valid(
    every: int, generated: CrystalBatch, reference: CrystalBatch, plausible: list[Tensor]
) -> None:
    with PlausibilityCheck(1, 60.0, own_images=False) as check:
        for crystals, expected in zip((generated, reference), plausible, strict=True):
            some = range(0, len(crystals), every)
            checked = check(crystals.select(some))
            assert checked.timed_out == checked.failed == 0
            assert checked.plausible.tolist() == expected[list(some)].tolist()


def test_counts_of_valid_structures(plausible: list[Tensor], summary: dict[str, Any]) -> None:
    ours, theirs = plausible
    assert int(ours.sum()) == summary["counts"]["valid"]
    assert float(ours.double().mean()) == pytest.approx(summary["valid_fraction_generated"], abs=1e-12)
    assert float(theirs.double().mean()) == pytest.approx(summary["valid_fraction_reference"], abs=1e-12)


@pytest.mark.long
@pytest.mark.parametrize(("name", "settings", "reduced"), CASES)
def test_rates_over_valid_structures(
    name: str,
    settings: MatchSettings,
    reduced: bool,
    generated: CrystalBatch,
    reference: CrystalBatch,
    plausible: list[Tensor],
    summary: dict[str, Any],
) -> None:
    ours, theirs = plausible
    with Matcher(0, 60.0, settings, reduced=reduced, own_images=False) as matcher:
        own = matcher.pairs(generated, reference).rmse
        best = best_matches(matcher, generated.select(ours), reference).rmse
    own = plausible_matches(own, ours, theirs)
    assert_rates(own, summary[name]["match"], "match_rate", "valid", settings.stol)
    best = plausible_matches(best, torch.ones_like(theirs), theirs)
    assert_rates(best, summary[name]["metre"], "metre", "valid", settings.stol)


def test_structures_of_the_checkpoint_alone(
    generated: CrystalBatch, reference: CrystalBatch, plausible: list[Tensor], summary: dict[str, Any]
) -> None:
    expected = summary["checkpoint_structures_only"]
    first = range(expected["first"])
    ours, theirs = (one[: len(first)] for one in plausible)
    left, right = generated.select(first), reference.select(first)
    with Matcher(own_images=False) as matcher:
        own = plausible_matches(matcher.pairs(left, right).rmse, ours, theirs)
        best = plausible_matches(best_matches(matcher, left.select(ours), right).rmse, torch.ones_like(theirs), theirs)
    assert_rates(own, expected["match"], "match_rate", "valid", 0.5)
    assert_rates(best, expected["metre"], "metre", "valid", 0.5)


def test_degenerate_cells_end_within_the_time_bound(folder: Path) -> None:
    """The official validation raises an uncaught error, or runs for minutes, on some of these."""
    degenerate = crystals(folder / "metrics_degenerate.extxyz")
    with PlausibilityCheck(1, 2.0, own_images=False) as check:
        checked = check(degenerate)
    # Only row 1 passes the cheap checks; its fingerprint does not come back in time.
    assert not checked.plausible.any()
    assert checked.timed_out + checked.failed == 1
