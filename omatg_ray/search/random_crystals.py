"""Random crystals, with which a search can start instead of with those of a model.

They are made by the recipe of AIRSS (Pickard and Needs, J. Phys.: Condens. Matter 23, 053201, 2011): a random space
group, a random cell of reasonable volume with its symmetry, and atoms on random positions of the group, general and
special ones, no two closer than is sensible for their elements. All bonds are treated alike: what is metallic or ionic,
and that like ions repel, is left to the relaxation.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import gemmi
import numpy as np
import torch
from numpy.typing import NDArray

from omatg_ray.assets import asset
from omatg_ray.crystal.base import ANGLE_RANGE, BaseDistribution, CellByVolume
from omatg_ray.crystal.batch import MAX_ATOMIC_NUMBER, CrystalBatch
from omatg_ray.crystal.lattice import wrap
from omatg_ray.crystal.reduce import reduce_cell
from omatg_ray.crystal.validity import MIN_DISTANCE
from omatg_ray.errors import DataError
from omatg_ray.model.sampling import DEFAULT, Sampling
from omatg_ray.policy.settings import CHUNK_PAIRS
from omatg_ray.seeding import seed_of

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

CLOSEST = 0.8
"""Least distance of two atoms, in units of the sum of their covalent radii. 4 % of the bundled crystals go below."""
CLOSEST_OF_ALL = 1.1 * MIN_DISTANCE
"""Least distance of two atoms in Å, whatever they are; the radii of hydrogen and helium ask for less."""
VOLUMES = (0.75, 1.25)
"""Volume of a cell, in units of what its atoms take in crystals; 90 % of the bundled crystals have 0.85 to 1.34."""
PACKED = 0.4
"""Largest share of a cell for spheres of the least distances, which jam at 0.38 where they are put in at random.

It matters for large atoms whose volumes are those of their ions, such as caesium.
"""
LENGTHS = (0.5, 1.5)
"""Lengths of a conventional cell, in units of each other, before symmetry makes some equal."""
FLATTEST = 0.3
"""Smallest polar sine of the same cell."""

GROUPS, TRIES = 40, 3
"""Space groups drawn for a crystal, and cells tried with each, before it is made without symmetry."""
WIDER = 1.2
"""Without symmetry, a cell without room is followed by one that is larger by this factor."""
CANDIDATES, ROUNDS = 16, 6
"""Places that are tried at once for the atoms of a site, and how often, before the cell is given up."""

GRID = gemmi.Op.DEN
"""Every special position has points with coordinates in multiples of 1 / 24, like the translations of operations."""


@dataclass(frozen=True, eq=False)
class Positions:
    """The p positions of a space group with m atoms each in the primitive cell. Equivalent ones are listed too.

    Attributes:
        point: A point of each (p, 3).
        projection: Moves u onto the position, to `point` + `projection` @ (u − `point`) (p, 3, 3).
        images: Indices of the operations that make its atoms (p, m).
    """

    point: FloatArray
    projection: FloatArray
    images: IntArray


@dataclass(frozen=True, eq=False)
class SpaceGroup:
    """A space group in a primitive cell: n operations x' = W x + w, modulo lattice translations.

    Attributes:
        number: In International Tables, from 1.
        basis: Vectors of the primitive cell in units of those of the conventional one, as rows (3, 3).
        rotations: W (n, 3, 3).
        translations: w (n, 3).
        positions: General and special positions, by their number of atoms in the primitive cell.
    """

    number: int
    basis: FloatArray
    rotations: FloatArray
    translations: FloatArray
    positions: Mapping[int, Positions]


@dataclass(frozen=True, eq=False)
class RandomCrystal:
    """A random crystal of N atoms.

    Attributes:
        cell: Niggli cell in standard orientation, in Å; rows are the vectors (3, 3).
        pos: Fractional positions in [0, 1) of the atoms in the order asked for (N, 3).
        space_group: Number of the space group that it was made with. By chance it may have a higher symmetry.
    """

    cell: FloatArray
    pos: FloatArray
    space_group: int


class RandomCrystals:
    """Makes crystals at random, wherever a `FlowModel` would generate them."""

    def to(self, _: torch.device | str) -> RandomCrystals:
        """Return it as it is: it works on the CPU."""
        return self

    def generate(
        self,
        species: Sequence[Sequence[int]],
        sampling: Sampling = DEFAULT,
        seed: int = 0,
        indices: Sequence[int] | None = None,
        chunk_pairs: int = CHUNK_PAIRS,
        *,
        turns: Sequence[int] | None = None,
        judged: bool = False,
    ) -> CrystalBatch:
        """Make one crystal for each list of atomic numbers, packed, in float32 on the CPU.

        Called as `FlowModel.generate` is. What steers a network or warns about it is ignored: `sampling`,
        `chunk_pairs`, `turns` and `judged`. Crystal i depends only on (species[i], seed, indices[i]).

        Args:
            species: Atomic numbers of each cell, whose order is kept.
            sampling: Ignored.
            seed: Seed of all crystals.
            indices: Identity of each crystal; by default its index in the list.
            chunk_pairs: Ignored.
            turns: Ignored.
            judged: Ignored.

        Raises:
            DataError: As `random_crystal`.
            ValueError: There are more or fewer indices than crystals.
        """
        keys = range(len(species)) if indices is None else indices
        if len(keys) != len(species):
            raise ValueError(f"{len(keys)} indices for {len(species)} structures")
        if not species:
            return CrystalBatch.from_structures([])
        made = [random_crystal(z, seed_of(seed, "random", index)) for z, index in zip(species, keys, strict=True)]
        return CrystalBatch(
            torch.tensor([z for structure in species for z in structure]),
            wrap(torch.from_numpy(np.concatenate([crystal.pos for crystal in made])).float()),
            torch.from_numpy(np.stack([crystal.cell for crystal in made])).float(),
            torch.tensor([len(structure) for structure in species]),
        )


def random_crystal(species: Sequence[int], seed: int) -> RandomCrystal:
    """Make a random crystal. It depends on the seed and on how many atoms of each element there are, on nothing else.

    Space groups are drawn, all 230 with equal chances, until one has positions for these numbers of atoms and there is
    room on them. After `GROUPS` draws symmetry is given up. Each further cell is a fifth larger, so there is soon room,
    whatever the atoms.

    Args:
        species: Atomic numbers of the cell.
        seed: Seed of the random numbers.

    Raises:
        DataError: There are no atoms, an atomic number is not in 1 to 118, or a file of the bundled base model, which
            says how much room atoms take, is missing or damaged.
    """
    if not species or not all(1 <= z <= MAX_ATOMIC_NUMBER for z in species):
        raise DataError(f"a crystal needs atomic numbers from 1 to {MAX_ATOMIC_NUMBER}, not {list(species)}")
    # Large atoms first: small ones find room between them.
    counts = Counter(sorted(species, key=lambda z: (-_radii()[z], z)))
    kinds = {z: kind for kind, z in enumerate(counts)}
    rng = np.random.default_rng(seed)
    for group, volume in _draw(counts, rng):
        cell = _random_cell(group, volume, rng)
        if cell is not None and (atoms := _Filling(group, cell, counts, rng)).fill():
            pos = np.empty_like(atoms.pos)
            pos[np.argsort([kinds[z] for z in species], kind="stable")] = atoms.pos
            return RandomCrystal(atoms.cell, pos % 1.0 % 1.0, group.number)
    raise AssertionError("there is always another cell to try")


def _draw(counts: Mapping[int, int], rng: np.random.Generator) -> Iterator[tuple[SpaceGroup, float]]:
    """Yield space groups and volumes in Å³ to try for these numbers of atoms, without end."""
    numbers, times = np.array(list(counts)), np.array(list(counts.values()))
    spheres = 4 / 3 * np.pi * (CLOSEST * _radii()[numbers]) ** 3
    usual = max(float(times @ _volumes()[numbers]), float(times @ spheres) / PACKED)
    for _ in range(GROUPS):
        group = space_group(int(rng.integers(1, 231)))
        if all(_adds_up(tuple(group.positions), count)[count] for count in counts.values()):
            for _ in range(TRIES):
                yield group, usual * rng.uniform(*VOLUMES)
    for power in itertools.count():
        yield space_group(1), usual * rng.uniform(*VOLUMES) * WIDER**power


def _random_cell(group: SpaceGroup, volume: float, rng: np.random.Generator) -> FloatArray | None:
    """Return a random primitive cell (3, 3) of a volume in Å³ with the symmetry of a group, or None if it is flat."""
    lengths, angles = rng.uniform(*LENGTHS, size=3), np.deg2rad(rng.uniform(*ANGLE_RANGE, size=3))
    metric = np.eye(3)
    metric[[1, 0, 0], [2, 2, 1]] = metric[[2, 2, 1], [1, 0, 0]] = np.cos(angles)
    if np.linalg.det(metric) < FLATTEST**2:
        return None
    metric = group.basis @ (metric * np.outer(lengths, lengths)) @ group.basis.T
    # Operations keep the mean of what they make of any lattice, whatever the crystal system.
    metric = (np.swapaxes(group.rotations, 1, 2) @ metric @ group.rotations).mean(0)
    cell: FloatArray = np.linalg.cholesky(metric)
    return cell * np.cbrt(volume / np.linalg.det(cell))


class _Filling:
    """A cell that is filled with atoms.

    Attributes:
        cell: Its Niggli cell (3, 3) in Å.
        pos: Fractional positions of the atoms so far (N, 3), kind after kind.

    Args:
        group: Space group.
        cell: Primitive cell (3, 3) in Å with its symmetry.
        counts: Numbers of atoms to place, by atomic number.
        rng: Random numbers.
    """

    def __init__(
        self, group: SpaceGroup, cell: FloatArray, counts: Mapping[int, int], rng: np.random.Generator
    ) -> None:
        self._group, self._counts, self._rng = group, counts, rng
        self.cell, self._change = reduce_cell(cell, np.eye(3))
        self.pos = np.empty((0, 3))
        self._kind = np.empty(0, dtype=np.int64)
        radii = _radii()[list(counts)]
        self._least = np.maximum(CLOSEST * (radii[:, None] + radii), CLOSEST_OF_ALL)

    def fill(self) -> bool:
        """Place all atoms, if there is room for them."""
        shifts = self._shifts()
        if shifts is None:
            return False
        for kind, count in enumerate(self._counts.values()):
            left = count
            while left:
                placed = self._place(kind, left, shifts)
                if not placed:
                    return False
                left -= placed
        return True

    def _shifts(self) -> FloatArray | None:
        """Return the lattice vectors (s, 3) within one of which atoms may be too close; None if some are too short.

        A vector shorter than d has components below d / h_i, with the heights h_i of the cell. Differences of positions
        are reduced to half a lattice vector first, so no more than d / h_i + 1 / 2 have to be added. Where this is 2 or
        more, a Niggli cell has a vector shorter than d.
        """
        most = self._least.max()
        heights = 1 / np.linalg.norm(np.linalg.inv(self.cell), axis=0)
        reach = np.floor(most / heights + 0.5)
        if reach.max() > 1:
            return None
        shifts: FloatArray = np.array(list(itertools.product(*(np.arange(-r, r + 1) for r in reach)))) @ self.cell
        lengths = np.linalg.norm(shifts, axis=1)
        return None if ((lengths > 0) & (lengths < most)).any() else shifts

    def _place(self, kind: int, left: int, shifts: FloatArray) -> int:
        """Place atoms of a kind on one position, at most as many as are left; return how many."""
        fills = _adds_up(tuple(self._group.positions), left)
        sizes = np.array([size for size in self._group.positions if size <= left and fills[left - size]])
        for _ in range(ROUNDS):
            # In proportion to their atoms: else small groups would put most atoms on their many special points.
            size = int(self._rng.choice(sizes, p=sizes / sizes.sum()))
            atoms = self._random_atoms(size)
            others = np.concatenate([atoms[:, 1:], np.broadcast_to(self.pos, (CANDIDATES, *self.pos.shape))], axis=1)
            kinds = np.concatenate([np.full(size - 1, kind), self._kind])
            apart = others - atoms[:, :1]  # by symmetry, one atom of a position stands for all
            apart = (apart - np.rint(apart)) @ self.cell
            distance = np.linalg.norm(apart[:, :, None] + shifts, axis=-1).min(-1)
            fits = (distance >= self._least[kind, kinds]).all(-1)
            if fits.any():
                self.pos = np.concatenate([self.pos, atoms[fits.argmax()]])
                self._kind = np.append(self._kind, np.full(size, kind))
                return size
        return 0

    def _random_atoms(self, size: int) -> FloatArray:
        """Return `CANDIDATES` times the atoms of a random position with so many (c, size, 3)."""
        positions = self._group.positions[size]
        chosen = self._rng.integers(len(positions.point), size=CANDIDATES)
        point, images = positions.point[chosen], positions.images[chosen]
        offset = self._rng.random((CANDIDATES, 3)) - point
        site = point + (positions.projection[chosen] @ offset[..., None])[..., 0]
        atoms = (self._group.rotations[images] @ site[:, None, :, None])[..., 0] + self._group.translations[images]
        return atoms @ self._change


@cache
def space_group(number: int) -> SpaceGroup:
    """Return a space group in gemmi's first setting, with all of its positions.

    The operations that fix a point have a mean, which projects on the position that the point lies on. The points of a
    grid show all positions, in integers.

    Args:
        number: In International Tables, from 1 to 230.
    """
    found = gemmi.find_spacegroup_by_number(number)
    assert found is not None
    operations = found.operations().sym_ops
    basis = np.array(found.centred_to_primitive().rot) / GRID  # the vectors are its columns
    inverse = np.linalg.inv(basis)
    rotations = np.rint([inverse @ np.array(operation.rot) @ basis / GRID for operation in operations])
    translations = np.rint([inverse @ operation.tran for operation in operations]) % GRID
    grid = np.indices((GRID, GRID, GRID)).reshape(3, -1).T
    # int32 because the remainder of floats takes far longer.
    images = (grid @ np.swapaxes(rotations, 1, 2) + translations[:, None]).astype(np.int32) % GRID
    fixed = (images == grid).all(-1).T
    special = np.append(np.flatnonzero(fixed.sum(1) > 1), fixed.sum(1).argmin())  # and one for the general position
    grid, images, fixed = grid[special], images[:, special], fixed[special].astype(np.float64)
    fixing, sums = fixed.sum(1), (fixed @ rotations.reshape(-1, 9)).reshape(-1, 3, 3)
    origins = fixing[:, None] * grid - (sums @ grid[..., None])[..., 0]
    first = np.unique(np.concatenate([sums.reshape(-1, 9), origins], axis=1), axis=0, return_index=True)[1]
    point, projection = grid[first] / GRID, sums[first] / fixing[first, None, None]
    codes = (images[:, first] @ [GRID**2, GRID, 1]).T
    sizes = len(operations) // fixing[first].astype(np.int64)
    positions = {}
    for size in np.unique(sizes).tolist():
        rows = sizes == size
        atoms = np.array([np.unique(code, return_index=True)[1] for code in codes[rows]])
        positions[size] = Positions(point[rows], projection[rows], atoms)
    return SpaceGroup(number, basis.T, rotations, translations / GRID, positions)


@cache
def _adds_up(sizes: tuple[int, ...], most: int) -> list[bool]:
    """Return which numbers up to `most` are sums of these sizes, each taken any number of times."""
    sums = [True]
    for count in range(1, most + 1):
        sums.append(any(size <= count and sums[count - size] for size in sizes))
    return sums


@cache
def _radii() -> FloatArray:
    """Return covalent radii in Å by atomic number (119,): Cordero et al., Dalton Trans. 2008, 2832, up to curium."""
    from ase.data import covalent_radii, missing

    radii = np.array(covalent_radii[: MAX_ATOMIC_NUMBER + 1])
    radii[radii == missing] = radii[96]
    return radii


@cache
def _volumes() -> FloatArray:
    """Return what atoms take in crystals, in Å³ by atomic number (119,): as the bundled base model starts from it."""
    description = json.loads((asset("base") / "model.json").read_text(encoding="utf-8"))
    cells = BaseDistribution.model_validate(description["base_distribution"]).cell
    assert isinstance(cells, CellByVolume)
    return cells.volumes.numpy()
