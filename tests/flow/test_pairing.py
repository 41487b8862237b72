"""Minimum-permutation pairing against all permutations."""

from __future__ import annotations

import itertools

import pytest
import torch

from omatg_ray.crystal.batch import Layout
from omatg_ray.crystal.lattice import minimum_difference
from omatg_ray.flow.pairing import ORIGINS, minimum_permutation, pair, shortest_paths
from omatg_ray.flow.settings import PathSettings
from tests.small import random_crystals

SIZES = [4, 1, 6, 2, 4]


def cost(x_0, x_1):
    images = torch.tensor(list(itertools.product((-1.0, 0.0, 1.0), repeat=3)), dtype=x_0.dtype)
    # Component by component the nearest image is also the nearest image in the Euclidean norm.
    return float((x_1[:, None] + images - x_0[:, None]).norm(dim=-1).min(1).values.sum())


def test_no_permutation_is_shorter():
    layout = Layout(torch.tensor(SIZES))
    x_0, x_1 = torch.rand(2, sum(SIZES), 3, dtype=torch.float64)
    order = minimum_permutation(x_0, x_1, layout)
    start = 0
    for n in SIZES:
        rows = order[start : start + n] - start
        assert sorted(rows.tolist()) == list(range(n))
        origin, target = x_0[start : start + n], x_1[start : start + n]
        best = min(cost(origin[list(p)], target) for p in itertools.permutations(range(n)))
        assert cost(origin[rows], target) == pytest.approx(best, abs=1e-12)
        start += n


def test_recovers_a_shuffle():
    layout = Layout(torch.tensor([8, 8]))
    x_1 = torch.rand(16, 3)
    shuffle = torch.cat([torch.randperm(8), 8 + torch.randperm(8)])
    x_0 = (x_1[shuffle] + 0.001) % 1.0
    assert torch.equal(shuffle[minimum_permutation(x_0, x_1, layout)], torch.arange(16))


def spread(x_0: torch.Tensor, x_1: torch.Tensor, layout: Layout) -> list[float]:
    """Sum of the squared differences of each structure, less their mean."""
    difference = minimum_difference(x_1 - x_0)
    difference = difference - layout.mean(difference)[layout.batch]
    return layout.sum(difference.square().sum(1)).tolist()


def test_a_translated_shuffle_is_recognised():
    rng = torch.Generator().manual_seed(0)
    sizes = [ORIGINS, 1, 3, 5]
    layout = Layout(torch.tensor(sizes))
    x_1 = torch.rand(sum(sizes), 3, generator=rng, dtype=torch.float64)
    moved = torch.rand(len(sizes), 3, generator=rng, dtype=torch.float64)
    shuffle = torch.cat(
        [start + torch.randperm(n, generator=rng) for start, n in zip(layout.ptr[:-1], sizes, strict=True)]
    )
    x_0 = (x_1[shuffle] - moved[layout.batch]) % 1.0
    order, shift = shortest_paths(x_0, x_1, layout)
    assert torch.equal(shuffle[order], torch.arange(len(x_1)))
    torch.testing.assert_close(minimum_difference(shift - moved), torch.zeros_like(moved), atol=1e-12, rtol=0)


def test_a_free_origin_shortens_paths():
    rng = torch.Generator().manual_seed(1)
    sizes = [2, 4, 7, 12, 20] * 20
    layout = Layout(torch.tensor(sizes))
    x_0, x_1 = torch.rand(2, sum(sizes), 3, generator=rng, dtype=torch.float64)
    order, shift = shortest_paths(x_0, x_1, layout)
    for b, n in enumerate(sizes):
        rows = order[int(layout.ptr[b]) : int(layout.ptr[b]) + n] - layout.ptr[b]
        assert sorted(rows.tolist()) == list(range(n))
    fixed = spread(x_0[minimum_permutation(x_0, x_1, layout)], x_1, layout)
    free = spread(x_0[order] + shift[layout.batch], x_1, layout)
    assert sum(free) < 0.85 * sum(fixed)
    # No translation nearby is better, and the mean difference is gone.
    difference = minimum_difference(x_1 - x_0[order] - shift[layout.batch])
    assert float(layout.mean(difference).abs().max()) < 1e-9


def test_no_origin_and_order_of_two_atoms_are_shorter():
    """Two atoms: their difference vector is all that counts, so both orders are all there is to try."""
    rng = torch.Generator().manual_seed(2)
    layout = Layout(torch.full((50,), 2))
    x_0, x_1 = torch.rand(2, 100, 3, generator=rng, dtype=torch.float64)
    order, shift = shortest_paths(x_0, x_1, layout)
    found = spread(x_0[order] + shift[layout.batch], x_1, layout)
    for b, value in enumerate(found):
        first, second = x_0[2 * b : 2 * b + 2], x_1[2 * b : 2 * b + 2]
        vectors = [minimum_difference(second[1] - second[0] - sign * (first[1] - first[0])) for sign in (1, -1)]
        assert value == pytest.approx(min(float(vector.square().sum()) / 2 for vector in vectors), abs=1e-9)


def test_pairs_keep_species_and_cells_and_are_wrapped():
    x_0, x_1 = random_crystals([3, 9], seed=0), random_crystals([3, 9], seed=1)
    x_0 = x_0.replace(cell=x_1.cell)
    for pairing in ("fixed_origin", "free_origin"):
        paired = pair(PathSettings(pairing=pairing), x_0, x_1)
        assert torch.equal(paired.species, x_0.species) and torch.equal(paired.cell, x_0.cell)
        assert float(paired.pos.min()) >= 0 and float(paired.pos.max()) < 1
    order = minimum_permutation(x_0.pos, x_1.pos, x_1.layout)
    assert torch.equal(pair(PathSettings(), x_0, x_1).pos, x_0.pos[order])
