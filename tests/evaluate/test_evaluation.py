from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.crystal.dataset import CrystalDataset
from omatg_ray.evaluate.backend import LocalEvaluationBackend
from omatg_ray.evaluate.evaluation import spread_rows
from omatg_ray.evaluate.evaluator import Evaluator
from omatg_ray.model.flow_model import FlowModel
from omatg_ray.model.sampling import Sampling
from omatg_ray.reward.energy import MatGLEnergy
from omatg_ray.reward.matching import Matcher
from omatg_ray.reward.protocol import RewardResult


def dataset(count: int) -> CrystalDataset:
    """Cubic cells of two atoms with lattice constants 4.0, 4.1, ... Å."""
    pos = torch.tensor([[0.0, 0, 0], [0.5, 0.5, 0.5]]).repeat(count, 1)
    cell = (4.0 + 0.1 * torch.arange(count))[:, None, None] * torch.eye(3)
    crystals = CrystalBatch(torch.tensor([11, 17] * count), pos, cell, torch.full((count,), 2))
    return CrystalDataset(crystals, [f"row {i}" for i in range(count)], [{} for _ in range(count)])


class Volume:
    """An energy per atom that equals the lattice constant."""

    invalid_energy = 5.0
    elements = None
    potential = SimpleNamespace(name="volume", domain=None)

    def __call__(self, crystals: CrystalBatch) -> RewardResult:
        constant = crystals.cell[:, 0, 0].double()
        energy = constant.where(constant > 1, torch.nan)
        return RewardResult(-energy, {"energy_per_atom": energy})


class Copyist:
    """Gives back the references of the rows asked for, changed."""

    schedule = None
    generates_species = False
    description = SimpleNamespace(domain=None)

    def __init__(self, crystals: CrystalBatch, change: Any) -> None:
        self.crystals, self.change = crystals, change
        self.asked: list[list[int]] = []

    def generate(self, species: Any, sampling: Any, seed: int, rows: list[int], *_: Any, **__: Any) -> CrystalBatch:
        assert species == [[11, 17]] * len(rows)
        self.asked.append(rows)
        return self.change(self.crystals.select(rows), rows)


def evaluated(references: CrystalDataset, change: Any, block: int = 256) -> Any:
    model = Copyist(references.crystals, change)
    with Matcher() as matcher:
        evaluator = Evaluator(
            references, LocalEvaluationBackend(matcher, cast(MatGLEnergy, Volume())), seed=0, block=block
        )
        return evaluator(cast(FlowModel, model), Sampling(10), label="copy"), model


def test_copies_of_the_references_are_perfect() -> None:
    result, _ = evaluated(dataset(3), lambda crystals, rows: crystals)
    metrics = result.metrics
    assert (metrics.n, metrics.match_rate, metrics.invalid_share, metrics.timed_out) == (3, 1.0, 0.0, 0)
    assert metrics.rmse == pytest.approx(0.0, abs=1e-6)
    assert metrics.relative_energy_mean == metrics.relative_energy_median == 0.0
    assert result.settings["network_evaluations"] == 9


def test_rows_that_collapse_are_counted_and_weighed_at_the_cap() -> None:
    def change(crystals: CrystalBatch, rows: list[int]) -> CrystalBatch:
        cell = crystals.cell.clone()
        cell[0] = 0.1 * torch.eye(3)
        cell[1] = 4.3 * torch.eye(3)
        return crystals.replace(cell=cell)

    result, _ = evaluated(dataset(4), change)
    metrics = result.metrics
    assert metrics.invalid_share == 0.25
    assert metrics.match_rate == 0.75
    assert metrics.crmse == pytest.approx(0.5 / 4, abs=1e-6)
    assert metrics.relative_energy_mean == pytest.approx(0.2 / 3, abs=1e-6)
    # The invalid one counts as 5 eV/atom, 1 above its reference.
    assert metrics.relative_energy_mean_capped == pytest.approx((1.0 + 0.2) / 4, abs=1e-6)
    rows = result.as_dict()["per_structure"]
    assert rows["valid"] == [False, True, True, True]
    assert rows["energy_per_atom"][0] is None and rows["rmse"][0] is None
    assert rows["relative_energy_capped"] == pytest.approx([1.0, 0.2, 0.0, 0.0], abs=1e-6)


def test_rows_keep_their_place_over_several_blocks() -> None:
    references = dataset(5)
    result, model = evaluated(references, lambda crystals, rows: crystals, block=2)
    assert model.asked == [[0, 1], [2, 3], [4]]
    assert torch.equal(result.crystals.cell, references.crystals.cell)
    assert result.relative_energy.tolist() == [0.0] * 5


def test_a_limited_evaluation_keeps_the_rows_of_the_whole() -> None:
    references = dataset(10)
    model = Copyist(references.crystals, lambda crystals, rows: crystals)
    with Matcher() as matcher:
        evaluator = Evaluator(references, LocalEvaluationBackend(matcher, cast(MatGLEnergy, Volume())), seed=0, limit=4)
        result = evaluator(cast(FlowModel, model), Sampling(10))
    assert model.asked == [[0, 2, 5, 7]]
    assert result.ids == ["row 0", "row 2", "row 5", "row 7"]
    assert result.metrics.match_rate == 1.0
    assert spread_rows(3, None) == spread_rows(3, 3) == spread_rows(3, 9) == [0, 1, 2]


def test_crystals_of_generated_species_are_not_matched_with_other_compositions() -> None:
    """Two crystals of rows 0 and 1 are equal KCl; row 2 collapsed; row 3 is a NaCl of another size."""

    class Inventor(Copyist):
        generates_species = True

    def change(crystals: CrystalBatch, rows: list[int]) -> CrystalBatch:
        cell = torch.tensor([6.0, 6.0, 0.1, 4.5])[:, None, None] * torch.eye(3)
        return crystals.replace(cell=cell, species=torch.tensor([19, 17, 19, 17, 19, 17, 17, 11]))

    references = dataset(4)
    model = Inventor(references.crystals, change)
    with Matcher() as matcher:
        evaluator = Evaluator(references, LocalEvaluationBackend(matcher, cast(MatGLEnergy, Volume())), seed=0)
        result = evaluator(cast(FlowModel, model), Sampling(10))
    metrics = result.metrics
    assert {metrics.match_rate, metrics.rmse, metrics.crmse, metrics.match_any, metrics.match_lowest} == {None}
    assert result.polymorph is None and result.lowest_polymorph is None and bool(result.match.isnan().all())
    assert metrics.invalid_share == 0.25 and metrics.unique_share == 0.5 and metrics.same_composition == 1
    assert metrics.energy_mean == pytest.approx((6.0 + 6.0 + 4.5) / 3)
    # Row 3's reference has a lattice constant of 4.3 Å.
    assert result.as_dict()["per_structure"]["relative_energy"] == [None, None, None, pytest.approx(0.2, abs=1e-6)]
    for value in (metrics.relative_energy_mean, metrics.relative_energy_median, metrics.relative_energy_mean_capped):
        assert value == pytest.approx(0.2, abs=1e-6)


class Sampler(Copyist):
    """Copies of the references from one seed, and other crystals from every other seed."""

    def __init__(self, crystals: CrystalBatch) -> None:
        super().__init__(crystals, None)
        self.seeds: list[int] = []

    def generate(self, species: Any, sampling: Any, seed: int, rows: list[int], *_: Any, **__: Any) -> CrystalBatch:
        self.seeds.append(seed)
        crystals = self.crystals.select(rows)
        if seed == 3:
            return crystals
        # All the same, so long that they match nothing known.
        return crystals.replace(cell=torch.diag(torch.tensor([4.0, 4.0, 16.0])).repeat(len(rows), 1, 1))


def sampled(samples: int, block: int = 256) -> tuple[Any, Sampler]:
    references = dataset(4)
    model = Sampler(references.crystals)
    with Matcher() as matcher:
        backend = LocalEvaluationBackend(matcher, cast(MatGLEnergy, Volume()))
        evaluator = Evaluator(references, backend, seed=3, block=block, samples=samples)
        return evaluator(cast(FlowModel, model), Sampling(10)), model


@pytest.mark.parametrize("block", [3, 256])
def test_several_samples(block: int) -> None:
    single, _ = sampled(1)
    result, model = sampled(3, block)
    assert len(set(model.seeds)) == 3 and model.seeds[0] == 3
    assert single.metrics.match_rate == 1.0 and single.metrics.coverage is single.metrics.unique_share is None
    # The first sample is that of an evaluation with one alone.
    assert torch.equal(result.crystals.select(range(4)).pos, single.crystals.pos)
    metrics = result.metrics
    assert metrics.n == 12 and metrics.match_rate == pytest.approx(1 / 3)
    assert metrics.crmse == pytest.approx(0.5 * 2 / 3, abs=1e-6)
    assert metrics.coverage_at == pytest.approx([1 / 3, 2 / 3, 1.0]) and metrics.coverage == 1.0
    assert metrics.metre == 1.0
    # All rows are NaCl, and volumes do not tell crystals apart: there are two, the references and the others.
    assert metrics.unique_structures == 2.0 and metrics.unique_share == pytest.approx(2 / 12)
    rows = result.as_dict()["per_structure"]
    assert rows["id"] == single.ids * 3 and rows["sample"] == [0] * 4 + [1] * 4 + [2] * 4
    assert rows["relative_energy"][:4] == [0.0] * 4
    assert "sample" not in single.as_dict()["per_structure"]


def test_totals_agree_with_the_metrics() -> None:
    def change(crystals: CrystalBatch, rows: list[int]) -> CrystalBatch:
        cell = crystals.cell.clone()
        cell[0] = 0.1 * torch.eye(3)
        cell[1] = 4.3 * torch.eye(3)
        return crystals.replace(cell=cell)

    result, _ = evaluated(dataset(4), change)
    written = result.as_dict()
    assert {
        "match_rate",
        "rmse",
        "crmse",
        "metre",
        "invalid_share",
        "match_any",
        "match_lowest",
    } < result.intervals.keys()
    for name, interval in result.intervals.items():
        assert interval.mean == pytest.approx(getattr(result.metrics, name)), name
        assert written["intervals"][name]["mean"] == interval.mean
    # One composition has no interval.
    assert written["intervals"]["crmse"]["low"] is None


def test_an_evaluation_may_begin_before_the_one_before_is_finished() -> None:
    references = dataset(4)
    model = Copyist(references.crystals, lambda crystals, rows: crystals)
    with Matcher() as matcher:
        evaluator = Evaluator(references, LocalEvaluationBackend(matcher, None), seed=0)
        first, second = (evaluator.start(cast(FlowModel, model), Sampling(steps)) for steps in (10, 20))
        results = [started.finish() for started in (first, second)]
    assert [result.settings["steps"] for result in results] == [10, 20]
    assert all(result.metrics.match_rate == 1.0 and result.generation_seconds <= result.seconds for result in results)
