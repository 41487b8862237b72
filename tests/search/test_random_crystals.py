from __future__ import annotations

import itertools
import pickle
import random
import time
from collections import Counter
from typing import Any, cast

import numpy as np
import pytest
import spglib
import torch
from ase import Atoms
from ase.data import covalent_radii
from ase.neighborlist import neighbor_list

from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.crystal.formula import cell_species
from omatg_ray.crystal.validity import check_validity
from omatg_ray.errors import DataError
from omatg_ray.evaluate.backend import Block
from omatg_ray.model.flow_model import FlowModel
from omatg_ray.model.sampling import Sampling
from omatg_ray.search.random_crystals import (
    CLOSEST,
    CLOSEST_OF_ALL,
    GROUPS,
    PACKED,
    TRIES,
    VOLUMES,
    RandomCrystal,
    RandomCrystals,
    _draw,
    _volumes,
    random_crystal,
    space_group,
)

CELLS = {
    "TiO2": cell_species("TiO2"),
    "Ti2O4": cell_species("TiO2", 2),
    "Ti3O6": cell_species("TiO2", 3),
    "Ti4O8": cell_species("TiO2", 4),
    "Si8": cell_species("Si", 8),
    "Ba2ZrS4": cell_species("Ba2ZrS4"),
    "Li4Fe4P4O16": cell_species("LiFePO4", 4),
    "H": [1],
    "Cs": [55],
    "HCs": [1, 55, 1, 55, 1],
    "37 atoms": cell_species("Li5Fe7P3O19H3"),
    "37 elements": list(range(1, 38)),
    "no radii": [118, 97, 118],
}
SYMMETRIC = ["TiO2", "Ti2O4", "Ti3O6", "Ti4O8", "Si8", "Ba2ZrS4", "Li4Fe4P4O16"]


def usual_volume(species: list[int]) -> float:
    """Return the volume in Å³ around which cells are drawn: what atoms take in crystals, or what their spheres need."""
    spheres = 4 / 3 * np.pi * (CLOSEST * covalent_radii[species]) ** 3
    return float(max(_volumes()[species].sum(), spheres.sum() / PACKED))


def symmetry(crystal: RandomCrystal, species: list[int], symprec: float = 0.02) -> Any:
    cell: Any = (crystal.cell, crystal.pos, species)
    return spglib.get_symmetry_dataset(cell, symprec=symprec)


@pytest.mark.parametrize("name", CELLS)
def test_crystals_are_valid_and_of_what_was_asked_for(name: str) -> None:
    species = CELLS[name]
    mixed = random.Random(0).sample(species, len(species))
    crystals = RandomCrystals().generate([species, mixed] * 5)
    assert crystals.atomic_numbers == [species, mixed] * 5
    assert crystals.dtype == torch.float32 and crystals.device.type == "cpu"
    assert bool(((crystals.pos >= 0) & (crystals.pos < 1)).all())
    assert check_validity(crystals).valid.all()
    assert bool((torch.linalg.det(crystals.cell) > 0).all())
    assert bool((crystals.cell.triu(1) == 0).all()), "not in standard orientation"


@pytest.mark.parametrize("name", CELLS)
def test_atoms_keep_the_least_distance_of_their_elements(name: str) -> None:
    species = CELLS[name]
    radii = np.where(np.array(species) > 96, covalent_radii[96], covalent_radii[np.array(species)])
    crystals = RandomCrystals().generate([species] * 10)
    nearest = []
    for row in range(10):
        one = crystals.select([row]).to(dtype=torch.float64)
        atoms = Atoms(species, cell=one.cell[0].numpy(), scaled_positions=one.pos.numpy(), pbc=True)
        first, second, distance = neighbor_list("ijd", atoms, 1.5 * CLOSEST * 2 * radii.max())
        least = np.maximum(CLOSEST * (radii[first] + radii[second]), CLOSEST_OF_ALL)
        assert (distance >= least - 1e-4).all()
        nearest.append((distance / least).min(initial=np.inf))
    assert name == "H" or min(nearest) < 1.5, "they need not keep so far apart"


def test_atoms_go_to_the_elements_in_any_order() -> None:
    """The order of the list decides the order of the atoms, not the crystal."""
    species = CELLS["Ba2ZrS4"]
    order = [6, 0, 3, 2, 5, 1, 4]
    one, other = random_crystal(species, 3), random_crystal([species[i] for i in order], 3)
    assert np.array_equal(one.cell, other.cell)
    for z in set(species):
        ours = one.pos[[i for i, of in enumerate(species) if of == z]]
        theirs = other.pos[[i for i, of in enumerate(order) if species[of] == z]]
        assert np.array_equal(ours, theirs)


def test_a_crystal_depends_on_its_species_seed_and_index_alone() -> None:
    cells = [CELLS[name] for name in SYMMETRIC]
    indices = list(range(10, 10 + len(cells)))
    crystals = RandomCrystals().generate(cells, seed=5, indices=indices)
    states = random.getstate(), np.random.get_state()[1], torch.get_rng_state()  # noqa: NPY002 - left alone?
    for row in reversed(range(len(cells))):
        maker = pickle.loads(pickle.dumps(RandomCrystals()))
        alone = maker.generate(
            [CELLS["H"], cells[row]], Sampling(7), 5, [99, indices[row]], 10, turns=[4, 2], judged=True
        ).select([1])
        same = crystals.select([row])
        assert torch.equal(alone.pos, same.pos) and torch.equal(alone.cell, same.cell)
    assert random.getstate() == states[0]
    assert np.array_equal(np.random.get_state()[1], states[1])  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), states[2])
    random.seed(1), np.random.seed(1), torch.manual_seed(1)  # noqa: NPY002
    again = RandomCrystals().generate(cells, seed=5, indices=indices)
    assert torch.equal(again.pos, crystals.pos) and torch.equal(again.cell, crystals.cell)


def test_other_indices_and_seeds_give_other_crystals() -> None:
    maker, species = RandomCrystals(), CELLS["Ti2O4"]
    crystals = CrystalBatch.cat([maker.generate([species] * 20), maker.generate([species] * 20, seed=1)])
    volumes = torch.linalg.det(crystals.cell.double())
    assert len(set(volumes.tolist())) == 40
    assert torch.equal(maker.generate([species]).cell, maker.generate([species], indices=[0]).cell)


@pytest.mark.parametrize("name", SYMMETRIC)
def test_most_crystals_have_the_symmetry_that_they_were_made_with(name: str) -> None:
    """Of 60 crystals of each cell, 98 to 100 % were above P1, of 20 to 54 space groups."""
    species = CELLS[name]
    crystals = [random_crystal(species, seed) for seed in range(30)]
    found = [symmetry(crystal, species) for crystal in crystals]
    for crystal, dataset in zip(crystals, found, strict=True):
        group = space_group(crystal.space_group)
        # The group found holds the one that was drawn, so its number of operations is a multiple.
        assert len(dataset.rotations) % len(group.rotations) == 0
        if len(dataset.rotations) == len(group.rotations):
            assert dataset.number == crystal.space_group
    numbers = Counter(dataset.number for dataset in found)
    assert numbers[1] <= 3
    assert len(numbers) >= 10


def test_a_large_cell_has_no_symmetry_by_chance() -> None:
    """Of 60 crystals all had the very space group that was drawn."""
    species = CELLS["Li4Fe4P4O16"]
    crystals = [random_crystal(species, seed) for seed in range(100, 120)]
    same = [symmetry(crystal, species).number == crystal.space_group for crystal in crystals]
    assert sum(same) >= 18
    assert len({crystal.space_group for crystal in crystals}) >= 12


def test_volumes_are_those_of_crystals() -> None:
    species = CELLS["Ti2O4"]
    crystals = RandomCrystals().generate([species] * 100)
    ratio = torch.linalg.det(crystals.cell.double()) / usual_volume(species)
    assert VOLUMES[0] - 1e-6 <= float(ratio.min()) < 0.8 and 1.2 < float(ratio.max()) <= VOLUMES[1] + 1e-6
    assert usual_volume(species) == pytest.approx(2 * 31.2, rel=0.1)  # rutile


# The multiplicities of International Tables A, divided by the lattice points of the conventional cell.
@pytest.mark.parametrize(
    "number, sizes",
    [
        (1, [1]),
        (2, [1, 2]),
        (14, [2, 4]),
        (43, [2, 4]),  # F d d 2: 8, 16
        (62, [4, 8]),
        (167, [2, 4, 6, 12]),  # R -3 c, in hexagonal axes: 6, 12, 18, 36
        (216, [1, 4, 6, 12, 24]),  # F -4 3 m: 4, 16, 24, 48, 96
        (225, [1, 2, 6, 8, 12, 24, 48]),  # F m -3 m: 4, 8, 24, 32, 48, 96, 192
        (227, [2, 4, 8, 12, 24, 48]),  # F d -3 m: 8, 16, 32, 48, 96, 192
        (230, [8, 12, 16, 24, 48]),  # I a -3 d: 16, 24, 32, 48, 96
    ],
)
def test_positions_are_those_of_the_tables(number: int, sizes: list[int]) -> None:
    group = space_group(number)
    assert list(group.positions) == sizes
    lattice_points = round(1 / abs(np.linalg.det(group.basis)))
    assert lattice_points == {"P": 1, "R": 3, "F": 4, "I": 2}[spglib_symbol(number)]
    rng = np.random.default_rng(0)
    for size, positions in group.positions.items():
        for point, projection, images in zip(positions.point, positions.projection, positions.images, strict=True):
            site = point + projection @ (rng.random(3) - point)
            everything = group.rotations @ site + group.translations
            atoms = everything[images]
            assert len(atoms) == size
            apart = atoms[:, None] - atoms
            assert (np.abs(apart - np.rint(apart)).max(-1) > 1e-6).sum() == size * (size - 1), "an atom comes twice"
            missed = everything[:, None] - atoms
            assert (np.abs(missed - np.rint(missed)).max(-1) < 1e-9).any(1).all(), "an operation makes another atom"


def spglib_symbol(number: int) -> str:
    """Return the letter of the lattice of a space group, by spglib."""
    types = (spglib.get_spacegroup_type(hall) for hall in range(1, 531))
    return next(of.international_short[0] for of in types if of is not None and of.number == number)


@pytest.mark.parametrize("name", ["H", "Cs", "37 atoms", "37 elements"])
def test_odd_compositions_take_no_longer(name: str) -> None:
    random_crystal(CELLS[name], 0)  # tables are made once
    start = time.process_time()
    crystals = [random_crystal(CELLS[name], seed) for seed in range(100, 110)]
    assert len({crystal.cell.tobytes() for crystal in crystals}) == 10
    assert time.process_time() - start < 10.0  # 0.5 s, and some more for tables


def test_where_nothing_fits_symmetry_goes_and_the_cell_grows() -> None:
    """131 atoms, one of most elements and many that are large."""
    species = [*range(3, 90), *[55] * 44]
    crystal = random_crystal(species, 0)
    assert crystal.space_group == 1 and symmetry(crystal, species).number == 1
    assert np.linalg.det(crystal.cell) > 1.3 * usual_volume(species)


def test_what_is_tried_ends_without_symmetry_in_ever_larger_cells() -> None:
    for counts in ({14: 8}, {1: 1, 3: 1, 9: 1}, {55: 131}):
        tries = list(itertools.islice(_draw(counts, np.random.default_rng(0)), GROUPS * TRIES + 60))
        last = tries[-60:]
        assert {group.number for group, _ in last} == {1}
        volumes = [volume for _, volume in last]
        assert all(later > earlier for earlier, later in zip(volumes[:-4], volumes[4:], strict=True))
        assert volumes[-1] > 1000 * volumes[0]


def test_it_stands_in_for_a_model() -> None:
    block = Block([CELLS["TiO2"], CELLS["Si8"]], [4, 2], Sampling(10), seed=3)
    crystals, _ = block.generate(cast(FlowModel, RandomCrystals()))
    assert torch.equal(crystals.pos, RandomCrystals().generate(block.species, seed=3, indices=[4, 2]).pos)
    assert len(RandomCrystals().generate([])) == 0


def test_what_is_no_crystal_is_refused() -> None:
    for species in ([], [0], [8, 119]):
        with pytest.raises(DataError, match="atomic numbers from 1 to 118"):
            random_crystal(species, 0)
    with pytest.raises(ValueError, match="1 indices for 2 structures"):
        RandomCrystals().generate([[1], [1]], indices=[0])
