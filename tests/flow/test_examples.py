"""Examples of flow matching: on the paths to the crystals, each from a seed of its own."""

from __future__ import annotations

import pytest
import torch

from omatg_ray.crystal.base import BaseDistribution
from omatg_ray.crystal.lattice import minimum_difference
from omatg_ray.flow.examples import draw_examples
from omatg_ray.flow.settings import PathSettings
from tests.small import random_crystals

BASE = BaseDistribution(log_length_mean=(1.5, 1.6, 1.7), log_length_std=(0.1, 0.1, 0.1))
SIZES = [4, 1, 7, 3]
CRYSTALS = random_crystals(SIZES, dtype=torch.float32)
SEEDS = [11, 5, 8, 3]


def test_what_is_left_of_a_straight_path_leads_to_the_crystal() -> None:
    """x_t + (1 − t) ∂_t x_t = x_1: exactly for lattices, up to a translation of the crystal for positions."""
    examples = draw_examples(CRYSTALS, SEEDS, BASE, PathSettings())
    state, rest = examples.state, 1.0 - examples.t
    assert torch.allclose(state.cell + rest[:, None, None] * examples.velocity["cell"], CRYSTALS.cell, atol=1e-5)
    end = state.pos + rest[state.batch, None] * examples.velocity["pos"]
    apart = minimum_difference(end - CRYSTALS.pos)
    first = state.ptr[:-1][state.batch]
    assert torch.allclose(minimum_difference(apart - apart[first]), torch.zeros_like(apart), atol=1e-5)


def test_an_example_depends_on_its_own_seed_alone() -> None:
    together = draw_examples(CRYSTALS, SEEDS, BASE, PathSettings())
    rows = torch.tensor([2, 0])
    some, alone = together.select(rows), draw_examples(CRYSTALS.select(rows), [8, 11], BASE, PathSettings())
    assert len(some) == 2 and torch.equal(some.t, alone.t)
    assert torch.equal(some.state.pos, alone.state.pos) and torch.equal(some.state.cell, alone.state.cell)
    assert all(torch.equal(some.velocity[name], alone.velocity[name]) for name in ("pos", "cell"))
    other = draw_examples(CRYSTALS, [*SEEDS[:3], 4], BASE, PathSettings())
    assert not torch.equal(other.t[3], together.t[3])


@pytest.mark.parametrize("kind", ["linear", "trigonometric"])
def test_times_are_uniform_from_the_earliest_on(kind: str) -> None:
    many = random_crystals([1] * 2000, dtype=torch.float32)
    t = draw_examples(many, range(2000), BASE, PathSettings(pos={"kind": kind}), earliest=0.6).t
    assert t.min() >= 0.6 and t.max() <= 1.0
    assert float(t.mean()) == pytest.approx(0.8, abs=4 * 0.4 / 12**0.5 / 2000**0.5)


def test_gaussians_of_the_path_move_state_and_velocity() -> None:
    paths = PathSettings(cell={"kind": "linear", "gamma": {"kind": "sqrt", "a": 1.0}})
    plain, noisy = (draw_examples(CRYSTALS, SEEDS, BASE, each) for each in (PathSettings(), paths))
    assert torch.equal(noisy.state.species, plain.state.species)
    assert not torch.allclose(noisy.state.cell, plain.state.cell)
    assert noisy.velocity["cell"].isfinite().all()
