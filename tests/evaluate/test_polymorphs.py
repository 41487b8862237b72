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
from omatg_ray.evaluate.bench import LocalBench
from omatg_ray.evaluate.evaluation import Evaluation, Evaluator
from omatg_ray.evaluate.matching import Matcher
from omatg_ray.evaluate.polymorphs import MOST_POLYMORPHS, Polymorphs
from omatg_ray.model import FlowModel
from omatg_ray.reward.energy import MatGLEnergy
from omatg_ray.reward.protocol import RewardResult
from omatg_ray.reward.validity import check_validity
from tests.evaluate.sodium_chloride import (
    OTHERS,
    POLYMORPHS,
    Prepared,
    caesium_chloride,
    dataset,
    magnesium_oxide,
    rattled,
    rock_salt,
    wurtzite,
)

nan = float("nan")
COPIES = (rock_salt(), caesium_chloride(), wurtzite(), magnesium_oxide())


class Roomy:
    """An energy that falls with the volume per atom: of the polymorphs wurtzite is lowest, then rock salt."""

    invalid_energy = 3.0
    potential = SimpleNamespace(name="roomy")

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
        evaluator = Evaluator(known, LocalBench(matcher, reward), seed=0, **options)
        return evaluator(cast(FlowModel, Prepared(generated)), steps=3)


def of_polymorphs(evaluation: Evaluation) -> tuple[float | None, float | None, int | None]:
    metrics = evaluation.metrics
    return metrics.match_any, metrics.match_lowest, metrics.n_polymorphic


# Cells of 1, 2, 3, 4 and 6 atoms of one element, as if each were primitive; then another element.
SIZES = [1, 2, 3, 4, 6, 2]


def chains(sizes: Sequence[int], elements: Sequence[int]) -> CrystalBatch:
    species = torch.tensor(elements).repeat_interleave(torch.tensor(sizes))
    cells = 3.0 * torch.eye(3).repeat(len(sizes), 1, 1)
    return CrystalBatch(species, torch.zeros(len(species), 3), cells, torch.tensor(sizes))


@pytest.mark.parametrize(
    ("energy", "expected"),
    [
        # A cell of 1 holds only itself, of 2: 1 and 2, of 3: 1 and 3, of 4: 1, 2 and 4, of 6: all but 4.
        ([0.0, -1.0, -2.0, -3.0, -2.5], [None, 1, 2, 3, 4]),
        ([-9.0, -1.0, -2.0, -3.0, -2.5], [None, 0, 0, 0, 0]),
        ([0.0, -1.0, -2.0, -9.0, -1.5], [None, 1, 2, 3, 2]),
        ([nan, -1.0, -2.0, -3.0, -2.5], [None, None, None, 3, 4]),
        ([0.0, -1.0, -2.0, nan, -2.5], [None, 1, 2, 1, 4]),
    ],
)
def test_the_lowest_is_one_that_the_cell_can_hold(energy: list[float], expected: list[int | None]) -> None:
    polymorphs = Polymorphs(chains(SIZES, [3, 3, 3, 3, 3, 11]), range(6))
    assert polymorphs.of_row == [[0, 1, 2, 3, 4]] * 5 + [[5]]
    assert polymorphs.lowest(dict(enumerate([*energy, -4.0]))) == [*expected, None]


def test_copies_match_themselves_and_only_some_are_the_lowest() -> None:
    result = evaluated(POLYMORPHS, [rattled(structure) for structure in COPIES])
    assert result.metrics.match_rate == 1.0
    assert of_polymorphs(result) == (1.0, pytest.approx(2 / 3), 3)
    assert result.as_dict()["per_structure"]["polymorph"] == ["row 0", "row 1", "row 2", "row 3"]


@pytest.mark.parametrize("block", [1, 3, 256])
def test_other_polymorphs_than_the_reference(block: int) -> None:
    result = evaluated(POLYMORPHS, OTHERS, block=block)
    assert (result.metrics.match_rate, result.metrics.crmse, result.metrics.invalid_share) == (0.0, 0.5, 0.25)
    # Row 1 is rock salt, the lowest that fits in two atoms; row 2 is too, where wurtzite would be lower.
    assert of_polymorphs(result) == (0.75, pytest.approx(1 / 3), 3)
    assert result.polymorph == ["row 1", "row 0", "row 0", None]
    written = json.loads(json.dumps(result.as_dict(), allow_nan=False))
    assert written["metrics"]["match_any"] == 0.75 and written["metrics"]["n_polymorphic"] == 3
    assert written["per_structure"]["polymorph"] == ["row 1", "row 0", "row 0", None]
    assert written["per_structure"]["rmse"] == [None] * 4


def test_the_closest_of_several_is_named() -> None:
    known = dataset(rock_salt(), rock_salt(shift=0.04), rock_salt())
    result = evaluated(known, [rock_salt(shift=0.04), rock_salt(), rock_salt(shift=0.03)])
    assert result.metrics.match_rate == result.metrics.match_any == 1.0
    assert result.polymorph is not None
    assert (result.polymorph[0], result.polymorph[2]) == ("row 1", "row 1")
    assert result.polymorph[1] in ("row 0", "row 2")  # the same crystal twice


def test_every_pair_is_compared_once() -> None:
    compared = []

    def compare(first: Any, second: Any, *tolerances: float) -> float:
        compared.append((first.cell.tobytes(), second.cell.tobytes(), second.species.tobytes()))
        return 0.1

    result = evaluated(POLYMORPHS, COPIES, compare=compare)
    assert len(compared) == len(set(compared)) == 3 * 3 + 1
    assert (result.metrics.match_rate, result.metrics.rmse) == (1.0, pytest.approx(0.1))


def test_without_a_potential_there_is_no_lowest() -> None:
    result = evaluated(POLYMORPHS, OTHERS, energies=False)
    assert of_polymorphs(result) == (0.75, None, None)


def test_without_polymorphs_there_is_nothing_to_say() -> None:
    result = evaluated(dataset(rock_salt(), magnesium_oxide()), [rock_salt(), magnesium_oxide()])
    assert result.metrics.match_rate == 1.0
    assert of_polymorphs(result) == (None, None, None)
    assert "polymorph" not in result.as_dict()["per_structure"]


def test_polymorphs_that_no_cell_can_hold_beside_another() -> None:
    result = evaluated(dataset(magnesium_oxide(), wurtzite(), rock_salt()), [magnesium_oxide(), wurtzite(), wurtzite()])
    # Two atoms hold rock salt only, four hold both.
    assert of_polymorphs(result) == (1.0, 1.0, 1)


def test_a_limit_leaves_no_polymorph_out() -> None:
    reward = Roomy()
    with Matcher() as matcher:
        bench = LocalBench(matcher, cast(MatGLEnergy, reward))
        evaluator = Evaluator(POLYMORPHS, bench, seed=0, limit=2)  # rows 0 and 2
        result = evaluator(cast(FlowModel, Prepared(OTHERS)), steps=3)
        assert result.polymorph == ["row 1", "row 0"]
        assert of_polymorphs(result) == (1.0, 0.0, 2)
        assert reward.weighed == 2 + 2 + 1  # generated, their references, and the polymorph left out
        evaluator(cast(FlowModel, Prepared(OTHERS)), steps=3)
        assert reward.weighed == 2 + 2 + 1 + 2


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
    assert of_polymorphs(result) == (1.0, 1.0, MOST_POLYMORPHS)
