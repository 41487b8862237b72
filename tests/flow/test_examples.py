"""Examples of flow matching: on the paths to the crystals, each from a seed of its own."""

from __future__ import annotations

import itertools

import pytest
import torch

from omatg_ray.crystal.base import BaseDistribution
from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.crystal.lattice import minimum_difference
from omatg_ray.flow.examples import draw_examples
from omatg_ray.flow.paths import TIME_MARGIN
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


@pytest.mark.parametrize("among", ["all_atoms", "same_species", "as_drawn"])
def test_atoms_are_paired_as_the_paths_say(among: str) -> None:
    crystals = random_crystals([8], dtype=torch.float32)
    crystals = CrystalBatch(torch.tensor([11] * 4 + [17] * 4), crystals.pos, crystals.cell, crystals.n_atoms)
    x_0 = BASE.sample(crystals.atomic_numbers, [3], crystals).pos
    costs = minimum_difference(crystals.pos[:, None] - x_0[None]).norm(dim=-1)
    allowed = {
        "all_atoms": itertools.permutations(range(8)),
        "same_species": (
            (*first, *second)
            for first in itertools.permutations(range(4))
            for second in itertools.permutations(range(4, 8))
        ),
        "as_drawn": [tuple(range(8))],
    }[among]
    best = min(allowed, key=lambda order: float(costs[range(8), order].sum()))
    expected = minimum_difference(crystals.pos - x_0[list(best)])
    found = draw_examples(crystals, [3], BASE, PathSettings(pairing=among)).velocity["pos"]
    assert torch.allclose(found, expected - expected.mean(0), atol=1e-5)


def test_an_example_depends_on_its_own_seed_alone() -> None:
    together = draw_examples(CRYSTALS, SEEDS, BASE, PathSettings())
    rows = torch.tensor([2, 0])
    some, alone = together.select(rows), draw_examples(CRYSTALS.select(rows), [8, 11], BASE, PathSettings())
    assert len(some) == 2 and torch.equal(some.t, alone.t)
    assert torch.equal(some.state.pos, alone.state.pos) and torch.equal(some.state.cell, alone.state.cell)
    assert all(torch.equal(some.velocity[name], alone.velocity[name]) for name in ("pos", "cell"))
    other = draw_examples(CRYSTALS, [*SEEDS[:3], 4], BASE, PathSettings())
    assert not torch.equal(other.t[3], together.t[3])


@pytest.mark.parametrize("kind, margin", [("linear", 0.0), ("encoder_decoder", TIME_MARGIN)])
def test_times_are_uniform_from_the_earliest_on(kind: str, margin: float) -> None:
    """And keep away from ends at which the velocity is not defined: with 4,000 draws, some would not."""
    many = random_crystals([1] * 4000, dtype=torch.float32)
    paths = PathSettings(pos={"kind": kind})
    earliest = draw_examples(many, range(4000), BASE, paths).t
    assert earliest.min() >= margin and (margin == 0.0) == bool(earliest.min() < TIME_MARGIN)
    assert earliest.max() <= 1.0 - margin
    n = 400
    t = draw_examples(many.select(torch.arange(n)), range(n), BASE, paths, earliest=0.6).t
    assert t.min() >= 0.6 and t.max() <= 1.0 - margin
    assert float(t.mean()) == pytest.approx(0.8, abs=4 * 0.4 / 12**0.5 / n**0.5)


def test_gaussians_of_the_path_move_state_and_velocity() -> None:
    """What is left after α x_0 + β x_1 is γ z with γ² = t (1 − t), and γ' z in the velocity, with standard normal z."""
    many, seeds = random_crystals([1] * 300, dtype=torch.float32), range(300)
    paths = PathSettings(cell={"kind": "linear", "gamma": {"kind": "sqrt", "a": 1.0}})
    noisy = draw_examples(many, seeds, BASE, paths)
    x_0, t = BASE.sample(many.atomic_numbers, seeds).cell, noisy.t[:, None, None]
    gamma = (t * (1 - t)).sqrt()
    z = (noisy.state.cell - (1 - t) * x_0 - t * many.cell) / gamma
    assert abs(float(z.mean())) < 0.1 and float(z.std()) == pytest.approx(1.0, abs=0.1)
    rest = noisy.velocity["cell"] - (many.cell - x_0)
    assert torch.allclose(rest, (1 - 2 * t) / (2 * gamma) * z, rtol=1e-2, atol=1e-2)
