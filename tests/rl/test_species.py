"""Reinforcement of positions and lattices while the base generates the species."""

from __future__ import annotations

import math

import pytest
import torch

from omatg_ray.crystal.base import BaseDistribution
from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.errors import TrainingError
from omatg_ray.flow.species import MaskedSpecies, SpeciesPath, UniformSpecies
from omatg_ray.policy.drift import Velocity
from omatg_ray.policy.policy import Policy
from omatg_ray.reward.protocol import RewardResult
from omatg_ray.rl.learner import Learner
from omatg_ray.rl.rollout import Trajectory
from omatg_ray.rl.scoring import rewards_of, score_item
from omatg_ray.rl.settings import FieldWeights, LearnerSettings, ObjectiveSettings
from omatg_ray.rl.work import WorkItem, run_item
from tests.small import NOISE, SIZE, perturbed, random_crystals, small_network

BASE = BaseDistribution(log_length_mean=(1.4, 1.4, 1.4), log_length_std=(0.1, 0.1, 0.1))
CPU = torch.device("cpu")
SEEDS = (5, 6, 7, 8)
KINDS = [MaskedSpecies, UniformSpecies]


def policy_of(path: SpeciesPath, dtype: torch.dtype = torch.float32) -> Policy:
    size = SIZE.model_copy(update={"mask": path.masked})
    own, base = (small_network(seed, dtype, size) for seed in (0, 1))
    return Policy(Velocity(), own, base, ("pos", "cell"), NOISE, species=path)


def item(*compositions: tuple[int, ...], seeds: tuple[int, ...] = SEEDS, shared: bool = False) -> WorkItem:
    return WorkItem(0, compositions, seeds, 9, shared)


def sampled(path: SpeciesPath, what: WorkItem, with_base: bool = True) -> Trajectory:
    return run_item(what, policy_of(path), BASE, with_base, CPU)


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_number_of_atoms_of_a_composition_counts(kind):
    path = kind(noise=0.1)
    first, second = (sampled(path, item((z, z, 8))) for z in (22, 56))
    assert torch.equal(first.final().species, second.final().species)
    assert torch.equal(first.final().pos, second.final().pos)
    final = first.final()
    assert int(final.species.min()) >= 1
    assert final.n_atoms.tolist() == [3] * 4
    # Members of a group differ in their species.
    assert len({tuple(z) for z in final.species.view(4, 3).tolist()}) == 4


def test_a_trajectory_holds_the_species_of_every_state():
    path = MaskedSpecies(noise=1.0)
    trajectory = sampled(path, item((8, 8), (8,) * 5))
    assert trajectory.species is not None
    assert trajectory.species.shape == (8, 14)
    assert not trajectory.species[0].any() and trajectory.species[-1].any()
    base, (pos, cell) = policy_of(path).base_network, trajectory.states()
    for k in range(8):
        state = trajectory.x_0.replace(pos[k], cell[k], trajectory.species[k])
        with torch.no_grad():
            out = base(state, trajectory.times[k])
        torch.testing.assert_close(trajectory.base_outputs["pos_b"][k], out.pos_b, atol=1e-5, rtol=1e-5)
    assert trajectory.x_0.formulas() == trajectory.final().formulas()


def test_selection_and_joining_take_the_species_along():
    trajectory = sampled(MaskedSpecies(), item((8, 8), (8,) * 5))
    assert trajectory.species is not None
    parts = [trajectory.select(torch.tensor([b])) for b in (0, 1, 2, 3)]
    joined = Trajectory.cat(parts)
    assert joined.species is not None and torch.equal(joined.species, trajectory.species)
    assert parts[2].species is not None and torch.equal(parts[2].species, trajectory.species[:, 4:9])
    assert torch.equal(parts[2].final().species, trajectory.final().species[4:9])
    moved = trajectory.to("meta")
    assert moved.species is not None and moved.species.device.type == "meta"


@pytest.mark.parametrize("kind", KINDS)
def test_rollouts_do_not_depend_on_their_neighbours(kind):
    path = kind(noise=0.1)
    together = sampled(path, item((8, 8), (8,) * 5))
    apart = Trajectory.cat([sampled(path, item((8, 8), seeds=(5, 6))), sampled(path, item((8,) * 5, seeds=(7, 8)))])
    assert together.species is not None and apart.species is not None
    assert torch.equal(together.species, apart.species)
    torch.testing.assert_close(together.displacement["pos"], apart.displacement["pos"], atol=1e-5, rtol=0)


def test_a_shared_start_shares_the_species_of_x_0_but_not_the_jumps():
    trajectory = sampled(UniformSpecies(), item((8, 8, 8), shared=True))
    assert trajectory.species is not None
    start = trajectory.species[0].view(4, 3)
    assert (start == start[0]).all()
    assert len({tuple(z) for z in trajectory.final().species.view(4, 3).tolist()}) > 1


@pytest.mark.parametrize("pairs", [1, 60, 16_000])
@pytest.mark.parametrize("kind", KINDS)
def test_the_learner_sees_the_recorded_species(kind, pairs):
    """Before the first update every ratio is one, and the KL to an equal base zero, in blocks of any size."""
    path = kind(noise=0.1)
    trajectory = sampled(path, item((8, 8), (8,) * 5))
    settings = LearnerSettings(epochs=1, microbatch_pairs=pairs)
    objective = ObjectiveSettings(kl_weight=FieldWeights(pos=0.1, cell=0.1))
    stats = Learner(policy_of(path), objective, settings).update(trajectory, torch.tensor([1.0, -1.0, 0.5, -0.5]))
    assert stats["log_ratio_max"] < 1e-3
    policy = policy_of(path)
    policy.network = perturbed(policy.base_network, 0.0)
    equal = run_item(item((8, 8), (8,) * 5), policy, BASE, True, CPU)
    stats = Learner(policy, objective, settings).update(equal, torch.tensor([1.0, -1.0, 0.5, -0.5]))
    assert abs(stats["kl_pos"]) < 1e-6 and abs(stats["kl_cell"]) < 1e-6


class Oxides:
    """Knows oxygen alone."""

    name, elements = "oxides", frozenset([8])

    def __call__(self, crystals: CrystalBatch) -> RewardResult:
        assert set(crystals.species.tolist()) <= {8}
        return RewardResult(crystals.n_atoms.double(), {"twice": 2.0 * crystals.n_atoms.double()})


def test_a_crystal_of_unknown_elements_has_no_reward_and_is_named_by_what_it_is():
    crystals = random_crystals([2, 1, 3]).replace(species=torch.tensor([8, 11, 8, 8, 8, 8]))
    scored = score_item(crystals, Oxides())
    assert scored.result.reward.tolist()[1:] == [1.0, 3.0] and math.isnan(scored.result.reward[0])
    assert scored.result.values["twice"].tolist()[1:] == [2.0, 6.0]
    with pytest.raises(TrainingError, match=r"^1 of 3 rewards failed in iteration 1 \(5% allowed\): Na1?O$"):
        rewards_of([WorkItem(0, ((26, 26),), (1, 2, 3), 5)], [scored])
    nothing = score_item(crystals.replace(species=torch.full((6,), 11)), Oxides()).result
    assert nothing.reward.isnan().all() and nothing.values == {}
