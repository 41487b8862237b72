"""Chemical plausibility: known chemistry, rates over plausible rows, and what happens without the packages."""

from __future__ import annotations

import importlib.util
import math

import pytest
import torch
from pymatgen.core import Lattice, Structure

from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.errors import ConfigError
from omatg_ray.evaluate import chemistry
from omatg_ray.evaluate.chemistry import PlausibilityCheck, plausible_matches, with_plausibility
from omatg_ray.evaluate.compositions import ByComposition
from omatg_ray.evaluate.evaluation import Evaluation
from omatg_ray.evaluate.metrics import CSPMetrics
from tests.evaluate.sodium_chloride import caesium_chloride, rock_salt

needs_packages = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in chemistry.PACKAGES), reason="needs the extra `validity`"
)


@needs_packages
def test_known_chemistry() -> None:
    chlorine = [[0.5, 0.5, 0.5], [0.5, 0.5, 0.0], [0.5, 0.0, 0.5], [0.0, 0.5, 0.5]]
    crystals = [
        rock_salt(),
        caesium_chloride(),
        Structure(Lattice.cubic(6.0), ["Na", *["Cl"] * 4], [[0.0, 0.0, 0.0], *chlorine]),  # no neutral NaCl4
        Structure(Lattice.cubic(3.6), ["Cu", "Au"], [[0.0, 0.0, 0.0], [0.5, 0.5, 0.5]]),  # an alloy
        Structure(Lattice.cubic(4.0), ["Na", "Cl"], [[0.0, 0.0, 0.0], [0.0, 0.0, 0.1]]),  # atoms 0.4 Å apart
        Structure(Lattice.cubic(0.2), ["Na"], [[0.0, 0.0, 0.0]]),  # no volume
    ]
    with PlausibilityCheck(0, 60.0) as check:
        found = check(CrystalBatch.from_structures(crystals))
    assert found.plausible.tolist() == [True, True, False, True, False, False]
    assert found.timed_out == found.failed == 0


def fails(*_: object) -> bool:
    raise RuntimeError("QhullError is one")


@needs_packages
def test_unexpected_errors_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    from omatg_ray.evaluate import chemistry_tasks

    monkeypatch.setattr(chemistry_tasks, "is_plausible", fails)
    with PlausibilityCheck(0, 60.0) as check:
        found = check(CrystalBatch.from_structures([rock_salt(), rock_salt()]))
    assert not found.plausible.any()
    assert (found.timed_out, found.failed) == (0, 2)


def test_a_match_counts_if_both_are_plausible() -> None:
    matches = torch.tensor([0.1, 0.2, 0.3, math.nan], dtype=torch.float64)
    ours, theirs = torch.tensor([True, False, True, True]), torch.tensor([True, True, False, True])
    expected = torch.tensor([0.1, math.nan, math.nan, math.nan], dtype=torch.float64)
    torch.testing.assert_close(plausible_matches(matches, ours, theirs), expected, equal_nan=True)


@needs_packages
def test_metrics_of_an_evaluation() -> None:
    sodium_chlorides = CrystalBatch.from_structures([rock_salt(), rock_salt()])
    chlorine = [[0.5, 0.5, 0.5], [0.5, 0.5, 0.0], [0.5, 0.0, 0.5], [0.0, 0.5, 0.5]]
    charged = Structure(Lattice.cubic(6.0), ["Na", *["Cl"] * 4], [[0.0, 0.0, 0.0], *chlorine])
    references = CrystalBatch.from_structures([rock_salt(), charged])
    match = torch.tensor([0.1, 0.2], dtype=torch.float64)

    def evaluation(metrics: CSPMetrics, samples: int = 1) -> Evaluation:
        return Evaluation(
            metrics=metrics,
            ids=["a", "b"] * samples,
            crystals=CrystalBatch.cat([sodium_chlorides] * samples),
            valid=torch.ones(2 * samples, dtype=torch.bool),
            match=match.repeat(samples),
            polymorph=None,
            lowest_polymorph=None,
            energy=None,
            relative_energy=None,
            relative_energy_capped=None,
            settings={"samples": samples},
            by_composition=ByComposition.of(["NaCl", "NaCl4"]),
            seconds=0.0,
            generation_seconds=0.0,
            domain=["unknown", "unknown"] * samples,
        )

    with PlausibilityCheck(0, 60.0) as check:
        matched = with_plausibility(evaluation(CSPMetrics(n=2, match_rate=1.0)), references, check, stol=0.5)
        unmatched = with_plausibility(evaluation(CSPMetrics(n=2)), references, check, stol=0.5)
        twice = with_plausibility(evaluation(CSPMetrics(n=4, match_rate=1.0), 2), references, check, stol=0.5)
    assert unmatched.metrics == CSPMetrics(n=2, plausible_share=1.0)
    for found in (matched.metrics, twice.metrics):
        assert (found.plausible_share, found.plausible_match_rate) == (1.0, 0.5)
        assert found.plausible_rmse == pytest.approx(0.1)
        assert found.plausible_crmse == pytest.approx((0.1 + 0.5) / 2)
    assert twice.by_composition.means("plausible_match_rate") == [1.0, 0.0]


def test_without_the_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chemistry, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"needs smact and matminer: pip install .*'omatg-ray\[validity\]'"):
        PlausibilityCheck()
