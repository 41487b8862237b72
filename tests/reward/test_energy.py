from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import cast

import pytest
import torch
from torch import Tensor

from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.errors import PotentialError
from omatg_ray.reward.energy import MatGLEnergy
from omatg_ray.reward.potential import Potential
from omatg_ray.reward.protocol import Reward

NAN = torch.nan


class FakePotential:
    """Energies from a function of the structure; remembers the lattice constants it was shown."""

    elements = frozenset({6, 8})

    def __init__(self, energy: Callable[[CrystalBatch], Tensor]) -> None:
        self.energy = energy
        self.shown: list[list[float]] = []

    def energies(self, crystals: CrystalBatch, chunk_edges: int | None = None, *, repulsion: bool) -> Tensor:
        self.require_elements(crystals.species.tolist())
        self.shown.append(crystals.cell[:, 0, 0].tolist())
        return self.energy(crystals)

    def require_elements(self, elements: Iterable[int]) -> None:
        if set(elements) - self.elements:
            raise PotentialError("unknown elements")


def reward_of(potential: FakePotential, **options: float | bool) -> MatGLEnergy:
    return MatGLEnergy(cast(Potential, potential), **options)  # type: ignore[arg-type]


def cubes(constants: list[float], species: int = 6) -> CrystalBatch:
    """Two atoms in a cubic cell of each lattice constant in Å, half a body diagonal apart."""
    count = len(constants)
    pos = torch.tensor([[0.0, 0, 0], [0.5, 0.5, 0.5]], dtype=torch.float64).repeat(count, 1)
    cell = torch.tensor(constants, dtype=torch.float64)[:, None, None] * torch.eye(3).double()
    return CrystalBatch(torch.full((2 * count,), species), pos, cell, torch.full((count,), 2))


def constant_times(factor: float) -> FakePotential:
    """E = factor · lattice constant · number of atoms."""
    return FakePotential(lambda crystals: factor * crystals.cell[:, 0, 0] * crystals.n_atoms)


INVALID = 0.4
"""A lattice constant below the limit of the distance."""


def test_the_reward_is_minus_the_energy_per_atom() -> None:
    rewards: Reward = reward_of(constant_times(-0.5))
    result = rewards(cubes([4.0, 3.0]))
    assert result.reward.tolist() == [2.0, 1.5]
    assert result.values["energy_per_atom"].tolist() == [-2.0, -1.5]
    assert result.values["valid"].tolist() == [1.0, 1.0]
    assert result.values["volume_per_atom"].tolist() == [32.0, 13.5]
    torch.testing.assert_close(result.values["min_distance"], torch.tensor([4.0, 3.0]).double() * 3**0.5 / 2)
    assert {value.dtype for value in [result.reward, *result.values.values()]} == {torch.float64}
    assert rewards.name == "energy"
    assert rewards.elements == {6, 8}


def test_invalid_structures_get_the_penalty_and_never_reach_the_potential() -> None:
    potential = constant_times(-0.5)
    result = reward_of(potential, invalid_energy=3.0)(cubes([4.0, INVALID, 3.0, INVALID]))
    assert result.reward.tolist() == [2.0, -3.0, 1.5, -3.0]
    torch.testing.assert_close(
        result.values["energy_per_atom"], torch.tensor([-2.0, NAN, -1.5, NAN]).double(), equal_nan=True
    )
    assert result.values["valid"].tolist() == [1.0, 0.0, 1.0, 0.0]
    assert potential.shown == [[4.0, 3.0]]


def test_a_batch_of_invalid_structures_only() -> None:
    potential = constant_times(1.0)
    result = reward_of(potential, invalid_energy=5.0)(cubes([INVALID, INVALID]))
    assert result.reward.tolist() == [-5.0, -5.0]
    assert result.values["energy_per_atom"].isnan().all()
    assert potential.shown == []


def test_an_empty_batch() -> None:
    result = reward_of(constant_times(1.0))(cubes([4.0]).select([]))
    assert result.reward.shape == (0,)
    assert {value.shape for value in result.values.values()} == {(0,)}


def test_the_cap_puts_no_valid_structure_below_an_invalid_one() -> None:
    crystals = cubes([2.0, 3.0, 4.0, INVALID])
    capped = reward_of(constant_times(1.0), invalid_energy=3.0)(crystals)
    assert capped.reward.tolist() == pytest.approx([-2.0, -(3.0 - 1.0 / 2.0), -(3.0 - 1.0 / 3.0), -3.0], abs=1e-12)
    assert capped.values["energy_per_atom"][:3].tolist() == [2.0, 3.0, 4.0]
    uncapped = reward_of(constant_times(1.0), invalid_energy=3.0, cap=False)(crystals)
    assert uncapped.reward.tolist() == [-2.0, -3.0, -4.0, -3.0]


def test_own_images_decide_when_asked() -> None:
    """The second cell is thin, but its two atoms are far apart."""
    crystals = cubes([4.0, 4.0])
    thin = crystals.cell.clone()
    thin[1, 2, 2] = 0.45
    crystals = crystals.replace(cell=thin)
    assert reward_of(constant_times(-1.0))(crystals).values["valid"].tolist() == [1.0, 0.0]
    assert reward_of(constant_times(-1.0), own_images=False)(crystals).values["valid"].tolist() == [1.0, 1.0]


@pytest.mark.parametrize("broken", [NAN, torch.inf, -torch.inf])
def test_energies_that_are_not_finite_are_failed_rewards(broken: float) -> None:
    potential = FakePotential(lambda crystals: torch.where(crystals.cell[:, 0, 0] == 3.0, broken, -2.0).double())
    result = reward_of(potential)(cubes([4.0, 3.0, INVALID]))
    torch.testing.assert_close(result.reward, torch.tensor([1.0, NAN, -3.0]).double(), equal_nan=True)
    assert result.values["energy_per_atom"][1].isnan()
    assert result.values["valid"].tolist() == [1.0, 1.0, 0.0]


def test_a_structure_that_breaks_the_potential_does_not_take_others_with_it(caplog: pytest.LogCaptureFixture) -> None:
    def energy(crystals: CrystalBatch) -> Tensor:
        constants = crystals.cell[:, 0, 0]
        if (constants == 3.5).any():
            raise RuntimeError("out of memory")
        return -2 * constants

    with caplog.at_level(logging.WARNING):
        result = reward_of(FakePotential(energy))(cubes([4.0, INVALID, 5.0, 3.5, 6.0, 3.5, 7.0]))
    expected = torch.tensor([4.0, -3.0, 5.0, NAN, 6.0, NAN, 7.0]).double()
    torch.testing.assert_close(result.reward, expected, equal_nan=True)
    assert [record.args[0] for record in caplog.records if isinstance(record.args, tuple)] == [3, 5]
    assert "C2" in caplog.text
    assert "out of memory" in caplog.text


def test_unknown_elements_are_an_error_and_no_failed_reward() -> None:
    with pytest.raises(PotentialError):
        reward_of(constant_times(1.0))(cubes([4.0, 3.0], species=84))


def test_single_precision_crystals_are_judged_like_others() -> None:
    result = reward_of(constant_times(-0.5))(cubes([4.0, INVALID]).to(dtype=torch.float32))
    assert result.reward.tolist() == [2.0, -3.0]
    assert result.reward.dtype == torch.float64


def test_a_real_potential(shared: Path) -> None:
    """Rocksalt MgO, primitive cell at a = 4.25 Å: -5.8680 eV/atom, wherever it stands in the batch."""
    rewards = MatGLEnergy(shared / "potentials" / "TensorNet-MatPES-PBE", chunk_edges=100)
    cell = 4.25 / 2 * (torch.ones(3, 3) - torch.eye(3))
    magnesia = CrystalBatch(
        torch.tensor([12, 8]), torch.tensor([[0.0, 0, 0], [0.5, 0.5, 0.5]]), cell[None], torch.tensor([2])
    )
    squeezed = magnesia.replace(cell=0.15 * magnesia.cell)
    pos = torch.tensor([[0.0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0.3], [0.5, 0, 0.5], [0, 0.5, 0.5]])
    crowded = CrystalBatch(torch.tensor([38, 22, 8, 8, 8]), pos, 4 * torch.eye(3)[None], torch.tensor([5]))
    lone = CrystalBatch(torch.tensor([8]), torch.zeros(1, 3), 12 * torch.eye(3)[None], torch.tensor([1]))
    result = rewards(CrystalBatch.cat([magnesia, squeezed, lone, crowded, magnesia]))
    assert result.values["valid"].tolist() == [1, 0, 1, 1, 1]
    torch.testing.assert_close(result.reward[[0, 4]], torch.tensor([5.8680] * 2).double(), atol=1e-4, rtol=0)
    assert result.reward[1] == -3
    assert result.reward[2].isfinite()
    assert -3 < result.reward[3] < -2
    assert result.values["energy_per_atom"][3] > 3
    with pytest.raises(PotentialError, match="Po"):
        rewards.require_elements([8, 84])
