"""Evaluations of relaxed crystals, against relaxations and comparisons of each by itself."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Lattice, Structure

from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.crystal.read import read_dataset
from omatg_ray.errors import ConfigError
from omatg_ray.evaluate.backend import LocalEvaluationBackend
from omatg_ray.evaluate.cases import (
    Case,
    conditions_of,
    crystals_of_case,
    evaluate_cases,
    other_cases,
    relaxed_of_case,
)
from omatg_ray.evaluate.comparison import Comparison
from omatg_ray.evaluate.evaluation import Evaluation
from omatg_ray.evaluate.evaluator import Evaluator
from omatg_ray.model.flow_model import FlowModel
from omatg_ray.model.sampling import Sampling
from omatg_ray.report.comparison import write_comparison
from omatg_ray.report.tables import comparison_table
from omatg_ray.reward.energy import MatGLEnergy
from omatg_ray.reward.matching import Matcher
from omatg_ray.reward.relax import relax
from tests.evaluate.sodium_chloride import OTHERS, POLYMORPHS, Prepared, rattled, wurtzite
from tests.evaluate.test_cases import small_model

STEPS = 12


def leaning(angle: float) -> Structure:
    """Caesium chloride has 90 degrees, rock salt 60."""
    return Structure(Lattice.rhombohedral(3.75, angle), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])


CRYSTALS = (leaning(110), leaning(105), rattled(wurtzite(), 1.6), *OTHERS[3:])
"""For the rows of `POLYMORPHS`. The first leaves the polymorph that it matches, the second comes to one; the last is
invalid."""


@pytest.fixture(scope="module")
def energy() -> MatGLEnergy:
    return MatGLEnergy("bundled-prototypes")


@pytest.fixture
def backend(energy: MatGLEnergy) -> Iterator[LocalEvaluationBackend]:
    with Matcher() as matcher:
        yield LocalEvaluationBackend(matcher, energy)


def evaluated(backend: LocalEvaluationBackend, relax: int = STEPS, **options: Any) -> Evaluation:
    evaluator = Evaluator(POLYMORPHS, backend, seed=0, relax=relax, **options)
    return evaluator(cast(FlowModel, Prepared(CRYSTALS)), Sampling(3))


def test_relaxed_values_are_those_of_each_crystal_relaxed_by_itself(
    backend: LocalEvaluationBackend, energy: MatGLEnergy
) -> None:
    result = evaluated(backend, block=2)
    # In the same blocks: on some processors others round differently.
    blocks = [POLYMORPHS.crystals.select(rows) for rows in torch.arange(len(POLYMORPHS)).split(2)]
    relaxed, known = result.relaxed, torch.cat([energy(block).values["energy_per_atom"] for block in blocks])
    assert relaxed is not None and result.energy is not None
    # The last is invalid and stays as it is.
    for row in range(4):
        alone = relax(energy.potential, result.crystals.select([row]), STEPS)
        shift = relaxed.crystals.select([row]).pos - alone.crystals.pos
        # Fractional positions of 0 and of 1 are the same.
        torch.testing.assert_close(shift - shift.round(), torch.zeros_like(shift), atol=1e-4, rtol=0)
        weight = alone.energy / alone.crystals.n_atoms
        torch.testing.assert_close(relaxed.energy[[row]], weight, atol=1e-5, rtol=0)
        assert relaxed.steps[row] == alone.steps[0]
    torch.testing.assert_close(relaxed.crystals.select([4]).cell, result.crystals.select([4]).cell.double())
    assert relaxed.energy[4].isnan() and relaxed.steps[4].isnan()
    relative = (relaxed.energy - known).tolist()[:4]
    capped = [*relative, 3.0 - float(known[4])]
    metrics = result.metrics
    assert metrics.relaxed_relative_energy_mean_capped == pytest.approx(np.mean(capped))
    assert metrics.relaxed_relative_energy_median == pytest.approx(np.median(relative))
    assert metrics.relaxed_steps == pytest.approx(float(relaxed.steps[:4].mean()))
    assert relaxed.relative_energy_capped.tolist() == pytest.approx(capped)
    assert bool((relaxed.energy[:4] < result.energy[:4]).all()) and metrics.relaxed_steps > 1


def test_relaxed_matches_are_those_of_the_relaxed_structures(
    backend: LocalEvaluationBackend, energy: MatGLEnergy
) -> None:
    result = evaluated(backend)
    assert result.relaxed is not None
    matcher = StructureMatcher(ltol=0.3, stol=0.5, angle_tol=10.0)
    structures, known = result.relaxed.crystals.to_structures(), POLYMORPHS.crystals.to_structures()

    def distance(row: int, other: int) -> float:
        found = None if row == 4 else matcher.get_rms_dist(structures[row], known[other])
        return math.inf if found is None else found[0]

    own = [distance(row, row) for row in range(5)]
    pairs = {0: (0, 1), 1: (0, 1), 2: (2, 3), 3: (2, 3)}
    weights = energy(POLYMORPHS.crystals).values["energy_per_atom"].tolist()
    closest = {row: min(rows, key=lambda other: distance(row, other)) for row, rows in pairs.items()}
    any_one = [min(distance(row, other) for other in rows) < math.inf for row, rows in pairs.items()]
    lowest = [closest[row] == min(rows, key=weights.__getitem__) for row, rows in pairs.items()]
    metrics = result.metrics
    assert result.relaxed.match.nan_to_num(nan=math.inf).tolist() == pytest.approx(own, abs=1e-5)
    assert metrics.relaxed_match_rate == np.mean([value < math.inf for value in own])
    assert metrics.relaxed_match_any == np.mean(any_one)
    assert metrics.relaxed_match_lowest == np.mean(np.logical_and(any_one, lowest))
    names = [f"row {closest[row]}" if any_one[row] else None for row in range(4)]
    assert result.relaxed.polymorph == [*names, None]
    assert result.polymorph is not None
    assert (result.polymorph[:2], result.relaxed.polymorph[:2]) == (["row 0", None], [None, "row 1"])


def test_what_is_measured_without_a_relaxation_stays_bit_for_bit(backend: LocalEvaluationBackend) -> None:
    plain, result = evaluated(backend, 0, samples=2), evaluated(backend, samples=2)
    assert plain.relaxed is plain.processor_seconds is None
    assert result.processor_seconds is not None and result.processor_seconds > 0
    before, after = plain.as_dict(), result.as_dict()
    assert "relax" not in json.dumps(before)
    assert after.pop("relax") == STEPS
    for part in ("metrics", "intervals", "per_structure"):
        found = {key for key in after[part] if key.startswith("relaxed_")}
        assert {"relaxed_steps"} < found
        for key in found:
            after[part].pop(key)
    assert json.dumps(after) == json.dumps(before)
    # Both samples are the same crystals.
    assert result.metrics.relaxed_coverage == result.metrics.relaxed_match_rate
    for name, interval in result.intervals.items():
        assert interval.mean == pytest.approx(getattr(result.metrics, name, interval.mean), nan_ok=True), name
    assert set(result.intervals) - set(plain.intervals) == {
        *("relaxed_relative_energy_mean_capped", "relaxed_match_rate", "relaxed_match_any", "relaxed_match_lowest"),
        *("relaxed_coverage", "relaxed_steps"),
    }


def test_crystals_that_cannot_be_relaxed_have_failed(
    backend: LocalEvaluationBackend, energy: MatGLEnergy, monkeypatch: pytest.MonkeyPatch
) -> None:
    gradients = energy.potential.gradients

    def failing(crystals: CrystalBatch, *given: Any, **options: Any) -> Any:
        if 4 in crystals.n_atoms.tolist():
            raise RuntimeError("out of memory")
        return gradients(crystals, *given, **options)

    monkeypatch.setattr(energy.potential, "gradients", failing)
    result = evaluated(backend)
    relaxed = result.relaxed
    assert relaxed is not None
    assert relaxed.energy.isnan().tolist() == [False, False, True, True, True]
    assert relaxed.relative_energy_capped.isnan().tolist() == [False, False, True, True, False]
    assert torch.equal(relaxed.crystals.select([2, 3]).pos, result.crystals.select([2, 3]).pos.double())
    assert relaxed.match[2:].isnan().tolist() == result.match[2:].isnan().tolist()
    assert result.intervals["relaxed_relative_energy_mean_capped"].n == 3


def test_generated_species_are_relaxed_and_not_matched(backend: LocalEvaluationBackend) -> None:
    class Inventor(Prepared):
        generates_species = True

    evaluator = Evaluator(POLYMORPHS, backend, seed=0, relax=2)
    metrics = evaluator(cast(FlowModel, Inventor(CRYSTALS)), Sampling(3)).metrics
    assert metrics.relaxed_match_rate is metrics.relaxed_match_any is None
    assert metrics.energy_mean is not None and metrics.relaxed_energy_mean is not None
    assert metrics.relaxed_energy_mean < metrics.energy_mean
    assert metrics.relaxed_relative_energy_mean_capped is not None


def test_relaxing_needs_a_potential_and_steps() -> None:
    with Matcher() as matcher:
        backend = LocalEvaluationBackend(matcher, None)
        with pytest.raises(ConfigError, match=r"relax: there is no potential .*--potential"):
            Evaluator(POLYMORPHS, backend, seed=0, relax=1)
        with pytest.raises(ConfigError, match="relax: -1 is no number of steps"):
            Evaluator(POLYMORPHS, backend, seed=0, relax=-1)


def test_cases_with_other_numbers_of_steps_are_others(
    backend: LocalEvaluationBackend, energy: MatGLEnergy, tmp_path: Path
) -> None:
    small = POLYMORPHS.select([0, 1])

    def evaluator(relax: int) -> Evaluator:
        return Evaluator(small, backend, seed=0, relax=relax)

    case = Case(small_model(), Sampling(3), "small")
    results = {relax: evaluate_cases([case], evaluator(relax), tmp_path)[0] for relax in (0, 1, 2)}
    assert len({result.key for result in results.values()}) == 3
    conditions = conditions_of(evaluator(2))
    assert [one.key for one in other_cases(tmp_path, conditions, [])] == [results[2].key]
    (again,) = evaluate_cases([case], evaluator(2), tmp_path)
    assert again.evaluation is None and again.processor_seconds == results[2].processor_seconds
    assert again.values == json.loads(json.dumps(results[2].values))
    assert not relaxed_of_case(tmp_path, results[0].key).exists()
    # The files hold the crystals as relaxed: they have the energies that are reported of them.
    saved, generated = (
        read_dataset(of(tmp_path, again.key), allow_overlaps=True) for of in (relaxed_of_case, crystals_of_case)
    )
    rows = again.values["per_structure"]
    weights = [row["energy_per_atom"] for row in saved.properties]
    assert [float(value) for value in weights] == pytest.approx(rows["relaxed_energy_per_atom"])
    measured = energy(saved.crystals).values["energy_per_atom"].tolist()
    assert measured == pytest.approx(rows["relaxed_energy_per_atom"], abs=1e-4)
    assert saved.ids == generated.ids == small.ids
    # Without its relaxed crystals a case is evaluated anew.
    relaxed_of_case(tmp_path, again.key).unlink()
    (anew,) = evaluate_cases([case], evaluator(2), tmp_path)
    assert anew.evaluation is not None and anew.values == results[2].values

    comparison = Comparison.of([anew])
    assert comparison.as_dict()["cases"][0]["processor_seconds_per_sample"] == pytest.approx(
        cast(float, anew.processor_seconds) / 2
    )
    first, second = comparison_table(comparison).splitlines()[1:3]
    assert first.startswith("small ") and second.startswith("  relaxed, ")
    report = write_comparison(tmp_path, comparison, small).read_text()
    assert "relaxed: match rate" in report and "Relative energies after relaxation" in report
