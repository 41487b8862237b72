"""Pairs of near atoms."""

from __future__ import annotations

import itertools

import pytest
import torch

from omatg_ray.crystal.batch import CrystalBatch, Layout
from omatg_ray.crystal.lattice import cell_from_parameters
from omatg_ray.flow.neighbors import SHELL, near
from tests.small import SIZE, random_crystals, rock_salt, small_network

ROCK_SALT = rock_salt()


def pairs_of(crystals: CrystalBatch, k: int) -> set[tuple[int, int]]:
    edges = near(crystals, k)
    return set(zip(edges.first.tolist(), edges.second.tolist(), strict=True))


def test_small_cells_keep_all_their_pairs_in_their_order() -> None:
    crystals = random_crystals([3, 1, 5])
    assert near(crystals, 4) is crystals.layout.edges
    mixed = near(random_crystals([3, 9, 5]), 4)
    ours, theirs = (
        [(i, j) for i, j in zip(first.tolist(), second.tolist(), strict=True) if not 3 <= i < 12]
        for first, second in ((mixed.first, mixed.second), Layout(torch.tensor([3, 9, 5])).pairs[:2])
    )
    assert ours == theirs


def test_atoms_of_a_chain_hear_their_neighbours_across_the_boundary() -> None:
    # Ten atoms in a row, 1 Å apart, in a cell of 10 Å. With k = 3 both of the next ones are as near as the third.
    pos = torch.zeros(10, 3)
    pos[:, 0] = torch.arange(10) / 10
    chain = CrystalBatch(torch.ones(10), pos, torch.diag(torch.tensor([10.0, 30.0, 30.0]))[None], torch.tensor([10]))
    nearest = {*((i, i + 1) for i in range(9)), (0, 9)}
    assert pairs_of(chain, 2) == nearest
    assert pairs_of(chain, 3) == nearest | {*((i, i + 2) for i in range(8)), (0, 8), (1, 9)}
    assert near(chain, 2).degree.tolist() == [3] * 10


@pytest.mark.parametrize("k", [1, 6, 8, 14])
def test_the_order_of_atoms_and_the_origin_do_not_matter_in_a_symmetric_crystal(k: int) -> None:
    crystal = CrystalBatch.from_structures([ROCK_SALT * (2, 2, 2)])
    order = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    expected = pairs_of(crystal, k)
    shuffled = {(int(order[i]), int(order[j])) for i, j in pairs_of(crystal.replace(crystal.pos[order]), k)}
    assert {tuple(sorted(pair)) for pair in shuffled} == expected
    assert pairs_of(crystal.replace((crystal.pos + 0.1234) % 1.0), k) == expected
    # Six of the other kind, then twelve of the same.
    degree = near(crystal, k).degree.tolist()
    assert degree == [7 if k <= 6 else 19] * 64


@pytest.mark.parametrize(
    "angles", [(60.0, 60.0, 60.0), (109.47, 109.47, 109.47), (90.0, 90.0, 120.0), (65.0, 80.0, 115.0)]
)
def test_neighbours_are_the_nearest_of_all_images(angles: tuple[float, float, float]) -> None:
    rng = torch.Generator().manual_seed(3)
    cell = cell_from_parameters(torch.tensor([[7.0, 8.0, 9.0]], dtype=torch.float64), torch.tensor([angles]).double())
    crystal = CrystalBatch(
        torch.ones(24), torch.rand(24, 3, generator=rng, dtype=torch.float64), cell, torch.tensor([24])
    )
    images = torch.tensor(list(itertools.product((-2.0, -1.0, 0.0, 1.0, 2.0), repeat=3)), dtype=torch.float64)
    apart = crystal.pos[None] - crystal.pos[:, None]
    distance = ((apart[:, :, None] + images) @ cell[0]).norm(dim=-1).min(-1).values
    reach = (1 + SHELL) * distance.fill_diagonal_(torch.inf).sort(1).values[:, 7]
    expected = {tuple(sorted((i, int(j)))) for i in range(24) for j in (distance[i] <= reach[i]).nonzero()}
    assert pairs_of(crystal, 8) == expected


def test_edges_are_sorted_by_atoms() -> None:
    edges = near(random_crystals([12, 2, 7]), 3)
    receiver, sender = edges.ends[:, 0], edges.ends[:, 1] - 21
    for ends, order in ((receiver, edges.by_receiver), (sender, edges.by_sender)):
        assert torch.equal(ends.bincount(), edges.degree)
        for atom, (start, degree) in enumerate(zip(edges.start.tolist(), edges.degree.tolist(), strict=True)):
            assert set(ends[order[start : start + degree]].tolist()) == {atom}
    # Each atom hears at least its three nearest and itself; hearing is mutual.
    assert int(edges.degree[:12].min()) >= 4
    pairs = set(zip(receiver.tolist(), sender.tolist(), strict=True))
    assert pairs == {(j, i) for i, j in pairs} and len(pairs) == len(edges.ends)


@pytest.mark.parametrize("pooled", [False, True])
def test_gradients_through_neighbours_are_right(pooled: bool) -> None:
    """By finite differences; no pair changes over so small a step."""
    network = small_network(size=SIZE.model_copy(update={"neighbors": 3, "pooled": pooled}))
    crystals, t = random_crystals([9, 2]), torch.tensor([0.3, 0.7], dtype=torch.float64)

    def value(pos: torch.Tensor, cell: torch.Tensor) -> torch.Tensor:
        out = network(crystals.replace(pos, cell), t)
        return out.pos_b.sin().sum() + out.cell_b.sin().sum()

    pos, cell = crystals.pos.clone().requires_grad_(), crystals.cell.clone().requires_grad_()
    assert torch.autograd.gradcheck(value, (pos, cell), eps=1e-6, atol=1e-6, rtol=1e-4)
