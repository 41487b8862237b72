"""The part of the velocities that keeps like atoms apart."""

from __future__ import annotations

import math

import torch

from omatg_ray.crystal.base import BaseDistribution
from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.flow.pretrain import Pretrainer
from omatg_ray.flow.separation import REACH, WAVES, Separation, half_widths
from omatg_ray.flow.settings import PretrainSettings
from tests.small import SIZE, random_crystals, small_network

HIDDEN = 6


def trained(seed: int = 0) -> Separation:
    torch.manual_seed(seed)
    part = Separation(HIDDEN).double()
    torch.nn.init.normal_(part.strength.weight)
    torch.nn.init.normal_(part.strength.bias)
    return part


def box(length: float, places: list[list[float]]) -> CrystalBatch:
    n = len(places)
    return CrystalBatch(
        torch.full((n,), 8),
        torch.tensor(places, dtype=torch.float64),
        length * torch.eye(3).double()[None],
        torch.tensor([n]),
    )


def test_two_atoms_move_along_the_line_between_them_as_the_formula_says() -> None:
    part, h = trained(), torch.randn(2, HIDDEN, dtype=torch.float64)
    crystals = box(8.0, [[0.05, 0.1, 0.0], [0.95, 0.2, 0.0]])  # through the boundary, 0.8 √2 Å from each other
    found = part(h, crystals, crystals.layout.edges).detach()
    d, unit = 0.8 * math.sqrt(2), torch.tensor([-1.0, 1.0, 0.0]).double() / math.sqrt(2)
    basis = torch.tensor([math.cos(k * math.pi * d / REACH) for k in range(WAVES)], dtype=torch.float64)
    hidden = sum(part.of_atom.weight @ row + part.of_atom.bias for row in h) + part.of_distance.weight @ basis
    s = part.strength.weight[0] @ (hidden * hidden.sigmoid()) + part.strength.bias[0]
    velocity = (s.item() * (1 - (d / REACH) ** 2) ** 2 / 8.0) * unit  # in Å, divided by the length of the cell
    torch.testing.assert_close(found, torch.stack([-velocity, velocity]), atol=1e-12, rtol=0)


@torch.no_grad()
def test_atoms_out_of_reach_do_not_move() -> None:
    """Nor do those that are half of a short cell apart, whose two nearest images pull in opposite directions."""
    part, h = trained(), torch.randn(2, HIDDEN, dtype=torch.float64)

    def moved(length: float, distance: float) -> float:
        crystals = box(length, [[0, 0, 0], [distance / length, 0, 0]])
        return float(part(h, crystals, crystals.layout.edges).abs().max())

    assert moved(8.0, 3.01) == moved(8.0, 4.0) == moved(4.0, 2.0) == 0.0
    assert moved(8.0, 2.8) > 0.0 and moved(4.0, 1.9) > 0.0 and moved(4.0, 2.1) > 0.0


@torch.no_grad()
def test_it_falls_smoothly_to_zero_at_its_reach_and_nothing_is_translated() -> None:
    part, h = trained(), torch.randn(2, HIDDEN, dtype=torch.float64)
    sizes = []
    for d in (2.9, 2.99, 2.999):
        crystals = box(9.0, [[0, 0, 0], [d / 9.0, 0, 0]])
        found = part(h, crystals, crystals.layout.edges)
        sizes.append(float(found.abs().max()))
        torch.testing.assert_close(found.sum(0), torch.zeros(3).double(), atol=1e-15, rtol=0)
    assert sizes[1] < 0.02 * sizes[0] and sizes[2] < 0.02 * sizes[1]


def test_gradients_of_positions_and_cells() -> None:
    part, crystals = trained(), random_crystals([3, 4])
    h = torch.randn(7, HIDDEN, dtype=torch.float64)
    pos, cell = crystals.pos.clone().requires_grad_(), crystals.cell.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda p, c: part(h, crystals.replace(p, c), crystals.layout.edges), (pos, cell))


@torch.no_grad()
def test_half_widths_are_those_between_opposite_faces() -> None:
    skewed = torch.tensor([[4.0, 0, 0], [3.0, 2.0, 0], [0, 0, 9.0]])
    # Faces of b and c, and of a and c, are 2 √(16/13) and 2 Å apart.
    torch.testing.assert_close(half_widths(skewed[None]), torch.tensor([1.0]))
    assert float(half_widths(torch.zeros(1, 3, 3))) == 0.0


@torch.no_grad()
def test_atoms_at_the_same_place_and_flat_cells_give_numbers() -> None:
    part, h = trained(), torch.randn(2, HIDDEN, dtype=torch.float64)
    for crystals in (box(5.0, [[0, 0, 0], [0, 0, 0]]), box(0.0, [[0, 0, 0], [0.5, 0, 0]])):
        assert part(h, crystals, crystals.layout.edges).isfinite().all()


def test_positions_alone_have_it_and_it_is_learned() -> None:
    size = SIZE.model_copy(update={"separation": True})
    network, plain = small_network(size=size), small_network()
    network.load_state_dict(plain.state_dict(), strict=False)
    torch.nn.init.normal_(network.separation.strength.weight)
    crystals = random_crystals([3, 5])
    ours, theirs = (one(crystals, torch.tensor(0.5).double()) for one in (network, plain))
    assert not torch.equal(ours.pos_b, theirs.pos_b)
    assert torch.equal(ours.cell_b, theirs.cell_b) and torch.equal(ours.pos_eta, theirs.pos_eta)
    train = random_crystals([3, 4, 2], dtype=torch.float32)

    trainer = Pretrainer(
        PretrainSettings(network=size, epochs=2, batch_size=3, warmup_steps=0),
        train,
        train,
        BaseDistribution.fit(train),
        0,
    )
    trainer.run_epoch()
    assert float(trainer.network.separation.strength.weight.detach().norm()) > 0.0
