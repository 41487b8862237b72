"""Minimum-permutation pairing against all permutations."""

from __future__ import annotations

import itertools

import pytest
import torch

from omatg_ray.crystal.batch import CrystalBatch, Layout
from omatg_ray.crystal.lattice import minimum_difference
from omatg_ray.flow.pairing import minimum_permutation, paired

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


def test_exchanges_within_a_species_only():
    layout = Layout(torch.tensor([5]))
    species = torch.tensor([3, 8, 3, 8, 8])
    x_0, x_1 = torch.rand(2, 5, 3, dtype=torch.float64)
    order = minimum_permutation(x_0, x_1, layout, species)
    assert torch.equal(species[order], species)
    allowed = [p for p in itertools.permutations(range(5)) if torch.equal(species[list(p)], species)]
    assert len(allowed) == 12
    assert cost(x_0[order], x_1) == pytest.approx(min(cost(x_0[list(p)], x_1) for p in allowed), abs=1e-12)


@pytest.mark.parametrize(("among", "unchanged"), [("same_species", True), ("all_atoms", False)])
def test_where_atoms_start_does_not_depend_on_the_crystal_within_a_species(among, unchanged):
    """In NaCl's CsCl form, from which of two uniform points does Cl start: the one nearer to Cl's place, or either?"""
    torch.manual_seed(0)
    n = 2000
    places = torch.tensor([[0.0] * 3, [0.5] * 3] * n)
    sizes = torch.full((n,), 2)
    crystal = CrystalBatch(torch.tensor([11, 17] * n), places, torch.eye(3).repeat(n, 1, 1), sizes)
    x_0 = paired(crystal.replace(torch.rand(2 * n, 3), crystal.cell), crystal, among)
    away = minimum_difference(x_0.pos.view(n, 2, 3) - crystal.pos.view(n, 2, 3)).norm(dim=-1)
    nearer = float((away[:, 1] < minimum_difference(x_0.pos.view(n, 2, 3)[:, 0] - 0.5).norm(dim=-1)).double().mean())
    # By symmetry half of the independent points are the nearer ones: a standard error of 0.011.
    assert (abs(nearer - 0.5) < 0.05) is unchanged


def test_either_of_two_like_atoms_goes_to_the_nearer_place():
    """Two of each species, all at places of the other species: within a species only the like ones are exchanged."""
    places = torch.tensor([[0.0, 0, 0], [0.5, 0, 0], [0, 0.5, 0], [0, 0, 0.5]])
    crystal = CrystalBatch(torch.tensor([11, 11, 17, 17]), places, torch.eye(3)[None], torch.tensor([4]))
    start = crystal.replace(places[[1, 0, 3, 2]] + 0.01, crystal.cell)
    assert torch.equal(paired(start, crystal, "same_species").pos, start.pos[[1, 0, 3, 2]])
    assert torch.equal(paired(start, crystal, "as_drawn").pos, start.pos)
    crossed = crystal.replace(places[[2, 3, 0, 1]] + 0.01, crystal.cell)
    assert torch.equal(paired(crossed, crystal, "all_atoms").pos, crossed.pos[[2, 3, 0, 1]])
    assert not torch.equal(paired(crossed, crystal, "same_species").pos, crossed.pos[[2, 3, 0, 1]])


def test_recovers_a_shuffle():
    layout = Layout(torch.tensor([8, 8]))
    x_1 = torch.rand(16, 3)
    shuffle = torch.cat([torch.randperm(8), 8 + torch.randperm(8)])
    x_0 = (x_1[shuffle] + 0.001) % 1.0
    assert torch.equal(shuffle[minimum_permutation(x_0, x_1, layout)], torch.arange(16))
