"""What every policy has to pass, whatever its drift: built-in ones, and that of docs/policies.md."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from omatg_ray.policy.drift import VELOCITY, Annealed, Drift, Scale, Score, Velocity, of_rows
from omatg_ray.policy.grid import time_grid
from omatg_ray.policy.hand_made import LinearSchedule
from omatg_ray.policy.policy import Policy, draw_noise
from omatg_ray.policy.schedule import LearnedSchedule
from omatg_ray.policy.settings import LearnedScheduleSettings
from omatg_ray.rl.learner import Learner
from omatg_ray.rl.rollout import rollout
from omatg_ray.rl.settings import FieldWeights, LearnerSettings, ObjectiveSettings
from tests.small import NOISE, perturbed, random_crystals, small_network

SIZES, STEPS = [3, 1, 4], 7


class Damped(Drift):
    """The example of the documentation."""

    def __init__(self, strength: nn.Parameter) -> None:
        self.strength = strength

    def outputs(self, field):
        return (VELOCITY[field],)

    def rate(self, field, outputs, t, crystals, dt=None):
        return of_rows((-self.strength * t).exp(), field, crystals) * outputs[VELOCITY[field]]

    def reference(self):
        return Velocity()

    def trained(self):
        return [self.strength]


def gamma(t: torch.Tensor) -> torch.Tensor:
    return (0.3 * t * (1 - t)).sqrt()


def schedule() -> LearnedSchedule:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = LearnedSchedule(LearnedScheduleSettings(hidden=4, layers=1, fields=["pos", "cell"])).double()
        for parameter in made.parameters():
            nn.init.normal_(parameter, std=0.3)
    return made


GAMMA = {"pos": gamma, "cell": gamma}
DRIFTS = {
    "velocity": Velocity,
    "annealed": lambda: Annealed(Velocity(), LinearSchedule(pos=2.0, cell=0.5)),
    "score": lambda: Score(NOISE, GAMMA),
    "annealed score": lambda: Score(NOISE, GAMMA, LinearSchedule(pos=2.0)),
    "scale": lambda: Scale(schedule()),
    "damped": lambda: Damped(nn.Parameter(torch.tensor(0.7, dtype=torch.float64))),
}


def policy_of(name: str, same: bool = False, active=("pos", "cell")) -> Policy:
    base = small_network(1)
    return Policy(DRIFTS[name](), perturbed(base, 0.0 if same else 0.05), base, active, NOISE)


def sampled(policy: Policy, **some):
    x_0 = random_crystals(SIZES)
    noise = draw_noise(x_0, STEPS, range(3), policy.active, policy.drift.per_structure)
    noise = {field: values.double() for field, values in noise.items()}
    return rollout(policy, x_0, time_grid(STEPS), noise, with_base=bool(policy.heads), **some)


def learner_of(policy: Policy) -> Learner:
    objective = ObjectiveSettings(kl_weight=FieldWeights(pos=0.1, cell=0.1))
    return Learner(policy, objective, LearnerSettings(epochs=1, lr=1e-3))


@pytest.mark.parametrize("active", [("pos",), ("cell",), ("pos", "cell")])
@pytest.mark.parametrize("name", DRIFTS)
def test_ratios_are_one_before_the_first_update_and_an_update_moves_what_is_trained(name, active):
    policy = policy_of(name, active=active)
    trajectory = sampled(policy)
    learner = learner_of(policy)
    before = [parameter.detach().clone() for parameter in learner.parameters]
    stats = learner.update(trajectory, torch.tensor([1.0, -0.5, -0.5]))
    assert stats["log_ratio_max"] < 1e-5
    assert any(not torch.equal(old, new) for old, new in zip(before, learner.parameters, strict=True))


@pytest.mark.parametrize("noise_elsewhere", [False, True])
@pytest.mark.parametrize("active", [("pos",), ("cell",), ("pos", "cell")])
@pytest.mark.parametrize("name", DRIFTS)
def test_some_steps_are_learned_from_as_all_of_them(name, active, noise_elsewhere):
    """What is recorded of some steps is what is recorded of all, where these take the same noise."""
    policy = policy_of(name, active=active)
    some = [1, STEPS - 2]
    partial, whole = sampled(policy, learn_from=some, noise_elsewhere=noise_elsewhere), sampled(policy)
    stats = learner_of(policy).update(partial, torch.tensor([1.0, -0.5, -0.5]))
    assert stats["log_ratio_max"] < 1e-5
    for field in policy.active:
        assert torch.equal(partial.log_prob[field], whole.log_prob[field][some])
        if noise_elsewhere:
            assert torch.equal(partial.actions(field), whole.actions(field)[some])
            assert torch.equal(partial.displacement[field], whole.displacement[field])
        else:
            assert not torch.equal(partial.displacement[field][0], whole.displacement[field][0])
    for output, values in partial.base_outputs.items() if noise_elsewhere else ():
        assert torch.equal(values, whole.base_outputs[output][some])


@pytest.mark.parametrize("name", DRIFTS)
def test_small_noise_approaches_the_mean_of_the_action(name):
    """Of drifts that have no part that makes up for the noise, the mean is also what is followed without any."""
    policy = policy_of(name)
    crystals, t, dt = random_crystals(SIZES), torch.tensor(0.4).double(), torch.tensor(0.1).double()
    zero = draw_noise(crystals, 2, range(3), policy.active, policy.drift.per_structure)
    with torch.no_grad():
        mean = policy.step(crystals, t, dt, {field: 0.0 * values[0].double() for field, values in zero.items()})
        quiet = policy.step(crystals, t, dt, {})
    for field in policy.active:
        same = torch.allclose(mean.displacement[field], quiet.displacement[field])
        assert same is not policy.drift.depends_on_noise


@pytest.mark.parametrize("name", DRIFTS)
def test_the_kl_is_that_of_the_reference(name):
    """Zero exactly where the policy is its reference: with the base's weights, and nothing trained beside them."""
    policy = policy_of(name, same=True)
    stats = learner_of(policy).update(sampled(policy), torch.tensor([1.0, -0.5, -0.5]))
    apart = bool(policy.drift.trained())
    for field in policy.active:
        assert (abs(stats[f"kl_{field}"]) < 1e-10) is not apart
        assert stats[f"kl_{field}"] > -1e-10
