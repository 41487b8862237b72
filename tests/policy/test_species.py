"""Trajectories along which the base network generates the species."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from omatg_ray.flow.network import CSPNet
from omatg_ray.flow.species import MaskedSpecies, SpeciesPath, UniformSpecies, draw_jumps
from omatg_ray.policy.drift import Velocity
from omatg_ray.policy.grid import time_grid
from omatg_ray.policy.policy import Policy, Step, draw_noise
from tests.policy.test_policy import Counting
from tests.small import NOISE, SIZE, perturbed, random_crystals, small_network

SIZES, SEEDS, STEPS = [3, 1, 4], [11, 12, 13], 12
PATHS = [MaskedSpecies(), MaskedSpecies(noise=2.0), UniformSpecies(), UniformSpecies(noise=0.02)]


def network(seed: int, path: SpeciesPath) -> CSPNet:
    return small_network(seed, size=SIZE.model_copy(update={"mask": path.masked}))


def policy_of(path: SpeciesPath, active: Any = ("pos", "cell"), base: Any = None, own: Any = None) -> Policy:
    base = network(1, path) if base is None else base
    return Policy(Velocity(), own or network(0, path), base, active, NOISE, species=path)


def integrated(policy: Policy, sizes=SIZES, seeds=SEEDS, crystals=None, steps=STEPS):
    """Final state, steps, x_0, noise and jumps of some structures."""
    assert policy.species is not None
    crystals = random_crystals(sizes) if crystals is None else crystals
    x_0 = policy.species.start(crystals, seeds, 100)
    noise = {of: values.double() for of, values in draw_noise(x_0, steps, seeds, policy.active).items()}
    jumps = draw_jumps(x_0, steps, seeds)
    record: list[Step] = []
    final = policy.integrate(x_0, time_grid(steps), noise, on_step=record.append, jumps=jumps)
    return final, record, x_0, noise, jumps


def after(path: SpeciesPath, logits: list[float], now: int, t: float, dt: float, u: float, last: bool) -> int:
    """Plain re-implementation of one atom's jump: the first species at which the summed probabilities exceed u."""
    weights = torch.tensor(logits, dtype=torch.float64).softmax(0).tolist()
    eta, count = path.noise, len(weights)
    if isinstance(path, MaskedSpecies):
        reveal = 1.0 if last else min(1.0, dt * (1 + eta * t) / (1 - t))
        hide = 0.0 if last else min(1.0, dt * eta)
        chances = [1 - reveal, *(reveal * w for w in weights)] if now == 0 else [hide, *[0.0] * count]
        chances[now] = 1 - reveal if now == 0 else 1 - hide
    else:
        eta = 0.0 if last else eta
        arrive, leave = min(1.0, dt * (1 + eta * (count * t + 1 - t)) / (1 - t)), min(1 / (count - 1), dt * eta)
        chances = [0.0, *(arrive * w + leave * weights[now - 1] for w in weights)]
        chances[now] = 0.0
        chances[now] = 1 - sum(chances)
    total = 0.0
    for z, chance in enumerate(chances):
        total += chance
        if u < total:
            return z
    raise AssertionError("u beyond the sum of all probabilities")


@pytest.mark.parametrize("active", [("pos", "cell"), ("pos",), ()])
@pytest.mark.parametrize("path", PATHS, ids=repr)
def test_species_follow_the_base_and_the_fields_see_them(path, active):
    base, own = network(1, path), network(0, path)
    _, record, x_0, noise, jumps = integrated(policy_of(path, active, base, own))
    times = time_grid(STEPS).double()
    state, moved = x_0, 0
    for k, step in enumerate(record):
        dt = times[k + 1] - times[k]
        with torch.no_grad():
            of_base, of_own = base(state, times[k]), own(state, times[k])
        species = [
            after(path, logits, now, float(times[k]), float(dt), u, k == STEPS - 2)
            for logits, now, u in zip(
                of_base.species_b.tolist(), state.species.tolist(), jumps[k].tolist(), strict=True
            )
        ]
        assert step.species is not None and step.species.tolist() == species
        pos = (of_own if "pos" in active else of_base).pos_b * dt
        if "pos" in active:
            pos = pos + 0.1668 * ((1 - times[k]) / times[k] * dt).sqrt() * noise["pos"][k]
        torch.testing.assert_close(step.displacement["pos"], pos)
        moved += sum(a != b for a, b in zip(species, state.species.tolist(), strict=True))
        state = state.replace(
            (state.pos + step.displacement["pos"]) % 1.0, state.cell + step.displacement["cell"], torch.tensor(species)
        )
    assert moved >= 8  # otherwise this shows nothing
    assert int(state.species.min()) >= 1


@pytest.mark.parametrize("path", PATHS, ids=repr)
def test_the_policys_own_prediction_of_species_has_no_part_in_it(path):
    own, other = network(0, path), network(0, path)
    with torch.no_grad():
        other.type_out.weight.normal_()
    finals = [integrated(policy_of(path, own=n))[0] for n in (own, other)]
    assert torch.equal(finals[0].species, finals[1].species) and torch.equal(finals[0].pos, finals[1].pos)
    moved = integrated(policy_of(path, base=perturbed(network(1, path), 1.0)))[0]
    assert not torch.equal(finals[0].species, moved.species)


@pytest.mark.parametrize("active", [("pos", "cell"), ("pos",), ()])
def test_the_base_runs_once_a_step(active):
    path = MaskedSpecies()
    base = Counting(network(1, path))
    policy = policy_of(path, active, base)
    integrated(policy)
    frozen = {f"{of}_b" for of in ("pos", "cell") if of not in active}
    assert base.calls == [{"species_b", *frozen}] * (STEPS - 1)
    assert policy.asks_base


@pytest.mark.parametrize("path", PATHS, ids=repr)
def test_a_structure_does_not_depend_on_its_neighbours(path):
    policy, crystals = policy_of(path), random_crystals(SIZES)
    together = integrated(policy, crystals=crystals)[0]
    alone = integrated(policy, seeds=[13], crystals=crystals.select([2]))[0]
    assert torch.equal(together.species[4:], alone.species)
    torch.testing.assert_close(together.pos[4:], alone.pos)


def test_the_masked_embedding_has_a_row_for_the_mask_before_the_elements():
    plain = small_network(0)
    masked = CSPNet(SIZE.model_copy(update={"mask": True})).double()
    state = plain.state_dict()
    rows = state["node_embedding.weight"]
    state["node_embedding.weight"] = torch.cat([torch.full_like(rows[:1], 3.0), rows])
    masked.load_state_dict(state)
    crystals, t = random_crystals(SIZES), torch.tensor(0.4)
    torch.testing.assert_close(masked(crystals, t).pos_b, plain(crystals, t).pos_b)
    # A mask reads the first row: the same as an element with that embedding.
    state["node_embedding.weight"][7] = 3.0
    masked.load_state_dict(state)
    seen = [masked(crystals.replace(species=torch.full((8,), z)), t).pos_b for z in (0, 7)]
    torch.testing.assert_close(*seen)


def test_jumps_go_with_a_policy_that_generates_species():
    path, crystals = MaskedSpecies(), random_crystals(SIZES)
    with pytest.raises(ValueError, match="generates species"):
        policy_of(path, ()).integrate(path.start(crystals, SEEDS, 100), time_grid(3))
    plain = Policy(Velocity(), small_network(0), small_network(0), (), {})
    with pytest.raises(ValueError, match="generates species"):
        plain.integrate(crystals, time_grid(3), jumps=draw_jumps(crystals, 3, SEEDS))
