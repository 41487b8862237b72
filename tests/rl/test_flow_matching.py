"""Flow matching beside an update: its loss against the one of pretraining, and what it is good for."""

from __future__ import annotations

import copy
from collections import Counter

import pytest
import torch

from omatg_ray.crystal.base import BaseDistribution
from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.flow.examples import Examples, draw_examples
from omatg_ray.flow.loss import flow_loss
from omatg_ray.flow.network import NetworkOutput
from omatg_ray.flow.pairing import minimum_permutation
from omatg_ray.flow.settings import PathSettings
from omatg_ray.policy.policy import Policy
from omatg_ray.reward.gradient import Gradient
from omatg_ray.rl.flow_matching import TrainingCrystals, matching_loss
from omatg_ray.rl.learner import Learner
from omatg_ray.rl.settings import MATCHING, FieldWeights, LearnerSettings, ObjectiveSettings, RewardGradientSettings
from tests.rl.test_learner import OUT_OF_MEMORY, SmallMemory
from tests.rl.test_pathwise import reward_gradient, sample
from tests.small import random_crystals, small_network, velocity_policy

BASE = BaseDistribution(log_length_mean=(1.5, 1.6, 1.7), log_length_std=(0.1, 0.1, 0.1))
WEIGHT = FieldWeights(pos=3.0, cell=0.15)
SIZES = [3, 1, 4, 3, 2]


def examples_of(sizes: list[int], seed: int = 0) -> Examples:
    return draw_examples(random_crystals(sizes, seed, torch.float32), range(len(sizes)), BASE, PathSettings())


def learner_of(policy: Policy, weight: FieldWeights = WEIGHT, **settings: float) -> Learner:
    objective = ObjectiveSettings(
        flow_matching={"weight": weight.model_dump()}, reward_gradient=RewardGradientSettings(transitions=2)
    )
    return Learner(policy, objective, LearnerSettings(epochs=1, **{"grad_clip": 1e9, "lr": 1e-9} | settings))


def small_policy(active: tuple[str, ...] = ("pos", "cell")) -> Policy:
    network = small_network(0, torch.float32)
    return velocity_policy(copy.deepcopy(network), network, active)


def gradients(learner: Learner, sizes: list[int], examples: Examples) -> list[torch.Tensor]:
    """What an update by reward gradients, on trajectories of some sizes, and by flow matching leaves as gradients."""
    trajectory = sample(learner.policy, random_crystals(sizes, 1, torch.float32))
    gradient = reward_gradient(trajectory.final())
    learner.update(trajectory, None, gradient=gradient, examples={MATCHING: [examples]})
    return [parameter.grad.clone() for parameter in learner.parameters]


def test_the_loss_is_that_of_pretraining() -> None:
    """For crystals of one size, where a mean over structures is one over atoms; the network is the reference there."""
    crystals, policy = random_crystals([4] * 5, dtype=torch.float32), small_policy()
    examples = draw_examples(crystals, range(5), BASE, PathSettings())
    x_0 = BASE.sample(crystals.atomic_numbers, range(5))
    x_0 = x_0.replace(x_0.pos[minimum_permutation(x_0.pos, crystals.pos, crystals.layout)])

    def network(state: CrystalBatch, t: torch.Tensor) -> NetworkOutput:
        return policy.network(state, t)

    losses = flow_loss(network, PathSettings(), x_0, crystals, examples.t)
    expected = {name: float(loss.detach()) for name, loss in losses.items()}
    loss, stats = matching_loss(policy, examples, WEIGHT, MATCHING)
    assert stats["matching_pos"] == pytest.approx(expected["pos"], rel=1e-5)
    assert stats["matching_cell"] == pytest.approx(expected["cell"], rel=1e-5)
    assert float(loss.detach()) == pytest.approx(3.0 * expected["pos"] + 0.15 * expected["cell"], rel=1e-5)


def test_only_active_fields_are_matched() -> None:
    _, stats = matching_loss(small_policy(("cell",)), examples_of(SIZES), WEIGHT, MATCHING)
    assert stats.keys() == {"matching_cell"}


def test_gradients_add_up_and_do_not_depend_on_microbatches() -> None:
    examples, policy = examples_of(SIZES), small_policy()
    both = gradients(learner_of(policy), [3, 2], examples)
    nothing = FieldWeights(pos=0.0, cell=0.0)
    reward_alone = gradients(learner_of(policy, nothing), [3, 2], examples)
    loss, _ = matching_loss(policy, examples, WEIGHT, MATCHING)
    matching = torch.autograd.grad(loss, learner_of(policy).parameters, allow_unused=True, materialize_grads=True)
    assert any(float(each.norm()) > 0.1 * float(whole.norm()) > 0 for each, whole in zip(matching, both, strict=True))
    for whole, first, second in zip(both, reward_alone, matching, strict=True):
        assert torch.allclose(whole, first + second, atol=1e-5)
    for whole, each in zip(both, gradients(learner_of(policy, microbatch_pairs=1), [3, 2], examples), strict=True):
        assert torch.allclose(whole, each, atol=1e-5)


def test_parts_of_learners_add_up() -> None:
    """Each learner gives every example the weight that it has among those of all."""
    examples, policy = examples_of(SIZES), small_policy()
    parts = [examples.select(torch.tensor(rows)) for rows in ([0, 1, 2], [3, 4])]
    losses = [matching_loss(policy, part, WEIGHT, MATCHING)[1]["matching_pos"] for part in parts]
    assert sum(losses) == pytest.approx(matching_loss(policy, examples, WEIGHT, MATCHING)[1]["matching_pos"], rel=1e-5)


def test_memory_that_runs_out_halves_the_microbatches(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The replay of two atoms fits; six crystals of four atoms do not, and then do two by two."""
    examples, policy = examples_of([4] * 6), small_policy()
    expected = gradients(learner_of(policy), [2], examples)
    learner = learner_of(policy)
    memory = SmallMemory(50, OUT_OF_MEMORY[0], monkeypatch)
    found = gradients(learner, [2], examples)
    assert learner.microbatch_pairs == 48 and "continues with 48" in caplog.text
    assert memory.sizes[-7:] == [4, 4, 96, 4, 4, 48, 48] and all(memory.freed)
    for one, other in zip(found, expected, strict=True):
        assert torch.allclose(one, other, atol=1e-5)


def test_every_crystal_is_an_example_once_before_any_is_again() -> None:
    crystals = random_crystals([1, 2, 3, 4, 5, 6, 7], dtype=torch.float32)
    source = TrainingCrystals(crystals, BASE, PathSettings(), 0.5, count=3, seed=1)
    sizes = [n for iteration in range(7) for n in source.examples(iteration).state.layout.sizes]
    assert all(Counter(sizes[start : start + 7]) == Counter(range(1, 8)) for start in (0, 7, 14))
    assert sizes[:7] != sizes[7:14]
    again, other = source.examples(2), source.examples(3)
    assert torch.equal(again.t, source.examples(2).t) and not torch.equal(again.t, other.t)
    assert min(float(source.examples(i).t.min()) for i in range(7)) >= 0.5


def test_it_learns_the_flow_where_rewards_say_nothing() -> None:
    policy = small_policy()
    learner = learner_of(policy, lr=5e-3)
    source = TrainingCrystals(random_crystals([2, 3], dtype=torch.float32), BASE, PathSettings(), 0.5, 16, seed=0)
    trajectory = sample(policy, random_crystals([2], 1, torch.float32))
    flat = Gradient.zeros(trajectory.x_0.layout)
    errors = [
        learner.update(trajectory, None, gradient=flat, examples={MATCHING: [source.examples(iteration)]})
        for iteration in range(60)
    ]
    for name in ("matching_pos", "matching_cell"):
        first, last = (sum(each[name] for each in some) for some in (errors[:10], errors[-10:]))
        assert last < 0.6 * first
