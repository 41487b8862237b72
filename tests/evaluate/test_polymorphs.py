from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from pymatgen.core import Lattice, Structure

from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.crystal.dataset import CrystalDataset
from omatg_ray.crystal.validity import check_validity
from omatg_ray.evaluate.backend import LocalEvaluationBackend
from omatg_ray.evaluate.evaluation import Evaluation
from omatg_ray.evaluate.evaluator import Evaluator
from omatg_ray.evaluate.polymorphs import MOST_POLYMORPHS, Polymorphs
from omatg_ray.model.flow_model import FlowModel
from omatg_ray.model.sampling import Sampling
from omatg_ray.reward.energy import MatGLEnergy
from omatg_ray.reward.matching import Matcher
from omatg_ray.reward.protocol import RewardResult
from tests.evaluate.sodium_chloride import (
    OTHERS,
    POLYMORPHS,
    Prepared,
    caesium_chloride,
    dataset,
    doubled_rock_salt,
    litharge,
    magnesium_oxide,
    nickel_arsenide,
    rattled,
    rock_salt,
    wurtzite,
)

nan = float("nan")
COPIES = (rock_salt(), caesium_chloride(), wurtzite(), litharge(), magnesium_oxide())


class Roomy:
    """An energy that falls with the volume per atom: of two atoms rock salt is the lowest, of four wurtzite."""

    invalid_energy = 3.0
    elements = None
    potential = SimpleNamespace(name="roomy", domain=None)

    def __init__(self) -> None:
        self.weighed = 0

    def __call__(self, crystals: CrystalBatch) -> RewardResult:
        self.weighed += len(crystals)
        validity = check_validity(crystals)
        energy = (-0.1 * validity.volume / crystals.n_atoms).double().where(validity.valid, nan)
        return RewardResult(-energy, {"energy_per_atom": energy})


def evaluated(
    known: CrystalDataset,
    generated: Sequence[Structure],
    energies: bool = True,
    compare: Callable[..., float | None] | None = None,
    **options: Any,
) -> Evaluation:
    reward = cast(MatGLEnergy, Roomy()) if energies else None
    with Matcher(compare=compare) as matcher:
        evaluator = Evaluator(known, LocalEvaluationBackend(matcher, reward), seed=0, **options)
        return evaluator(cast(FlowModel, Prepared(generated)), Sampling(3))


def of_polymorphs(evaluation: Evaluation) -> tuple[float | None, float | None, int | None]:
    metrics = evaluation.metrics
    return metrics.match_any, metrics.match_lowest, metrics.n_polymorphic


# Three cells of one atom, two of two atoms, one of four; then another element in two atoms.
SIZES = [1, 1, 1, 2, 2, 4, 2]
ELEMENTS = [3, 3, 3, 3, 3, 3, 11]


def chains(sizes: Sequence[int], elements: Sequence[int]) -> CrystalBatch:
    species = torch.tensor(elements).repeat_interleave(torch.tensor(sizes))
    cells = 3.0 * torch.eye(3).repeat(len(sizes), 1, 1)
    return CrystalBatch(species, torch.zeros(len(species), 3), cells, torch.tensor(sizes))


@pytest.mark.parametrize(
    ("energy", "expected"),
    [
        ([0.0, -1.0, -0.5, -2.0, -3.0], [1, 1, 1, 4, 4]),
        ([-9.0, -1.0, -0.5, -2.0, -1.0], [0, 0, 0, 3, 3]),
        ([0.0, nan, -0.5, nan, -3.0], [2, 2, 2, 4, 4]),
        ([nan, nan, nan, -2.0, -2.0], [None, None, None, 3, 3]),
    ],
)
def test_the_lowest_is_one_with_the_same_atoms_in_its_cell(energy: list[float], expected: list[int | None]) -> None:
    polymorphs = Polymorphs(chains(SIZES, ELEMENTS), range(7))
    assert polymorphs.of_row == [[0, 1, 2]] * 3 + [[3, 4]] * 2 + [[], []]
    assert polymorphs.n_polymorphic == 5
    assert polymorphs.lowest(dict(enumerate([*energy, -9.0, -9.0]))) == [*expected, None, None]


def test_only_polymorphs_are_the_closest() -> None:
    polymorphs = Polymorphs(chains(SIZES, ELEMENTS), [1, 3, 4, 5, 6])
    closest = polymorphs.closest([{0: 0.2, 1: 0.3, 2: 0.1}, {0: 0.1, 4: 0.4}, {}, {5: 0.0}, {6: 0.0}])
    assert closest == [2, 4, None, None, None]


@pytest.mark.parametrize("distance", [0.05, 0.3])
def test_copies_match_themselves_and_half_are_the_lowest(distance: float) -> None:
    result = evaluated(POLYMORPHS, [rattled(structure, distance) for structure in COPIES])
    assert result.metrics.match_rate == 1.0
    assert of_polymorphs(result) == (1.0, 0.5, 4)
    rows = result.as_dict()["per_structure"]
    assert rows["polymorph"] == ["row 0", "row 1", "row 2", "row 3", None]
    assert rows["lowest_polymorph"] == ["row 0", "row 0", "row 2", "row 2", None]


@pytest.mark.parametrize("block", [1, 3, 256])
def test_other_polymorphs_than_the_reference(block: int) -> None:
    result = evaluated(POLYMORPHS, OTHERS, block=block)
    assert (result.metrics.match_rate, result.metrics.crmse, result.metrics.invalid_share) == (0.0, 0.5, 0.2)
    # Only row 1 is the lowest of its cell; rock salt in row 3 is known, but not in four atoms.
    assert of_polymorphs(result) == (0.75, 0.25, 4)
    written = json.loads(json.dumps(result.as_dict(), allow_nan=False))
    metrics, rows = written["metrics"], written["per_structure"]
    assert rows["polymorph"] == ["row 1", "row 0", "row 3", None, None]
    assert rows["lowest_polymorph"] == ["row 0", "row 0", "row 2", "row 2", None]
    assert rows["rmse"] == [None] * 5
    # Rows 0, 1 and 3 are matched by crystals that were generated for others.
    assert metrics["metre"] == 3 / 5 and rows["reference_recalled"] == [1.0, 1.0, 0.0, 1.0, 0.0]
    # What is written tells the shares.
    named = [
        (found, lowest) for found, lowest in zip(rows["polymorph"], rows["lowest_polymorph"], strict=True) if found
    ]
    assert metrics["match_any"] == len(named) / metrics["n_polymorphic"]
    assert metrics["match_lowest"] == sum(found == lowest for found, lowest in named) / metrics["n_polymorphic"]


@pytest.mark.parametrize("seed", [0, 1])
def test_the_closest_of_two_matches_decides(seed: int) -> None:
    # Rattled or not, each matches both; by the volume wurtzite is lower.
    known = dataset(nickel_arsenide(), wurtzite())
    with Matcher() as matcher:
        rattled_ones = CrystalBatch.from_structures([rattled(nickel_arsenide(), 0.3, seed)] * 2)
        assert matcher.pairs(rattled_ones, known.crystals).rmse.isfinite().all()
    for generated, name, share in ((nickel_arsenide(), "row 0", 0.0), (wurtzite(), "row 1", 1.0)):
        result = evaluated(known, [rattled(generated, 0.3, seed)] * 2)
        assert result.polymorph == [name] * 2
        assert result.metrics.match_rate == 1.0 and of_polymorphs(result) == (1.0, share, 2)


@pytest.mark.parametrize("distance", [0.0, 0.3])
def test_polymorphs_in_smaller_cells_do_not_count(distance: float) -> None:
    known = dataset(rock_salt(), caesium_chloride(), wurtzite())
    copies = [rock_salt(), caesium_chloride(), rattled(doubled_rock_salt(), distance, seed=1)]
    result = evaluated(known, copies)
    assert result.polymorph == ["row 0", "row 1", None] and result.lowest_polymorph == ["row 0", "row 0", None]
    assert of_polymorphs(result) == (1.0, 0.5, 2)


def test_duplicates_are_two_polymorphs() -> None:
    known = dataset(rock_salt(), rock_salt(shift=0.04), rock_salt())
    result = evaluated(known, [rock_salt(shift=0.04), rock_salt(), rock_salt(shift=0.03)])
    assert result.metrics.match_rate == result.metrics.match_any == 1.0 and result.metrics.n_polymorphic == 3
    assert result.polymorph is not None
    assert (result.polymorph[0], result.polymorph[2]) == ("row 1", "row 1")
    assert result.polymorph[1] in ("row 0", "row 2")


def test_every_pair_is_compared_once() -> None:
    compared = []

    def compare(first: Any, second: Any, *tolerances: float) -> float:
        compared.append((first.cell.tobytes(), second.cell.tobytes(), second.species.tobytes()))
        return 0.1

    result = evaluated(POLYMORPHS, COPIES, compare=compare)
    assert len(compared) == len(set(compared)) == 2 * 2 + 2 * 2 + 1
    assert result.metrics.match_rate == 1.0 and result.metrics.rmse == pytest.approx(0.1)


def test_without_a_potential_there_is_no_lowest() -> None:
    result = evaluated(POLYMORPHS, OTHERS, energies=False)
    assert of_polymorphs(result) == (0.75, None, 4)
    assert result.polymorph == ["row 1", "row 0", "row 3", None, None]
    assert "lowest_polymorph" not in result.as_dict()["per_structure"]


def test_without_polymorphs_there_is_nothing_to_say() -> None:
    # Rock salt and wurtzite have no cell in common.
    crystals = [rock_salt(), wurtzite(), magnesium_oxide()]
    result = evaluated(dataset(*crystals), crystals)
    assert result.metrics.match_rate == 1.0
    assert of_polymorphs(result) == (None, None, None)
    assert not {"polymorph", "lowest_polymorph"} & result.as_dict()["per_structure"].keys()


def test_a_limit_leaves_no_polymorph_out() -> None:
    reward = Roomy()
    with Matcher() as matcher:
        backend = LocalEvaluationBackend(matcher, cast(MatGLEnergy, reward))
        evaluator = Evaluator(POLYMORPHS, backend, seed=0, limit=2)  # rows 0 and 2
        result = evaluator(cast(FlowModel, Prepared(OTHERS)), Sampling(3))
        assert result.polymorph == ["row 1", "row 3"] and result.lowest_polymorph == ["row 0", "row 2"]
        assert of_polymorphs(result) == (1.0, 0.0, 2)
        assert reward.weighed == 2 + 2 + 2  # generated, their references, and the polymorphs left out
        evaluator(cast(FlowModel, Prepared(OTHERS)), Sampling(3))
        assert reward.weighed == 2 + 2 + 2 + 2


def lithium(count: int) -> list[Structure]:
    return [Structure(Lattice.cubic(3.0 + 0.01 * i), ["Li"], [[0, 0, 0]]) for i in range(count)]


def test_a_composition_of_too_many_crystals_is_left_out() -> None:
    compared = []

    def compare(first: Any, second: Any, *tolerances: float) -> float | None:
        compared.append(int(first.species[0]))
        return 0.1 if first.species[0] == 3 else None

    many = lithium(MOST_POLYMORPHS + 1)
    result = evaluated(dataset(*many), many, compare=compare)
    assert len(compared) == MOST_POLYMORPHS + 1
    assert result.metrics.match_rate == 1.0 and of_polymorphs(result) == (None, None, None)

    compared.clear()
    everything = [*many, rock_salt(), caesium_chloride()]
    result = evaluated(dataset(*everything), everything, compare=compare)
    assert compared.count(3) == MOST_POLYMORPHS + 1 and compared.count(11) == 2 * 2
    assert of_polymorphs(result) == (0.0, 0.0, 2)
    assert result.polymorph == [None] * len(everything)

    compared.clear()
    result = evaluated(dataset(*many[:-1]), many, compare=compare)
    assert len(compared) == MOST_POLYMORPHS**2
    assert (result.metrics.match_any, result.metrics.n_polymorphic) == (1.0, MOST_POLYMORPHS)
