from __future__ import annotations

from typing import Any, cast

import torch

from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.reward.energy import MatGLEnergy
from omatg_ray.reward.protocol import RewardResult
from omatg_ray.reward.second_potential import SecondPotential

NAN = torch.nan


class PerVolume:
    """E/N = slope V/N + a constant of the first atom's species; counts what it evaluates."""

    elements = frozenset(range(1, 119))

    def __init__(self, slope: float, constants: dict[int, float]) -> None:
        self.slope, self.constants, self.evaluated = slope, constants, 0

    def energies(self, crystals: CrystalBatch, chunk_edges: int | None = None, *, repulsion: bool) -> torch.Tensor:
        self.evaluated += len(crystals)
        constant = torch.tensor([self.constants[int(z)] for z in crystals.species[crystals.ptr[:-1]]]).double()
        return self.slope * torch.linalg.det(crystals.cell.double()) + constant * crystals.n_atoms


def cubes(*cases: tuple[int, float]) -> CrystalBatch:
    """One atom of a species in a cube of a volume in Å³."""
    cells = torch.tensor([v for _, v in cases]).double() ** (1 / 3)
    return CrystalBatch(
        torch.tensor([z for z, _ in cases]),
        torch.zeros(len(cases), 3).double(),
        cells[:, None, None] * torch.eye(3).double(),
        torch.ones(len(cases), dtype=torch.long),
    )


def test_the_shift_is_relative_to_known_crystals_of_the_composition() -> None:
    first = PerVolume(0.1, {6: -9.0, 8: -5.0, 14: 0.0})
    second = PerVolume(0.3, {6: -8.0, 8: -7.0, 14: 0.0})
    known = cubes((6, 10.0), (6, 20.0), (8, 30.0))
    rewarded = MatGLEnergy(cast(Any, first))
    judge = SecondPotential(MatGLEnergy(cast(Any, second)), rewarded, rewarded, known)
    result = judge(cubes((6, 10.0), (8, 40.0), (14, 10.0), (6, 0.05)))
    # Differences: 0.2 V + 1 for carbon and 0.2 V - 2 for oxygen; known carbon has a mean volume of 15, oxygen of 30.
    for name, expected in (
        ("energy_per_atom", [-5.0, 5.0, 3.0, NAN]),
        ("difference", [3.0, 6.0, 2.0, NAN]),
        ("shift", [-1.0, 2.0, NAN, NAN]),
    ):
        torch.testing.assert_close(result.values[name], torch.tensor(expected).double(), equal_nan=True)
    evaluated = second.evaluated
    judge(cubes((6, 12.0)))
    assert second.evaluated == evaluated + 1


class Relaxed:
    """A first potential that relaxed its crystals by 0.5 eV/atom; never shown known ones, of 10 Å³."""

    name, elements = "energy", frozenset({6, 8})

    def __call__(self, crystals: CrystalBatch) -> RewardResult:
        assert float(torch.linalg.det(crystals.cell).min()) > 11
        ones = torch.ones(len(crystals), dtype=torch.float64)
        return RewardResult(ones, {"energy_per_atom": -2.0 * ones, "relax_drop": 0.5 * ones})


def test_relaxed_energies_are_compared_as_they_were_before() -> None:
    second = MatGLEnergy(cast(Any, PerVolume(0.0, {6: -1.4})))
    unrelaxed = MatGLEnergy(cast(Any, PerVolume(0.0, {6: -1.7})))
    judge = SecondPotential(second, Relaxed(), unrelaxed, cubes((6, 10.0)))
    assert judge.elements == {6, 8}
    result = judge(cubes((6, 12.0)))
    torch.testing.assert_close(result.values["difference"], torch.tensor([0.1]).double())
    torch.testing.assert_close(result.values["shift"], torch.tensor([0.1 - 0.3]).double())
