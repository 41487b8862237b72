"""Pairs of near atoms."""

from __future__ import annotations

import torch

from omatg_ray.crystal.batch import CrystalBatch, Layout
from omatg_ray.flow.neighbors import near
from tests.small import random_crystals


def test_small_cells_keep_all_their_pairs():
    crystals = random_crystals([3, 1, 5])
    assert near(crystals, 4) is crystals.layout.edges
    mixed = near(random_crystals([3, 9, 5]), 4)
    all_pairs = Layout(torch.tensor([3, 9, 5])).pairs
    ours, theirs = (
        {(i, j) for i, j in zip(first.tolist(), second.tolist(), strict=True) if not 3 <= i < 12}
        for first, second in ((mixed.first, mixed.second), all_pairs[:2])
    )
    assert ours == theirs


def test_atoms_of_a_chain_hear_their_neighbours_across_the_boundary():
    # Ten atoms in a row, 1 Å apart, in a cell of 10 Å: each has two nearest ones, and ties of the next keep the order.
    pos = torch.zeros(10, 3)
    pos[:, 0] = torch.arange(10) / 10
    chain = CrystalBatch(torch.ones(10), pos, torch.diag(torch.tensor([10.0, 30.0, 30.0]))[None], torch.tensor([10]))
    edges = near(chain, 2)
    pairs = set(zip(edges.first.tolist(), edges.second.tolist(), strict=True))
    assert pairs == {*((i, i + 1) for i in range(9)), (0, 9)}
    assert edges.degree.tolist() == [3] * 10


def test_edges_are_sorted_by_atoms():
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
