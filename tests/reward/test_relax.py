from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest
import torch
from torch import Tensor

from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.crystal.lattice import minimum_difference, volume
from omatg_ray.reward.energy import MatGLEnergy
from omatg_ray.reward.potential import Potential, load_potential
from omatg_ray.reward.relax import CONVERGED, LONGEST_STEP, relax

NAN = float("nan")


class Springs:
    """E = k/2 |L d|² + c (V - V0)² of two atoms, d their difference from half a diagonal; remembers its batches."""

    elements = frozenset({6})
    k, c, v0 = 2.0, 0.05, 27.0

    def __init__(self) -> None:
        self.shown: list[int] = []

    def _energy(self, crystals: CrystalBatch, shift: Tensor, strain: Tensor) -> Tensor:
        cell = crystals.cell @ (torch.eye(3, dtype=torch.float64) + strain)
        first, second = crystals.pos[::2], crystals.pos[1::2]
        bond = (minimum_difference(second - first - 0.5)[:, None] @ cell)[:, 0] + shift[1::2] - shift[::2]
        return 0.5 * self.k * bond.square().sum(1) + self.c * (volume(cell) - self.v0).square()

    def energies(self, crystals: CrystalBatch, chunk_edges: int | None = None, *, repulsion: bool = True) -> Tensor:
        crystals = crystals.to(dtype=torch.float64)
        return self._energy(crystals, torch.zeros_like(crystals.pos), torch.zeros_like(crystals.cell))

    def gradients(
        self, crystals: CrystalBatch, chunk_edges: int | None = None, *, repulsion: bool = True
    ) -> tuple[Tensor, Tensor, Tensor]:
        self.shown.append(len(crystals))
        shift = torch.zeros_like(crystals.pos, requires_grad=True)
        strain = torch.zeros_like(crystals.cell, requires_grad=True)
        energy = self._energy(crystals, shift, strain)
        by_shift, by_strain = torch.autograd.grad(energy.sum(), (shift, strain))
        return energy.detach(), -by_shift, by_strain


def pairs(*cases: tuple[float, float]) -> CrystalBatch:
    """Two carbon atoms in a cube of each lattice constant, each away from its place by so much of a lattice vector."""
    pos = [[[0.0, 0.0, 0.0], [0.5 + away, 0.5, 0.5]] for _, away in cases]
    cell = torch.tensor([a for a, _ in cases], dtype=torch.float64)[:, None, None] * torch.eye(3).double()
    return CrystalBatch(
        torch.full((2 * len(cases),), 6), torch.tensor(pos).double().view(-1, 3), cell, torch.full((len(cases),), 2)
    )


def test_positions_and_volume_reach_the_known_minimum() -> None:
    crystals = pairs((3.4, 0.1), (2.7, -0.15), (3.0, 0.0))
    before = crystals.pos.clone(), crystals.cell.clone()
    found = relax(cast(Potential, Springs()), crystals, 300)
    assert torch.equal(crystals.pos, before[0]) and torch.equal(crystals.cell, before[1])
    torch.testing.assert_close(volume(found.crystals.cell), torch.full((3,), 27.0).double(), atol=0.1, rtol=0)
    bond = minimum_difference(found.crystals.pos[1::2] - found.crystals.pos[::2] - 0.5)
    assert float(bond.abs().max()) < 0.02
    start = Springs().energies(crystals)
    torch.testing.assert_close(found.energy + found.drop, start, atol=1e-12, rtol=0)
    assert found.energy.max() < 1e-2 and float(found.energy.min()) >= 0
    _, force, virial = Springs().gradients(found.crystals)
    rests = (force.norm(dim=1).view(3, 2).amax(1) < CONVERGED) & (virial.abs().amax((1, 2)) / 2 < CONVERGED)
    assert found.converged.tolist() == rests.tolist() and rests[2]
    # The third rests from the beginning.
    assert found.steps[2] == 0 and int(found.steps[:2].min()) > 0 and int(found.steps.max()) < 300


def test_a_crystal_relaxes_as_it_would_alone_and_resting_ones_are_not_evaluated_again() -> None:
    crystals, springs = pairs((3.4, 0.1), (3.0, 0.0), (2.7, -0.15)), Springs()
    together = relax(cast(Potential, springs), crystals, 12)
    assert springs.shown[:2] == [3, 2]
    for row in range(3):
        alone = relax(cast(Potential, Springs()), crystals.select([row]), 12)
        torch.testing.assert_close(alone.energy, together.energy[[row]], atol=1e-12, rtol=0)
        assert alone.steps.tolist() == together.steps[[row]].tolist()


@pytest.mark.parametrize("steps", [0, 1, 5])
def test_steps_are_bounded_in_number_and_length(steps: int) -> None:
    crystals, springs = pairs((5.0, 0.2)), Springs()
    found = relax(cast(Potential, springs), crystals, steps)
    assert found.steps.tolist() == [steps] and len(springs.shown) == steps + 1
    moved = minimum_difference(found.crystals.pos - crystals.pos) @ crystals.cell[0]
    assert float(moved.norm(dim=1).max()) <= steps * LONGEST_STEP + 1e-9
    assert (found.drop > 0).tolist() == [steps > 0]
    assert not found.converged.any()


class Collapsing(Springs):
    """Pulls the cell together without end."""

    c, v0 = 0.5, -200.0


def test_a_crystal_that_would_become_invalid_stops_before() -> None:
    found = relax(cast(Potential, Collapsing()), pairs((2.0, 0.0)), 500)
    # Neighbours are half a body diagonal apart, and 0.5 Å is the limit.
    constant = float(volume(found.crystals.cell)[0]) ** (1 / 3)
    assert 0.5 / (3**0.5 / 2) <= constant < 0.75
    assert int(found.steps[0]) < 500 and not found.converged[0]


class Rising(Springs):
    """Every call gives energies 1 eV above those of the call before, whatever the forces say."""

    def gradients(
        self, crystals: CrystalBatch, chunk_edges: int | None = None, *, repulsion: bool = True
    ) -> tuple[Tensor, Tensor, Tensor]:
        energy, force, virial = super().gradients(crystals, chunk_edges, repulsion=repulsion)
        return energy + len(self.shown), force, virial


def test_converged_is_said_of_the_state_that_is_returned() -> None:
    crystals = pairs((3.0, 0.1), (3.0, 0.0))
    found = relax(cast(Potential, Rising()), crystals, 300)
    assert int(found.steps[0]) < 300  # the last state came to rest, but the first was lower
    torch.testing.assert_close(found.crystals.pos, crystals.pos, atol=0, rtol=0)
    assert found.converged.tolist() == [False, True]


class Broken(Springs):
    def gradients(
        self, crystals: CrystalBatch, chunk_edges: int | None = None, *, repulsion: bool = True
    ) -> tuple[Tensor, Tensor, Tensor]:
        energy, force, virial = super().gradients(crystals, chunk_edges)
        return energy.where(volume(crystals.cell) < 60, NAN), force, virial


def test_energies_that_are_not_finite_fail_alone() -> None:
    found = relax(cast(Potential, Broken()), pairs((3.4, 0.1), (4.0, 0.1)), 5)
    assert found.energy.isnan().tolist() == found.drop.isnan().tolist() == [False, True]


def test_the_energy_reward_relaxes_before_it_weighs() -> None:
    crystals = pairs((3.4, 0.1), (0.3, 0.0))
    plain, relaxed = (MatGLEnergy(cast(Potential, Springs()), relax_steps=n)(crystals) for n in (0, 300))
    assert "relax_drop" not in plain.values
    gain = relaxed.values["energy_per_atom"] - plain.values["energy_per_atom"]
    torch.testing.assert_close(-gain[0], relaxed.values["relax_drop"][0], atol=1e-12, rtol=0)
    assert float(gain[0]) < -1 and relaxed.reward[0] > plain.reward[0]
    assert plain.reward[1] == relaxed.reward[1] == -3.0
    assert relaxed.values["relax_steps"].isnan().tolist() == [False, True]


@pytest.fixture(scope="module")
def pbe(shared: Path) -> Potential:
    return load_potential(shared / "potentials" / "TensorNet-MatPES-PBE")


def salt(constant: float, away: float) -> CrystalBatch:
    cell = constant / 2 * (torch.ones(3, 3, dtype=torch.float64) - torch.eye(3).double())
    pos = torch.tensor([[0.0, 0.0, 0.0], [0.5 + away, 0.5, 0.5]], dtype=torch.float64)
    return CrystalBatch(torch.tensor([12, 8]), pos, cell[None], torch.tensor([2]))


@pytest.mark.parametrize("crystals", [salt(4.3, 0.03), salt(2.4, 0.05)], ids=["sane", "overlapping"])
def test_gradients_are_differences_of_energies(pbe: Potential, crystals: CrystalBatch) -> None:
    """Central differences; the second crystal is pressed until the repulsion dominates."""
    other = salt(4.5, 0.0)
    energy, force, virial = pbe.gradients(CrystalBatch.cat([other, crystals]))
    torch.testing.assert_close(energy, pbe.energies(CrystalBatch.cat([other, crystals])), atol=1e-4, rtol=1e-6)
    h = 2e-3
    shift = torch.zeros_like(crystals.pos)
    shift[1, 0] = h
    shift = shift @ torch.linalg.inv(crystals.cell[0])
    strain = torch.zeros(3, 3, dtype=torch.float64)
    strain[0, 0], strain[1, 2] = h, 0.5 * h
    for plus, minus, derivative in (
        (crystals.replace(crystals.pos + shift), crystals.replace(crystals.pos - shift), -h * force[3, 0]),
        (
            crystals.replace(cell=crystals.cell @ (torch.eye(3).double() + strain)),
            crystals.replace(cell=crystals.cell @ (torch.eye(3).double() - strain)),
            (strain * virial[1]).sum(),
        ),
    ):
        up, down = pbe.energies(CrystalBatch.cat([plus, minus])).tolist()
        assert (up - down) / 2 == pytest.approx(float(derivative), rel=2e-2, abs=2e-5)


def test_a_real_crystal_relaxes_to_its_lattice_constant(pbe: Potential) -> None:
    """MgO under this potential: the minimum of E(a) is at 4.24 Å, found here by a scan."""
    scan = torch.linspace(4.1, 4.4, 13, dtype=torch.float64)
    energies = pbe.energies(CrystalBatch.cat([salt(float(a), 0.0) for a in scan]))
    best = float(scan[energies.argmin()])
    found = relax(pbe, salt(4.6, 0.05), 80)
    constant = float(4 * volume(found.crystals.cell)[0]) ** (1 / 3)
    assert abs(constant - best) < 0.05
    assert float(found.energy[0]) == pytest.approx(float(energies.min()), abs=0.01)


class Wide(Springs):
    """Fails on cells of more than 3.2 Å."""

    def gradients(
        self, crystals: CrystalBatch, chunk_edges: int | None = None, *, repulsion: bool = True
    ) -> tuple[Tensor, Tensor, Tensor]:
        if bool((crystals.cell[:, 0, 0] > 3.2).any()):
            raise RuntimeError("too wide")
        return super().gradients(crystals, chunk_edges, repulsion=repulsion)


def test_a_crystal_on_which_the_potential_fails_stays_and_takes_no_other_with_it() -> None:
    crystals = pairs((2.9, 0.1), (3.4, 0.1), (2.8, -0.1))
    found = MatGLEnergy(cast(Potential, Wide())).relaxed(crystals, 12)
    assert found.energy.isnan().tolist() == [False, True, False]
    assert found.steps.tolist()[1] == 0 and not found.converged[1]
    assert torch.equal(found.crystals.select([1]).pos, crystals.select([1]).pos)
    for row in (0, 2):
        alone = relax(cast(Potential, Wide()), crystals.select([row]), 12)
        assert torch.equal(found.crystals.select([row]).cell, alone.crystals.cell)
        assert (found.steps[row], found.drop[row]) == (alone.steps[0], alone.drop[0])
