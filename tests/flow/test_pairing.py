"""Minimum-permutation pairing against all permutations."""

from __future__ import annotations

import itertools

import pytest
import torch

from omatg_ray.crystal.batch import Layout
from omatg_ray.flow.pairing import minimum_permutation

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
