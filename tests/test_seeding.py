"""Seeds that belong to their key."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from omatg_ray.seeding import generator, seed_of


def test_seeds_differ_with_every_part_of_the_key():
    keys = [(s, "rollout", i, g, m) for s in range(3) for i in range(5) for g in range(5) for m in range(5)]
    keys += [(1, 23), (12, 3), ("1", 23), (123,), ("rollout",), ("rollout", 0)]
    seeds = [seed_of(*key) for key in keys]
    assert len(set(seeds)) == len(keys)
    assert all(0 <= seed < 2**63 for seed in seeds)


@pytest.mark.processes
def test_seeds_are_the_same_in_another_process():
    code = "from omatg_ray.seeding import seed_of; print(seed_of(3, 'x_0', 5))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(run.stdout) == seed_of(3, "x_0", 5)


def test_generators_are_independent_of_the_global_state():
    first = torch.rand(4, generator=generator(1, "noise"))
    torch.manual_seed(123)
    state = torch.random.get_rng_state()
    assert torch.equal(torch.rand(4, generator=generator(1, "noise")), first)
    assert torch.equal(torch.random.get_rng_state(), state)
