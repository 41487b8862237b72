from __future__ import annotations

import pytest
import torch

from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.model.flow_model import FlowModel
from omatg_ray.model.sampling import Sampling
from omatg_ray.reward.fingerprint import distances_between, fingerprints
from omatg_ray.rl.replay import Best, Cell
from omatg_ray.search import restarts
from omatg_ray.search.restarts import Restarts
from tests.search.test_sampler import NACL, known, small_model

KEY = (11, 17)
SAMPLING = Sampling(6)


class Still(FlowModel):
    """A model whose flow stands still, so that what it makes is where it starts."""

    def policy(self, *_: object, **__: object) -> restarts.Policy:
        policy = super().policy()
        policy.integrate = lambda x_0, times, *_: x_0  # type: ignore[method-assign]
        return policy


def found(energies: tuple[float, ...] = (-2.0,)) -> dict[Cell, Best]:
    """Rock salt, in cells that are 1, 2, ... times as long as the first."""
    cell = known().select([0])
    crystals = CrystalBatch.cat([cell.replace(cell.pos, (n + 1) * cell.cell) for n in range(len(energies))])
    return {KEY: Best(crystals, -torch.tensor(energies, dtype=torch.float64))}


def still() -> Still:
    model = small_model()
    return Still(model.description, model.base_network, model.learned)


def test_a_crystal_depends_on_its_identity_and_what_was_found_alone() -> None:
    one = Restarts(small_model(), found(), 0.05)
    together = one.generate([NACL] * 3, SAMPLING, 5, [4, 5, 6])
    alone = one.generate([NACL], SAMPLING, 5, [5])
    assert torch.equal(together.select([1]).pos, alone.pos) and torch.equal(together.select([1]).cell, alone.cell)
    other = Restarts(small_model(), found(), 0.05).generate([NACL], SAMPLING, 6, [5])
    assert not torch.equal(other.pos, alone.pos)


@pytest.mark.parametrize("time", [0.0, 0.43, 0.9, 0.95])
def test_it_starts_between_noise_and_the_crystal(monkeypatch: pytest.MonkeyPatch, time: float) -> None:
    """The straight path of the cell: x_t = (1 - t) x_0 + t x_1, at the first grid point that is not before t."""
    monkeypatch.setattr(restarts, "TIMES", (time,))
    model, parent = still(), found()[KEY].crystals
    made = Restarts(model, found(), 0.05).generate([NACL] * 8, Sampling(11), 5, range(8))
    seeds = [restarts.seed_of(5, "structure", index) for index in range(8)]
    x_0 = model.description.base_distribution.sample([NACL] * 8, seeds)
    t = next(t for t in small_model().policy().times(11) if t >= time)
    torch.testing.assert_close(made.cell, (1 - t) * x_0.cell + t * parent.cell)
    apart = distances_between(fingerprints(made.to("cpu", torch.float64)), fingerprints(parent))
    if t > 0.99:
        assert float(apart.max()) < 0.01, "atoms are where they are in the crystal"
    elif t < 0.01:
        assert float(apart.min()) > 0.01


def test_low_crystals_are_drawn_by_their_boltzmann_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(restarts, "TIMES", (0.99,))
    energies, temperature = (-2.0, -1.95), 0.05
    made = Restarts(still(), found(energies), temperature).generate([NACL] * 600, SAMPLING, 5, range(600))
    lengths = made.cell.det().abs()
    share = float((lengths < 2 * lengths.min()).double().mean())
    weight = 1 / (1 + torch.e ** ((energies[0] - energies[1]) / temperature))
    assert share == pytest.approx(weight, abs=0.06)


def test_cells_without_a_crystal_are_generated_from_the_start() -> None:
    model = small_model()
    made = Restarts(model, {}, 0.05).generate([NACL] * 2, SAMPLING, 5, [4, 5])
    assert torch.allclose(made.pos, model.generate([NACL] * 2, SAMPLING, 5, [4, 5]).pos, atol=1e-6)
