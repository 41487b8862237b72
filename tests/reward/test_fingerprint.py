"""Distances of radial distribution functions."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.reward.fingerprint import BIN, CUTOFF, SMEARING, group_distances

F_CENTRED = torch.tensor([[0.0, 0.5, 0.5], [0.5, 0.0, 0.5], [0.5, 0.5, 0.0]], dtype=torch.float64)
CORNER = [0.0, 0.0, 0.0]


def crystal(species, pos, cell):
    cell = torch.as_tensor(cell, dtype=torch.float64)[None]
    return CrystalBatch(
        torch.tensor(species), torch.tensor(pos, dtype=torch.float64), cell, torch.tensor([len(species)])
    )


def rocksalt(length=5.6, species=(11, 17)):
    return crystal(list(species), [CORNER, [0.5, 0.5, 0.5]], length * F_CENTRED)


def zincblende(length=6.1):
    return crystal([11, 17], [CORNER, [0.25, 0.25, 0.25]], length * F_CENTRED)


def caesium_chloride(length=3.5):
    return crystal([11, 17], [CORNER, [0.5, 0.5, 0.5]], length * torch.eye(3))


def distance(*crystals):
    return group_distances(CrystalBatch.cat(crystals), len(crystals))[0]


def by_images(species, frac, cell, reach=5):
    """The fingerprint summed over all images in a block, its Gaussians evaluated pair by pair."""
    n = len(species)
    cell = cell / (abs(np.linalg.det(cell)) / n) ** (1 / 3)
    images = np.array(list(itertools.product(range(-reach, reach + 1), repeat=3)))
    r = np.arange(1, math.ceil(CUTOFF / BIN)) * BIN
    r = r[r < CUTOFF]
    parts = []
    for a, b in itertools.product(sorted(set(species)), repeat=2):
        of_a, of_b = ([i for i in range(n) if species[i] == z] for z in (a, b))
        total = np.zeros_like(r)
        for i, j in itertools.product(of_a, of_b):
            lengths = np.linalg.norm((frac[j] - frac[i] + images) @ cell, axis=1)
            for length in lengths[(lengths > 1e-8) & (lengths < CUTOFF + 1)]:
                total += np.exp(-0.5 * ((r - length) / SMEARING) ** 2) / (SMEARING * math.sqrt(2 * math.pi))
        share = len(of_a) * len(of_b)
        parts.append(math.sqrt(share) * (total / (4 * math.pi * r**2 * share / n) - 1))
    return np.concatenate(parts)


def test_agrees_with_a_sum_over_images_to_the_width_of_a_bin() -> None:
    generator = torch.Generator().manual_seed(3)
    made = [
        crystal(
            [12, 8, 8],
            torch.rand(3, 3, generator=generator).tolist(),
            4 * torch.eye(3) + 0.6 * torch.randn(3, 3, generator=generator),
        )
        for _ in range(4)
    ]
    expected = [by_images(c.species.tolist(), c.pos.numpy(), c.cell[0].numpy()) for c in made]
    found = distance(*made)
    for i, j in itertools.combinations(range(4), 2):
        a, b = expected[i], expected[j]
        assert float(found[i, j]) == pytest.approx(0.5 * (1 - a @ b / np.linalg.norm(a) / np.linalg.norm(b)), abs=0.01)


def test_the_same_crystal_has_no_distance_however_it_is_written() -> None:
    plain = rocksalt()
    generator = torch.Generator().manual_seed(0)
    rotation = torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=torch.float64))[0]
    rotated = plain.replace(cell=plain.cell @ rotation)
    shifted = plain.replace(pos=(plain.pos + 0.37) % 1.0)
    swapped = crystal([17, 11], [[0.5, 0.5, 0.5], CORNER], 5.6 * F_CENTRED)
    larger = rocksalt(7.3)
    skew = torch.tensor([[1.0, 0.0, 0.0], [3.0, 1.0, 0.0], [0.0, -2.0, 1.0]], dtype=torch.float64)
    skewed = plain.replace(pos=(plain.pos @ torch.linalg.inv(skew)) % 1.0, cell=skew @ plain.cell)
    assert float(distance(plain, rotated, shifted, swapped, larger, skewed).max()) < 1e-3


def test_polymorphs_lie_apart_and_a_small_displacement_does_not() -> None:
    rattled = rocksalt().replace(pos=rocksalt().pos + torch.tensor([[0.0, 0, 0], [0.01, 0.0, 0.0]]))
    found = distance(rocksalt(), rattled, zincblende(), caesium_chloride())
    apart = [float(found[i, j]) for i, j in ((0, 2), (0, 3), (2, 3))]
    assert float(found[0, 1]) < 0.05 < 0.15 < min(apart)
    assert torch.equal(found, found.T)


def test_elements_are_told_apart() -> None:
    # Na3Cl in two ways of putting the chlorine: as in Cu3Au, and in a row.
    pos = [CORNER, [0.5, 0.5, 0.0], [0.5, 0.0, 0.5], [0.0, 0.5, 0.5]]
    ordered = crystal([17, 11, 11, 11], pos, 4 * torch.eye(3))
    tall = crystal(
        [17, 11, 11, 11],
        [CORNER, [0.5, 0.5, 0.25], [0.0, 0.0, 0.5], [0.5, 0.5, 0.75]],
        4 * torch.tensor([[math.sqrt(0.5), 0, 0], [0, math.sqrt(0.5), 0], [0, 0, 2.0]]),
    )
    assert float(distance(ordered, tall)[0, 1]) > 0.05


def test_groups_are_compared_within_and_invalid_crystals_are_left_out() -> None:
    flat = rocksalt().replace(cell=torch.zeros(1, 3, 3, dtype=torch.float64))
    potassium = rocksalt(species=(19, 17))
    found = group_distances(CrystalBatch.cat([rocksalt(), flat, zincblende(), potassium, potassium, potassium]), 3)
    assert found.shape == (2, 3, 3)
    assert found[0].isnan().tolist() == [[False, True, False], [True, True, True], [False, True, False]]
    assert float(found[1].abs().max()) < 1e-9


def test_several_compositions_cannot_be_compared() -> None:
    sodium = crystal([11], [CORNER], 3 * torch.eye(3))
    made = [rocksalt(), rocksalt(species=(19, 17)), rocksalt(), sodium, zincblende(), rocksalt()]
    found = group_distances(CrystalBatch.cat(made), 2)
    assert found.isnan().all(2).all(1).tolist() == [True, True, False]
