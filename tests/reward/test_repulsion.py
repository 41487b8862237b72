from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from numpy.typing import NDArray
from torch import Tensor

from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.reward.energy import MatGLEnergy
from omatg_ray.reward.graph import graph_chunks
from omatg_ray.reward.potential import Potential, load_potential
from omatg_ray.reward.repulsion import graph_repulsion, onset, pair_repulsion, screened_coulomb

ALL_ELEMENTS = torch.arange(119)
CUTOFF = 5.0

# Covalent radii in Å, from Cordero et al. 2008.
RADII = {"O": (8, 0.66), "Na": (11, 1.66), "Al": (13, 1.21), "Cl": (17, 1.02), "Ti": (22, 1.60), "Cs": (55, 2.44)}


def of(symbol: str) -> Tensor:
    return torch.tensor([RADII[symbol][0]])


def reach(first: str, second: str) -> float:
    return 0.65 * (RADII[first][1] + RADII[second][1])


def pair(first: str, second: str, distance: float | list[float] | Tensor) -> Tensor:
    distance = torch.as_tensor(distance, dtype=torch.float64).view(-1)
    return pair_repulsion(of(first).expand(len(distance)), of(second).expand(len(distance)), distance)


def repulsion(crystals: CrystalBatch, cutoff: float = CUTOFF, max_edges: int = 10**6) -> Tensor:
    """Per structure, from the graphs that potentials get."""
    graphs = graph_chunks(crystals, ALL_ELEMENTS, cutoff, max_edges)
    return torch.cat([graph_repulsion(graph, cell, ALL_ELEMENTS, cutoff) for graph, cell in graphs])


def summed_over_images(crystals: CrystalBatch) -> list[float]:
    """The same by plain sums over all atoms and a block of images, in the cells as they are."""
    span = np.arange(-6, 7)
    images = np.stack(np.meshgrid(span, span, span), -1).reshape(-1, 3)
    totals = []
    for b in range(len(crystals)):
        atoms = slice(*crystals.ptr[b : b + 2].tolist())
        pos, cell = crystals.pos[atoms].numpy(), crystals.cell[b].numpy()
        separations = (pos[:, None, None] - pos[None, :, None] + images) @ cell
        distances = torch.from_numpy(np.linalg.norm(separations, axis=-1))
        species = crystals.species[atoms]
        first, second, same = species[:, None, None], species[None, :, None], distances < 1e-6
        values = pair_repulsion(
            first.expand(distances.shape)[~same], second.expand(distances.shape)[~same], distances[~same]
        )
        totals.append(float(values.sum()) / 2)
    return totals


def dimers(first: str, second: str, distances: NDArray[np.float64]) -> CrystalBatch:
    """Two atoms each, in cells so large that nothing else is near."""
    count, side = len(distances), 16.0
    pos = torch.zeros(count, 2, 3, dtype=torch.float64)
    pos[:, 1, 0] = torch.from_numpy(distances) / side
    species = torch.cat([of(first), of(second)]).repeat(count)
    cell = side * torch.eye(3).double().expand(count, 3, 3)
    return CrystalBatch(species, pos.view(-1, 3), cell, torch.full((count,), 2))


def crowded() -> CrystalBatch:
    """Five structures with overlapping atoms, one of them with a skewed cell, one with a thin one."""
    generator = torch.Generator().manual_seed(3)
    n_atoms = torch.tensor([5, 2, 7, 4, 1])
    pos = torch.rand(int(n_atoms.sum()), 3, generator=generator, dtype=torch.float64)
    species = torch.tensor([8, 11, 13, 17, 22, 55])[torch.randint(6, (len(pos),), generator=generator)]
    cell = 3.5 * torch.eye(3).double() + 0.4 * torch.rand(5, 3, 3, generator=generator, dtype=torch.float64)
    cell[2, 1] += 2 * cell[2, 0]
    cell[4] = torch.diag(torch.tensor([1.3, 4.0, 4.0]).double())
    return CrystalBatch(species, pos, cell, n_atoms)


# --- the pair energy ------------------------------------------------------------------------------------------


def test_the_coulomb_limit() -> None:
    """Where nothing screens, r V(r) is Z_i Z_j e²; e² / (4π ε0) = 14.3996 eV Å."""
    distance = torch.tensor([1e-6, 1e-7, 1e-8]).double()
    values = screened_coulomb(torch.tensor([22]), torch.tensor([8]), distance) * distance
    torch.testing.assert_close(values, torch.full((3,), 22 * 8 * 14.399645).double(), rtol=1e-4, atol=0)


def test_a_pair_by_hand() -> None:
    """Na and Cl at 1.2 Å: a = 0.128196 Å, φ(9.36065) = 0.0107931, so 24.2191 eV; the envelope at 0.688863 is 0.476433.

    Worked out apart from this package, from the published constants.
    """
    distance = torch.tensor([1.2], dtype=torch.float64)
    assert screened_coulomb(of("Na"), of("Cl"), distance).item() == pytest.approx(24.219115, abs=1e-5)
    assert pair("Na", "Cl", 1.2).item() == pytest.approx(4 * 24.219115 * 0.47643318, abs=1e-4)
    assert pair("Cl", "Na", 1.2).item() == pytest.approx(pair("Na", "Cl", 1.2).item(), rel=1e-12)


@pytest.mark.parametrize(("first", "second"), [("O", "O"), ("Na", "Cl"), ("Ti", "O"), ("Cs", "Cs")])
def test_the_onset_is_a_share_of_the_covalent_radii(first: str, second: str) -> None:
    edge = reach(first, second)
    assert onset(of(first), of(second)).item() == pytest.approx(edge, abs=1e-9)
    assert pair(first, second, [edge + 1e-9, 1.2 * edge, 3 * edge]).tolist() == [0.0] * 3
    assert pair(first, second, 0.99 * edge).item() > 0
    inside = pair(first, second, torch.linspace(0.1, 0.999 * edge, 200))
    assert (inside.diff() < 0).all()


@pytest.mark.parametrize(("first", "second"), [("O", "O"), ("Na", "Cl"), ("Cs", "Ti")])
def test_value_slope_and_curvature_vanish_at_the_onset(first: str, second: str) -> None:
    """Towards the onset they go down like h³, h² and h, h being the distance from it."""
    edge, gaps, step = reach(first, second), torch.tensor([0.02, 0.01, 0.005]).double(), 1e-4
    left, middle, right = (pair(first, second, edge - gaps + shift) for shift in (-step, 0.0, step))
    slope, curvature = (right - left) / (2 * step), (right - 2 * middle + left) / step**2
    for values, power in ((middle, 3), (slope.abs(), 2), (curvature, 1)):
        ratios = values[:-1] / values[1:]
        torch.testing.assert_close(ratios, torch.full((2,), 2.0**power).double(), rtol=0.12, atol=0)
    across = pair(first, second, edge + torch.tensor([-step, 0.0, step]))
    assert (across[0] - 2 * across[1] + across[2]).item() / step**2 < 1e-2 * curvature[0].item()


def test_the_onset_stays_within_the_cutoff() -> None:
    """Cs-Cs would begin at 3.17 Å; with neighbours up to 2.5 Å only, it goes to zero there instead of jumping."""
    distance = torch.tensor([2.3, 2.499, 2.5, 3.0]).double()
    near, edge, *beyond = pair_repulsion(torch.tensor([55]), torch.tensor([55]), distance, cutoff=2.5).tolist()
    assert near > 1000 * edge > 0
    assert beyond == [0.0, 0.0]


# --- structures -----------------------------------------------------------------------------------------------


def test_structures_get_the_sum_over_their_pairs() -> None:
    crystals = crowded()
    expected = summed_over_images(crystals)
    assert min(expected) > 1
    assert repulsion(crystals).tolist() == pytest.approx(expected, rel=1e-4)


def test_batches_chunks_and_order_change_nothing() -> None:
    crystals = crowded()
    alone = torch.cat([repulsion(crystals.select([b])) for b in range(5)])
    assert torch.equal(repulsion(crystals), alone)
    assert torch.equal(repulsion(crystals, max_edges=300), alone)
    assert torch.equal(repulsion(crystals.select([4, 0, 3, 1, 2])), alone[[4, 0, 3, 1, 2]])


def test_a_supercell_has_its_multiple() -> None:
    crystal = crowded().select([0])
    pos = torch.cat([crystal.pos, crystal.pos + torch.tensor([1.0, 0.0, 0.0])]) / torch.tensor([2.0, 1.0, 1.0])
    cell = crystal.cell * torch.tensor([2.0, 1.0, 1.0])[:, None]
    double = CrystalBatch(crystal.species.repeat(2), pos, cell, 2 * crystal.n_atoms)
    assert repulsion(double).item() == pytest.approx(2 * repulsion(crystal).item(), rel=1e-5)


def test_atoms_without_neighbours_and_own_images() -> None:
    """A lone atom has none; a chain of Cs at 1.5 Å has, per atom, one pair at 1.5 Å and one at 3 Å."""
    lone = CrystalBatch(of("Cs"), torch.zeros(1, 3).double(), 12 * torch.eye(3).double()[None], torch.tensor([1]))
    chain = lone.replace(cell=torch.diag(torch.tensor([1.5, 12.0, 12.0]).double())[None])
    assert repulsion(lone).tolist() == [0.0]
    alone, in_chain, again = repulsion(CrystalBatch.cat([lone, chain, lone])).tolist()
    assert alone == again == 0.0
    assert in_chain == pytest.approx(float(pair("Cs", "Cs", [1.5, 3.0]).sum()), rel=1e-6)


# --- on top of real potentials --------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["PBE", "r2SCAN"])
def potential(request: pytest.FixtureRequest, shared: Path) -> Potential:
    return load_potential(shared / "potentials" / f"TensorNet-MatPES-{request.param}")


@pytest.mark.parametrize(
    ("first", "second"), [("Na", "Cl"), ("Ti", "O"), ("Cs", "Cl"), ("Al", "Al"), ("Cs", "Cs"), ("O", "O")]
)
def test_overlapping_pairs_rise_all_the_way_in(potential: Potential, first: str, second: str) -> None:
    """Up to 0.05 of the radii before the onset, where the repulsion is still next to nothing."""
    edge = reach(first, second)
    distances = np.linspace(0.5, edge * 0.60 / 0.65, 40)
    crystals = dimers(first, second, distances)
    assert (potential.energies(crystals).diff() < 0).all()
    # The potentials alone do this for O-O only.
    assert (first == "O") == bool((potential.energies(crystals, repulsion=False).diff() < 0).all())


def test_squeezed_oxygen_is_no_way_out(potential: Potential) -> None:
    """Rocksalt O: nearest neighbours at 0.66 Å must not have a lower energy than at any sane distance."""
    nearest = torch.tensor([0.66, 0.9, 1.1, 1.3, 1.6, 2.0]).double()
    pos = torch.tensor([[0.0, 0, 0], [0.5, 0.5, 0.5]]).double().repeat(6, 1)
    cell = nearest[:, None, None] * (torch.ones(3, 3) - torch.eye(3)).double()
    energies = potential.energies(CrystalBatch(of("O").repeat(12), pos, cell, torch.full((6,), 2)))
    assert energies[0] > energies[1:].max() + 50


def test_without_repulsion_energies_are_those_of_matgl(shared: Path) -> None:
    """Against MatGL's own calculator, with its own neighbour lists, on structures full of overlaps."""
    folder = shared / "potentials" / "TensorNet-MatPES-PBE"
    crystals = crowded()
    import matgl
    from matgl.ext.ase import PESCalculator

    calculator = PESCalculator(matgl.load_model(folder), compute_stress=False)
    expected = []
    for b in range(len(crystals)):
        atoms = slice(*crystals.ptr[b : b + 2].tolist())
        expected.append(
            Atoms(
                crystals.species[atoms].numpy(), cell=crystals.cell[b].numpy(), pbc=True,
                scaled_positions=crystals.pos[atoms].numpy(), calculator=calculator,
            ).get_potential_energy()
        )  # fmt: skip
    potential = load_potential(folder)
    plain = potential.energies(crystals, repulsion=False)
    assert plain.tolist() == pytest.approx(expected, rel=1e-4, abs=1e-3)
    added = potential.energies(crystals) - plain
    assert added.tolist() == pytest.approx(summed_over_images(crystals), rel=1e-4)

    valid = MatGLEnergy(potential, own_images=False, repulsion=False)(crystals).values["energy_per_atom"]
    rewarded = MatGLEnergy(potential, own_images=False)(crystals).values["energy_per_atom"]
    scored = valid.isfinite()
    assert scored.any()
    torch.testing.assert_close(((rewarded - valid) * crystals.n_atoms)[scored], added[scored], rtol=1e-5, atol=1e-4)


def test_ordinary_crystals_keep_their_energies_bit_for_bit(potential: Potential) -> None:
    """SrTiO3, CsCl and a short bond, that of the N2 molecule."""
    perovskite = torch.tensor([[0.0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]).double()
    crystals = CrystalBatch.cat(
        [
            CrystalBatch(torch.tensor(species), pos, side * torch.eye(3).double()[None], torch.tensor([len(species)]))
            for species, pos, side in (
                ([38, 22, 8, 8, 8], perovskite, 3.905),
                ([55, 17], perovskite[:2], 4.12),
                ([7, 7], torch.tensor([[0.0, 0, 0], [1.10 / 8, 0, 0]]).double(), 8.0),
            )
        ]
    )
    energies = potential.energies(crystals)
    assert torch.equal(energies, potential.energies(crystals, repulsion=False))
    assert math.isfinite(energies.sum())
