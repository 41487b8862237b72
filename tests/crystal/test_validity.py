from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from pymatgen.optimization.neighbors import find_points_in_spheres
from torch import Tensor

from omatg_ray.crystal import validity
from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.crystal.lattice import cell_from_parameters
from omatg_ray.crystal.validity import check_validity, closest_atoms, minkowski_reduce
from tests.small import random_crystals


def crystal(pos: list[list[float]] | Tensor, cell: list[list[float]] | Tensor) -> CrystalBatch:
    pos, cell = torch.as_tensor(pos, dtype=torch.float64), torch.as_tensor(cell, dtype=torch.float64)
    return CrystalBatch(torch.full((len(pos),), 6), pos, cell[None], torch.tensor([len(pos)]))


def shortest_by_pymatgen(crystals: CrystalBatch, own_images: bool, radius: float) -> float:
    """Shortest distance within a radius, infinite if there is none, by pymatgen's periodic neighbour search."""
    cell = crystals.cell[0].numpy()
    cartesian = np.ascontiguousarray(crystals.pos.numpy() @ cell)
    source, destination, _, distance = find_points_in_spheres(
        cartesian, cartesian, r=radius, pbc=np.ones(3, dtype=np.int64), lattice=cell, tol=1e-8
    )
    different = source != destination
    keep = different | (distance > 1e-8) if own_images else different
    return float(distance[keep].min()) if keep.any() else math.inf


def random_cells(count: int, generator: torch.Generator) -> Tensor:
    lengths = 1.0 + 3.0 * torch.rand(count, 3, generator=generator, dtype=torch.float64)
    angles = 60 + 60 * torch.rand(count, 3, generator=generator, dtype=torch.float64)
    return cell_from_parameters(lengths, angles)


def skewed(cells: Tensor, strength: int, generator: torch.Generator) -> Tensor:
    """Other, longer vectors of the same lattices."""
    for _ in range(3):
        shear = torch.eye(3, dtype=cells.dtype).repeat(len(cells), 1, 1)
        i, j = torch.randperm(3, generator=generator)[:2].tolist()
        shear[:, i, j] = torch.randint(-strength, strength + 1, (len(cells),), generator=generator).double()
        cells = shear @ cells
    return cells


def needles(count: int, generator: torch.Generator) -> Tensor:
    """Three long vectors within a few degrees of each other, close to the limit of the polar sine."""
    direction = torch.randn(count, 1, 3, generator=generator, dtype=torch.float64)
    spread = torch.randn(count, 3, 3, generator=generator, dtype=torch.float64)
    return 6.0 * torch.nn.functional.normalize(direction / direction.norm(dim=-1, keepdim=True) + 0.06 * spread, dim=-1)


@pytest.mark.parametrize("own_images", [True, False])
@pytest.mark.parametrize("n_atoms", [1, 2, 5])
@pytest.mark.parametrize("kind", ["plain", "skewed", "needles"])
def test_shortest_distance_agrees_with_pymatgen(kind: str, n_atoms: int, own_images: bool) -> None:
    generator = torch.Generator().manual_seed(n_atoms)
    cells = needles(25, generator) if kind == "needles" else random_cells(25, generator)
    if kind == "skewed":
        cells = skewed(cells, 4, generator)
    structures = [crystal(torch.rand(n_atoms, 3, generator=generator, dtype=torch.float64), cell) for cell in cells]
    found = check_validity(CrystalBatch.cat(structures), own_images)
    compared = 0
    for structure, distance, sine, volume in zip(
        structures, found.min_distance, found.polar_sine, found.volume, strict=True
    ):
        if sine < 1e-3 or volume < 0.1:
            assert distance.isnan()
            continue
        compared += 1
        radius = 2.5
        expected = shortest_by_pymatgen(structure, own_images, radius)
        if math.isinf(expected):
            assert distance > radius
        else:
            assert distance.item() == pytest.approx(expected, abs=1e-7)
    assert compared > 10


def test_distances_below_the_limit_are_found_in_extremely_skewed_cells() -> None:
    """Shears keep the lattice, so the answer is that of the straight cell."""
    straight = 6.0 * torch.eye(3, dtype=torch.float64)
    shear = torch.tensor([[1.0, 0, 0], [11, 1, 0], [-17, 5, 1]], dtype=torch.float64)
    cartesian = torch.tensor([[0.1, 0.1, 0.1], [5.9, 5.8, 0.2]], dtype=torch.float64)
    cell = shear @ straight
    found = check_validity(crystal(cartesian @ torch.linalg.inv(cell), cell))
    assert found.polar_sine.item() > 1e-3
    assert found.min_distance.item() == pytest.approx(math.sqrt(0.2**2 + 0.3**2 + 0.1**2), abs=1e-9)
    assert not found.valid.item()


def test_closed_forms() -> None:
    caesium_chloride = crystal([[0, 0, 0], [0.5, 0.5, 0.5]], [[4, 0, 0], [0, 4, 0], [0, 0, 4]])
    found = check_validity(caesium_chloride)
    assert found.min_distance.item() == pytest.approx(2 * math.sqrt(3))
    assert found.volume.item() == pytest.approx(64)
    assert found.polar_sine.item() == pytest.approx(1)
    assert found.valid.tolist() == [True]
    hexagonal = crystal([[0, 0, 0]], [[2, 0, 0], [-1, math.sqrt(3), 0], [0, 0, 5]])
    found = check_validity(hexagonal)
    assert found.min_distance.item() == pytest.approx(2)
    assert found.polar_sine.item() == pytest.approx(math.sqrt(3) / 2)


def test_own_images_are_checked_unless_asked_not_to() -> None:
    thin = crystal([[0, 0, 0]], [[5, 0, 0], [0, 5, 0], [0, 4.9, 0.3]])
    with_images, without = check_validity(thin), check_validity(thin, own_images=False)
    assert with_images.min_distance.item() == pytest.approx(math.hypot(0.1, 0.3))
    assert not with_images.valid.item()
    assert math.isinf(without.min_distance.item())
    assert without.valid.item()


@pytest.mark.parametrize(
    ("cell", "valid"),
    [
        ([[10, 0, 0], [0, 10, 0], [0, 0, 0.0011]], True),
        ([[10, 0, 0], [0, 10, 0], [0, 0, 0.0009]], False),
        ([[10, 0, 0], [10, 0.011, 0], [0, 0, 10]], True),
        ([[10, 0, 0], [10, 0.009, 0], [0, 0, 10]], False),
    ],
    ids=["volume above", "volume below", "polar sine above", "polar sine below"],
)
def test_limits_of_volume_and_polar_sine(cell: list[list[float]], valid: bool) -> None:
    assert check_validity(crystal([[0, 0, 0]], cell), own_images=False).valid.item() is valid


@pytest.mark.parametrize(("distance", "valid"), [(0.501, True), (0.499, False)])
def test_limit_of_the_distance_holds_across_the_boundary(distance: float, valid: bool) -> None:
    pair = crystal([[0, 0, 0], [1 - distance / 8, 0, 0]], [[8, 0, 0], [0, 8, 0], [0, 0, 8]])
    for crystals in (pair, pair.replace(pos=pair.pos + torch.tensor([[3.0, -7, 0], [-2, 5, 9]]))):
        assert check_validity(crystals).min_distance.item() == pytest.approx(distance)
        assert check_validity(crystals).valid.item() is valid


def test_broken_structures_are_invalid_and_leave_their_neighbours_alone() -> None:
    good = crystal([[0, 0, 0], [0.5, 0.5, 0.5]], [[3, 0, 0], [0, 3, 0], [0, 0, 3]])
    nan, inf = torch.nan, torch.inf
    broken = [
        good.replace(pos=good.pos * nan),
        good.replace(pos=torch.tensor([[0.0, 0, 0], [0.5, inf, 0.5]], dtype=torch.float64)),
        good.replace(cell=good.cell * nan),
        good.replace(cell=good.cell * inf),
        good.replace(cell=good.cell * 0),
        good.replace(cell=good.cell * 1e-200),
        good.replace(cell=good.cell * 1e200),
        crystal([[0, 0, 0]], [[3, 0, 0], [6, 0, 0], [0, 0, 3]]),
    ]
    batch = CrystalBatch.cat([part for structure in broken for part in (good, structure)])
    found = check_validity(batch)
    assert found.valid.tolist() == [True, False] * len(broken)
    torch.testing.assert_close(found.min_distance[::2], torch.full((len(broken),), 1.5 * math.sqrt(3)).double())


def test_single_precision_input_gives_double_precision_measures() -> None:
    found = check_validity(crystal([[0, 0, 0]], 2 * torch.eye(3)).to(dtype=torch.float32))
    assert (found.volume.dtype, found.min_distance.dtype, found.polar_sine.dtype) == (torch.float64,) * 3
    assert found.min_distance.item() == pytest.approx(2)


def test_reduced_cells_span_the_same_lattice_and_are_minkowski_reduced() -> None:
    generator = torch.Generator().manual_seed(3)
    cells = torch.cat([skewed(random_cells(200, generator), 30, generator), 4 * torch.eye(3).double()[None]])
    reduced, converged = minkowski_reduce(cells)
    assert converged.all()
    change = reduced @ torch.linalg.inv(cells)
    torch.testing.assert_close(change, change.round(), atol=1e-6, rtol=0)
    torch.testing.assert_close(torch.linalg.det(change).abs(), torch.ones(len(cells)).double())
    a1, a2, a3 = reduced.unbind(1)
    tolerance = 1e-9
    assert (a1.norm(dim=1) <= a2.norm(dim=1) + tolerance).all()
    assert (a2.norm(dim=1) <= a3.norm(dim=1) + tolerance).all()
    for m1 in range(-3, 4):
        assert (a2.norm(dim=1) <= (a2 + m1 * a1).norm(dim=1) + tolerance).all()
        for m2 in range(-3, 4):
            assert (a3.norm(dim=1) <= (a3 + m1 * a1 + m2 * a2).norm(dim=1) + tolerance).all()


def test_cells_with_three_equal_vectors_are_reduced() -> None:
    """Multiples of exactly one half are as short rounded up as down, and must not be tried for ever."""
    angle = torch.linspace(50, 70, 4001, dtype=torch.float64)
    length = torch.linspace(3, 9, 4001, dtype=torch.float64)
    cells = cell_from_parameters(length[:, None].expand(-1, 3), angle[:, None].expand(-1, 3))
    reduced, converged = minkowski_reduce(cells)
    assert bool(converged.all())
    # below 60° the difference of two vectors is the shortest, from there on they are
    expected = length * torch.where(angle < 60, 2 * torch.sin(torch.deg2rad(angle / 2)), torch.ones(()))
    torch.testing.assert_close(reduced[:, 0].norm(dim=-1), expected)


@pytest.mark.parametrize("shift", [0.3, 0.02])
def test_the_closest_atoms_are_named_across_the_border(shift: float) -> None:
    batch = crystal([[0.0, 0, 0], [0.5, 0.5, 0.5], [0.0, 1 - shift, 0]], [[4, 0, 0], [1, 5, 0], [0, 1, 6]])
    first, second, distance = closest_atoms(batch)
    assert (first, second) == (0, 2)
    assert distance == pytest.approx(shift * math.sqrt(26))
    own = closest_atoms(crystal([[0.1, 0.2, 0.3]], [[0, 0, 7.0], [0, 0.3, 0], [5, 0, 0]]))
    assert own == (0, 0, pytest.approx(0.3))


def test_memory_is_bounded_and_the_parts_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    crystals = random_crystals([5, 40, 3, 30, 1, 1, 60, 2])
    whole = check_validity(crystals)
    pairs: list[int] = []

    def counted(part: CrystalBatch, cell: Tensor) -> Tensor:
        pairs.append(len(part.layout.pairs[0]))
        return original(part, cell)

    original = validity._pair_distances
    monkeypatch.setattr(validity, "_pair_distances", counted)
    monkeypatch.setattr(validity, "PAIRS_AT_ONCE", 1000)
    parts = check_validity(crystals)
    assert len(pairs) > 2 and max(pairs) <= 60 * 59 // 2 + 1000
    for name in ("volume", "min_distance", "polar_sine", "valid"):
        assert torch.equal(getattr(whole, name), getattr(parts, name))


def test_no_crystals_have_no_validity() -> None:
    assert check_validity(random_crystals([2]).select([])).valid.shape == (0,)
