"""The learner: gates before the first update, gradients, microbatches, failures, state."""

from __future__ import annotations

import json
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from torch.distributions import Normal

from omatg_ray.crystal.base import BaseDistribution
from omatg_ray.errors import ModelError, TrainingError
from omatg_ray.flow.network import CSPNet
from omatg_ray.policy.grid import time_grid
from omatg_ray.policy.hand_made import LinearSchedule
from omatg_ray.policy.noise import LearnedNoise
from omatg_ray.policy.policy import Policy, draw_noise
from omatg_ray.policy.settings import NoiseSettings
from omatg_ray.rl import learner as learner_module
from omatg_ray.rl.learner import Learner
from omatg_ray.rl.rollout import Trajectory, rollout
from omatg_ray.rl.settings import FieldWeights, LearnerSettings, ObjectiveSettings
from tests.small import perturbed, random_crystals, small_network, velocity_policy

SIZES = [3, 1, 4, 3]
ADVANTAGE = torch.tensor([1.2, -0.4, 0.7, -1.5], dtype=torch.float64)
REDUCTIONS = ["none", "per_structure", "per_atom"]
FIELDS = [("pos",), ("cell",), ("pos", "cell")]
# A norm that no gradient of these tests reaches.
UNCLIPPED = 1e9


def sample(policy: Policy, sizes=SIZES, steps=7, dtype=torch.float64, with_base=True, seed=0, **some) -> Trajectory:
    x_0 = random_crystals(sizes, seed, dtype)
    noise = draw_noise(x_0, steps, range(len(sizes)), policy.active)
    noise = {field: values.to(dtype) for field, values in noise.items()}
    return rollout(policy, x_0, time_grid(steps), noise, with_base, **some)


def make_learner(network: CSPNet, base: CSPNet, active=("pos", "cell"), schedule=None, **values) -> Learner:
    objective = {"clip": 0.2, "position_reduction": "per_atom", "kl_weight": FieldWeights(pos=0.01, cell=0.02)}
    objective |= {k: v for k, v in values.items() if k in ObjectiveSettings.model_fields}
    settings = {"epochs": 1, "grad_clip": UNCLIPPED}
    settings |= {k: v for k, v in values.items() if k in LearnerSettings.model_fields}
    policy = velocity_policy(network, base, active, schedule=schedule)
    return Learner(policy, ObjectiveSettings(**objective), LearnerSettings(**settings))


def gradients(network: CSPNet) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}


# --- before the first update ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype, bound", [(torch.float64, 1e-5), (torch.float32, 1e-3)])
@pytest.mark.parametrize("active", FIELDS)
def test_ratio_is_one_before_the_first_update(active, dtype, bound):
    network, base = small_network(0, dtype), small_network(1, dtype)
    noise = {field: NoiseSettings(kind="sqrt", a=0.1668) for field in active}
    policy = velocity_policy(network, base, active, noise)
    distribution = BaseDistribution(log_length_mean=(1.5, 1.6, 1.7), log_length_std=(0.1, 0.1, 0.1))
    x_0 = distribution.sample([(3, 8, 22, 56) * 5, (1,) * 20], seeds=[3, 4]).to(dtype=dtype)
    draws = {field: v.to(dtype) for field, v in draw_noise(x_0, 50, [3, 4], policy.active).items()}
    trajectory = rollout(policy, x_0, time_grid(50), draws)
    settings = LearnerSettings(epochs=1, microbatch_pairs=4000)
    stats = Learner(policy, ObjectiveSettings(kl_weight=FieldWeights(pos=0, cell=0)), settings).update(
        trajectory, torch.tensor([1.0, -1.0])
    )
    assert stats["log_ratio_max"] < bound
    for field in active:
        assert stats[f"clip_fraction_{field}"] == 0.0
        assert abs(stats[f"policy_loss_{field}"]) < bound


@pytest.mark.parametrize("dtype, bound", [(torch.float64, 1e-5), (torch.float32, 1e-3)])
def test_ratio_of_a_whole_structure_is_one_before_the_first_update(dtype, bound):
    """With one ratio per structure its logarithm is a sum over 20 atoms; read off its gradient."""
    network, base = small_network(0, dtype), small_network(1, dtype)
    policy = velocity_policy(network, base, ("pos",))
    trajectory = sample(policy, [20, 20], 50, dtype, with_base=False)
    learner = make_learner(network, base, ("pos",), position_reduction="none", kl_weight=FieldWeights(pos=0))
    # The loss is -mean(ratio) with equal advantages: its distance from -1 is the mean of the ratios' deviations.
    learner_loss = learner.update(trajectory, torch.ones(2))["policy_loss_pos"]
    assert abs(learner_loss + 1) < bound


@pytest.mark.parametrize("dtype, bound", [(torch.float64, 1e-12), (torch.float32, 1e-6)])
@pytest.mark.parametrize("active", FIELDS)
def test_kl_is_zero_at_the_start(active, dtype, bound):
    network, base = small_network(0, dtype), small_network(0, dtype)
    trajectory = sample(velocity_policy(network, base, active), dtype=dtype)
    learner = make_learner(network, base, active)
    assert learner.objective.needs_base(learner.policy)
    stats = learner.update(trajectory, ADVANTAGE.to(dtype))
    assert all(abs(stats[f"kl_{field}"]) < bound for field in active)


def test_kl_of_another_policy_is_positive():
    network, base = small_network(0), small_network(1)
    stats = make_learner(network, base).update(sample(velocity_policy(network, base)), ADVANTAGE)
    assert stats["kl_pos"] > 1e-6 and stats["kl_cell"] > 1e-6


def test_a_kl_to_what_was_not_recorded_is_not_reported():
    network, base = small_network(0), small_network(1)
    trajectory = sample(velocity_policy(network, base), with_base=False)
    stats = make_learner(network, base, kl_weight=FieldWeights(pos=0, cell=0)).update(trajectory, ADVANTAGE)
    assert {"loss", "policy_loss_pos", "clip_fraction_cell"} <= stats.keys()
    assert not [name for name in stats if name.startswith("kl_")]


@pytest.mark.parametrize(
    "active, weights, expected",
    [
        (("pos",), FieldWeights(pos=0, cell=1), False),
        (("pos", "cell"), FieldWeights(pos=0, cell=1), True),
        (("pos", "cell"), FieldWeights(pos=0, cell=0), False),
    ],
)
def test_the_base_is_needed_where_the_kl_counts(active, weights, expected):
    learner = make_learner(small_network(0), small_network(1), active, kl_weight=weights)
    assert learner.objective.needs_base(learner.policy) is expected


# --- the objective and its gradient -----------------------------------------------------------------------------


def plain_objective(learner: Learner, base: CSPNet, trajectory: Trajectory, advantage, reduction, schedule) -> float:
    """Step by step, structure by structure, with torch.distributions."""
    objective, network, times = learner.objective, learner.policy.network, trajectory.times
    old = perturbed(network, 0.0)
    old.load_state_dict(trajectory.old_weights)
    pos, cell = trajectory.states()
    some = trajectory.learn_from
    counted = range(trajectory.n_steps) if some is None else some.tolist()
    total, n_steps = 0.0, len(counted)
    for k in counted:
        t, dt = times[k], times[k + 1] - times[k]
        for b, n in enumerate(trajectory.x_0.n_atoms.tolist()):
            state = trajectory.x_0.replace(pos[k], cell[k]).select([b])
            atoms = trajectory.x_0.batch == b
            for field in learner.policy.active:
                sigma = 0.1668 * ((1 - t) / t).sqrt() if field == "pos" else torch.full_like(t, 0.2)
                factor = 1 + (getattr(schedule, field) * t if schedule else 0.0)
                rates = []
                for model in (network, old, base):
                    out = model(state, t)
                    rates.append(factor * (out.pos_b if field == "pos" else out.cell_b))
                new, previous, reference = (Normal(rate * dt, sigma * dt.sqrt()) for rate in rates)
                stored = trajectory.displacement[field][k]
                action = stored[atoms] if field == "pos" else stored[b : b + 1]
                log_ratio = new.log_prob(action) - previous.log_prob(action)
                kl = torch.distributions.kl_divergence(new, reference)
                a, weight = advantage[b], 1.0
                if field == "pos":
                    log_ratio, kl = log_ratio.sum(-1), kl.sum(-1)
                    if reduction != "per_atom":
                        log_ratio = log_ratio.sum()
                    kl = kl.sum() if reduction == "none" else kl.mean()
                    weight = 1.0 / n if reduction == "per_structure" else 1.0
                else:
                    log_ratio, kl = log_ratio.sum(), kl.sum()
                ratio, edge = log_ratio.exp(), objective.clip
                surrogate = -weight * torch.minimum(ratio * a, ratio.clamp(1 - edge, 1 + edge) * a).mean()
                value = objective.policy_weight.of(field) * surrogate + objective.kl_weight.of(field) * kl
                total += float(value.detach()) / (n_steps * len(advantage))
    return total


@pytest.mark.parametrize("schedule", [None, LinearSchedule(pos=2.0, cell=0.5)])
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("active", FIELDS)
def test_objective_equals_a_plain_evaluation(active, reduction, schedule):
    old, base = small_network(0), small_network(1)
    trajectory = sample(velocity_policy(old, base, active, schedule=schedule), steps=4)
    object.__setattr__(trajectory, "old_weights", old.state_dict())
    learner = make_learner(perturbed(old, 0.02), base, active, schedule, position_reduction=reduction)
    expected = plain_objective(learner, base, trajectory, ADVANTAGE, reduction, schedule)
    assert learner.update(trajectory, ADVANTAGE)["loss"] == pytest.approx(expected, rel=1e-5, abs=1e-8)


@pytest.mark.parametrize("pairs", [16_000, 30])
@pytest.mark.parametrize("quiet", [False, True])
def test_only_some_steps_are_learned_from(quiet, pairs):
    old, base = small_network(0), small_network(1)
    trajectory = sample(velocity_policy(old, base), learn_from=(1, 2, 4), noise_elsewhere=not quiet)
    object.__setattr__(trajectory, "old_weights", old.state_dict())
    learner = make_learner(perturbed(old, 0.02), base, microbatch_pairs=pairs)
    expected = plain_objective(learner, base, trajectory, ADVANTAGE, "per_atom", None)
    assert learner.update(trajectory, ADVANTAGE)["loss"] == pytest.approx(expected, rel=1e-5, abs=1e-8)


def test_what_was_sampled_in_bfloat16_is_learned_from_in_bfloat16():
    """The gradient is nearly that of float32, and ratios are 1: those of float32 would not be."""
    dtype = torch.float32
    network, base = small_network(0, dtype), small_network(1, dtype)
    little = {field: NoiseSettings(kind="constant", a=1e-3) for field in ("pos", "cell")}
    policy = velocity_policy(network, base, noise=little)
    settings = LearnerSettings(epochs=1, grad_clip=UNCLIPPED, lr=1e-9)
    coarse, gradient, ratio = sample(policy.at("bfloat16"), dtype=dtype), {}, {}
    for precision in ("float32", "bfloat16"):
        learner = Learner(policy, ObjectiveSettings(clip=0.9), settings)
        own = sample(policy.at(precision), dtype=dtype)
        assert learner.update(own, ADVANTAGE.to(dtype))["log_ratio_max"] < 1e-3
        gradient[precision] = torch.cat([g.flatten() for g in gradients(network).values()])
        assert gradient[precision].dtype == dtype
        ratio[precision] = learner.update(replace(coarse, precision=precision), ADVANTAGE.to(dtype))["log_ratio_max"]
    assert ratio["bfloat16"] < 1e-3 < 0.05 < ratio["float32"]
    assert 0.99 < float(torch.cosine_similarity(*gradient.values(), dim=0)) < 1 - 1e-7


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("active", FIELDS)
def test_gradient_against_finite_differences(active, reduction):
    old, base = small_network(0), small_network(1)
    trajectory = sample(velocity_policy(old, base, active), steps=5)
    network = perturbed(old, 0.004)
    start = {name: value.clone() for name, value in network.state_dict().items()}

    def evaluate() -> dict[str, float]:
        return make_learner(network, base, active, position_reduction=reduction).update(trajectory, ADVANTAGE)

    stats = evaluate()
    assert all(0 < stats[f"clip_fraction_{field}"] < 1 for field in active)
    gradient = gradients(network)
    assert stats["grad_norm"] == pytest.approx(float(torch.stack([g.norm() for g in gradient.values()]).norm()))

    def loss_at(direction: dict[str, torch.Tensor], h: float) -> float:
        moved = {name: value + h * direction[name] if name in direction else value for name, value in start.items()}
        network.load_state_dict(moved)
        return evaluate()["loss"]

    directions = [{name: torch.randn_like(g) for name, g in gradient.items()} for _ in range(3)]
    if reduction == "per_atom":
        # And every tensor on its own, along its gradient, so that none that is cut off can hide among the others.
        directions += [{name: g / g.norm()} for name, g in gradient.items() if float(g.norm()) > 1e-6]
        assert len(directions) > 15
    h = 1e-6
    for direction in directions:
        numeric = (loss_at(direction, h) - loss_at(direction, -h)) / (2 * h)
        exact = float(sum((gradient[name] * v).sum() for name, v in direction.items()))
        assert numeric == pytest.approx(exact, rel=1e-4, abs=1e-7), list(direction)[:2]


def test_the_objective_does_not_depend_on_the_origin():
    old, base = small_network(0), small_network(1)
    policy = velocity_policy(old, base)
    x_0 = random_crystals(SIZES)
    noise = {f: v.double() for f, v in draw_noise(x_0, 7, range(4), policy.active).items()}
    shift = torch.rand(4, 3, dtype=torch.float64)[x_0.batch]
    results, slopes = [], []
    for start in (x_0, x_0.replace(pos=(x_0.pos + shift) % 1.0)):
        network = perturbed(old, 0.02)
        trajectory = rollout(policy, start, time_grid(7), noise, with_base=True)
        results.append(make_learner(network, base).update(trajectory, ADVANTAGE))
        slopes.append(gradients(network))
    assert results[0] == pytest.approx(results[1], rel=1e-6, abs=1e-8)
    for name, value in slopes[0].items():
        torch.testing.assert_close(slopes[1][name], value, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_microbatches_do_not_change_the_update(reduction, dtype, tolerance):
    old, base = small_network(0, dtype), small_network(1, dtype)
    trajectory = sample(velocity_policy(old, base), dtype=dtype)
    results = []
    for pairs in (10**6, 1, 20, 40, 70):
        network = perturbed(old, 0.02)
        learner = make_learner(network, base, position_reduction=reduction, microbatch_pairs=pairs)
        stats = learner.update(trajectory, ADVANTAGE)
        results.append((stats, gradients(network), network.state_dict()))
    stats, gradient, weights = results[0]
    largest = max(float(g.abs().max()) for g in gradient.values())
    for other_stats, other_gradient, other_weights in results[1:]:
        assert other_stats == pytest.approx(stats, rel=tolerance, abs=tolerance)
        assert other_gradient.keys() == gradient.keys()
        for name in gradient:
            torch.testing.assert_close(other_gradient[name], gradient[name], rtol=0, atol=tolerance * max(1.0, largest))
        if dtype == torch.float64:
            for name in weights:
                torch.testing.assert_close(other_weights[name], weights[name], rtol=0, atol=tolerance)


def test_microbatches_are_bounded(monkeypatch):
    old, base = small_network(0), small_network(1)
    trajectory = sample(velocity_policy(old, base))
    sizes = []
    forward = CSPNet.forward

    def recording(self, crystals, t, precision):
        sizes.append(int(crystals.n_atoms.square().sum()))
        return forward(self, crystals, t, precision)

    monkeypatch.setattr(CSPNet, "forward", recording)
    make_learner(old, base, microbatch_pairs=40).update(trajectory, ADVANTAGE)
    assert max(sizes) <= 40
    assert sum(sizes) == trajectory.n_steps * sum(n * n for n in SIZES)


# --- the update -------------------------------------------------------------------------------------------------


def test_only_the_network_of_the_active_fields_moves():
    network, base = small_network(0), small_network(1)
    before, base_before = ({k: v.clone() for k, v in n.state_dict().items()} for n in (network, base))
    trajectory = sample(velocity_policy(network, base, ("pos",)))
    make_learner(network, base, ("pos",)).update(trajectory, ADVANTAGE)
    heads = ("coord_out_2", "lattice_out", "lattice_out_2", "type_out", "type_out_2")
    for name, value in network.state_dict().items():
        frozen = name.split(".")[0] in heads
        assert torch.equal(value, before[name]) == frozen, name
    assert all(torch.equal(value, base_before[name]) for name, value in base.state_dict().items())


def test_the_gradient_norm_is_clipped():
    network, base = small_network(0), small_network(1)
    trajectory = sample(velocity_policy(network, base))
    stats = make_learner(network, base, grad_clip=1e-3).update(trajectory, ADVANTAGE)
    assert stats["grad_norm"] > 1e-3
    clipped = torch.stack([g.norm() for g in gradients(network).values()]).norm()
    assert float(clipped) == pytest.approx(1e-3, rel=1e-4)


def test_better_members_become_more_likely():
    network, base = small_network(0), small_network(1)
    trajectory = sample(velocity_policy(network, base))
    learner = make_learner(network, base, lr=1e-3, epochs=3, kl_weight=FieldWeights(pos=0, cell=0))
    first = learner.update(trajectory, ADVANTAGE)
    assert make_learner(network, base).update(trajectory, ADVANTAGE)["policy_loss_pos"] < first["policy_loss_pos"]


def test_a_loss_that_is_not_finite_stops_before_anything_is_updated():
    network, base = small_network(0), small_network(1)
    trajectory = sample(velocity_policy(network, base))
    before = {k: v.clone() for k, v in network.state_dict().items()}
    advantage = ADVANTAGE.clone()
    advantage[2] = float("nan")
    formula = trajectory.x_0.formulas()[2]
    with pytest.raises(TrainingError, match=formula):
        make_learner(network, base, microbatch_pairs=1).update(trajectory, advantage)
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())


def test_a_gradient_that_is_not_finite_stops_before_anything_is_updated():
    network, base = small_network(0), small_network(1)
    trajectory = sample(velocity_policy(network, base))
    before = {k: v.clone() for k, v in network.state_dict().items()}
    network.coord_out.weight.register_hook(lambda g: g * float("nan"))
    with pytest.raises(TrainingError, match="gradient"):
        make_learner(network, base).update(trajectory, ADVANTAGE)
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())


def test_state_goes_on_exactly():
    base = small_network(1)
    trajectory = sample(velocity_policy(small_network(0), base))
    whole, half, rest = small_network(0), small_network(0), small_network(5)
    learner = make_learner(whole, base, lr=1e-3)
    learner.update(trajectory, ADVANTAGE)
    learner.update(trajectory, ADVANTAGE)
    stopped = make_learner(half, base, lr=1e-3)
    stopped.update(trajectory, ADVANTAGE)
    resumed = make_learner(rest, base, lr=1e-3)
    rest.load_state_dict(half.state_dict())
    resumed.load_state_dict({k: v.clone() for k, v in stopped.state_dict().items()})
    resumed.update(trajectory, ADVANTAGE)
    assert all(torch.equal(v, rest.state_dict()[k]) for k, v in whole.state_dict().items())


def test_a_state_of_another_network_is_refused():
    network, base = small_network(0), small_network(1)
    learner = make_learner(network, base)
    learner.update(sample(velocity_policy(network, base)), ADVANTAGE)
    state = learner.state_dict()
    state["0.exp_avg"] = torch.zeros(2, 2)
    with pytest.raises(ModelError, match="another architecture"):
        make_learner(small_network(0), base).load_state_dict(state)


# --- several learners -------------------------------------------------------------------------------------------


class Seat:
    """ProcessGroup of a learner among several in threads of this process."""

    def __init__(self, rank: int, said: list, barrier: threading.Barrier) -> None:
        self.rank, self.size, self._said, self._barrier = rank, len(said), said, barrier

    def _round(self, value):
        self._said[self.rank] = value
        self._barrier.wait(60)
        found = list(self._said)
        self._barrier.wait(60)
        return found

    def exchange(self, said):
        return [json.loads(text) for text in self._round(json.dumps(said))]

    def sum(self, values):
        return torch.stack(self._round(values)).sum(0)


def update_together(learners: list[Learner], parts, trajectory: Trajectory, advantage) -> list:
    """What every learner returns or raises, given the structures of each."""
    said, barrier = [None] * len(parts), threading.Barrier(len(parts))

    def update(rank: int):
        learner, rows = learners[rank], torch.tensor(parts[rank], dtype=torch.long)
        learner.process_group = Seat(rank, said, barrier)
        part = trajectory.select(rows) if len(rows) else None
        try:
            return learner.update(part, advantage[rows], sum(map(len, parts)))
        except TrainingError as error:
            return error

    with ThreadPoolExecutor(len(parts)) as threads:
        return list(threads.map(update, range(len(parts))))


SHARES = [[[0], [1, 2, 3]], [[2], [], [0, 1, 3]], [[], [0, 1, 2, 3]]]


@pytest.mark.parametrize("parts", SHARES, ids=str)
def test_several_learners_do_what_one_does(parts):
    old, base = small_network(0), small_network(1)
    trajectory = sample(velocity_policy(old, base))
    # The norm of the whole gradient is clipped, not that of a part.
    how = {"epochs": 2, "lr": 1e-3, "grad_clip": 1e-2, "microbatch_pairs": 70}
    networks = [perturbed(old, 0.02) for _ in range(len(parts) + 1)]
    one, *others = (make_learner(network, base, **how) for network in networks)
    for _ in range(3):
        expected = one.update(trajectory, ADVANTAGE)
        assert expected["grad_norm"] > 1e-2
        for found in update_together(others, parts, trajectory, ADVANTAGE):
            assert found == pytest.approx(expected, rel=1e-8, abs=1e-10)
    weights, *of_others = (network.state_dict() for network in networks)
    assert any(not torch.allclose(value, old.state_dict()[name], atol=0.03) for name, value in weights.items())
    for found in of_others:
        for name, value in weights.items():
            torch.testing.assert_close(found[name], value, rtol=0, atol=1e-10)
            assert torch.equal(found[name], of_others[0][name])
    states = [learner.state_dict() for learner in (one, *others)]
    assert all(state.keys() == states[0].keys() for state in states)


def test_several_learners_share_the_entropy_of_learned_noise():
    base, trajectory = small_network(1), None
    networks, learners = [], []
    for _ in range(3):
        network = small_network(0)
        noise = {"pos": LearnedNoise(NoiseSettings(kind="learned", a=0.3)).double()}
        policy = velocity_policy(network, base, ("pos",), noise)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            for parameter in noise["pos"].parameters():
                parameter.data = 0.1 * torch.randn_like(parameter)
        trajectory = trajectory or sample(policy)
        objective = ObjectiveSettings(entropy_weight=FieldWeights(pos=0.01, cell=0))
        learners.append(Learner(policy, objective, LearnerSettings(epochs=2, lr=1e-3)))
        networks.append(noise["pos"])
    expected = learners[0].update(trajectory, ADVANTAGE)
    assert {"entropy_pos", "sigma_pos"} <= expected.keys()
    for found in update_together(learners[1:], [[0, 1], [2, 3]], trajectory, ADVANTAGE):
        assert found == pytest.approx(expected, rel=1e-8, abs=1e-10)
    for name, value in networks[0].state_dict().items():
        torch.testing.assert_close(networks[1].state_dict()[name], value, rtol=0, atol=1e-10)


def test_a_loss_that_is_not_finite_stops_all_learners_alike():
    base, networks = small_network(1), [small_network(0) for _ in range(3)]
    trajectory = sample(velocity_policy(networks[0], base))
    advantage = ADVANTAGE.clone()
    advantage[2] = float("nan")
    learners = [make_learner(network, base) for network in networks]
    found = update_together(learners, [[0, 1], [2], [3]], trajectory, advantage)
    assert all(isinstance(error, TrainingError) for error in found)
    assert len({str(error) for error in found}) == 1
    assert trajectory.x_0.formulas()[2] in str(found[0])
    for network in networks:
        assert all(torch.equal(value, small_network(0).state_dict()[k]) for k, value in network.state_dict().items())


def test_a_gradient_that_is_not_finite_stops_all_learners_alike():
    base, networks = small_network(1), [small_network(0) for _ in range(2)]
    trajectory = sample(velocity_policy(networks[0], base))
    networks[1].coord_out.weight.register_hook(lambda gradient: gradient * float("inf"))
    learners = [make_learner(network, base) for network in networks]
    found = update_together(learners, [[0, 1], [2, 3]], trajectory, ADVANTAGE)
    assert all(isinstance(error, TrainingError) for error in found)
    assert len({str(error) for error in found}) == 1
    assert all(formula in str(found[0]) for formula in trajectory.x_0.formulas())
    for network in networks:
        assert all(torch.equal(value, small_network(0).state_dict()[k]) for k, value in network.state_dict().items())


# --- memory -----------------------------------------------------------------------------------------------------


class SmallMemory:
    """Networks run out of memory beyond a number of ordered pairs, in the forward or the backward pass.

    The first `spared` calls are not counted. What a failed call held must be free when the learner says so.
    """

    def __init__(
        self, room: int, error: Exception, monkeypatch: pytest.MonkeyPatch, backward: bool = False, spared: int = 0
    ) -> None:
        self.sizes: list[int] = []
        self.freed: list[bool] = []
        held: list[weakref.ref] = []
        forward = CSPNet.forward

        def limited(network, crystals, t, precision):
            nonlocal spared
            out = forward(network, crystals, t, precision)
            if spared:
                spared -= 1
                return out
            self.sizes.append(size := int(crystals.n_atoms.square().sum()))
            if size > room:
                held.append(weakref.ref(crystals))
                if not backward:
                    raise anew()
                out._features.register_hook(lambda gradient, crystals=crystals: fail())
            return out

        def anew() -> Exception:
            # One that was raised before would keep the frames where that happened.
            return type(error)(*error.args)

        def fail() -> None:
            raise anew()

        monkeypatch.setattr(CSPNet, "forward", limited)
        warn = learner_module.logger.warning

        def warning(*words) -> None:
            self.freed.append(held[-1]() is None)
            warn(*words)

        monkeypatch.setattr(learner_module.logger, "warning", warning)


OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried to ..."),
    RuntimeError("[enforce fail at alloc_cpu.cpp:75] data. DefaultCPUAllocator: not enough memory: you tried to ..."),
]


@pytest.mark.parametrize(
    "error, backward",
    [*((error, False) for error in OUT_OF_MEMORY), (OUT_OF_MEMORY[0], True)],
    ids=["cuda", "linux", "windows", "backward"],
)
def test_memory_that_runs_out_halves_the_microbatches(error, backward, monkeypatch, caplog):
    old, base = small_network(0), small_network(1)
    trajectory = sample(velocity_policy(old, base))
    networks = [perturbed(old, 0.02) for _ in range(2)]
    how = {"epochs": 2, "lr": 1e-3, "microbatch_pairs": 120}
    roomy, tight = (make_learner(network, base, **how) for network in networks)
    expected = [roomy.update(trajectory, ADVANTAGE) for _ in range(2)]
    assert "microbatch_pairs" not in expected[0]
    # Four structures of 35 pairs and three steps make the first microbatch, of 105; 52 and 26 follow.
    # The second one is the first that fails: what the one before added must not be counted twice.
    memory = SmallMemory(30, error, monkeypatch, backward, spared=1)
    found = [tight.update(trajectory, ADVANTAGE) for _ in range(2)]
    too_large = [size for size in memory.sizes if size > 30]
    assert 1 <= len(too_large) <= 3
    assert sum(size <= 30 for size in memory.sizes) > 0
    assert max(memory.sizes[memory.sizes.index(too_large[-1]) + 1 :]) <= too_large[-1] // 2
    for theirs, ours in zip(expected, found, strict=True):
        assert ours.pop("microbatch_pairs") == tight.microbatch_pairs == too_large[-1] // 2
        assert ours == pytest.approx(theirs, rel=1e-8, abs=1e-10)
    for name, value in networks[0].state_dict().items():
        torch.testing.assert_close(networks[1].state_dict()[name], value, rtol=0, atol=1e-10)
    assert memory.freed == [True] * len(too_large)
    warned = [record.getMessage() for record in caplog.records]
    assert len(warned) == len(too_large)
    assert f"continues with {too_large[-1] // 2}; set learner.microbatch_pairs={too_large[-1] // 2}" in warned[-1]


def test_memory_that_holds_no_structure_at_one_step_is_an_error(monkeypatch):
    network, base = small_network(0), small_network(1)
    trajectory = sample(velocity_policy(network, base))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    memory = SmallMemory(10, OUT_OF_MEMORY[0], monkeypatch)
    with pytest.raises(TrainingError, match=rf"single step, {trajectory.x_0.formulas()[2]}, .*CUDA out of memory"):
        make_learner(network, base, microbatch_pairs=500).update(trajectory, ADVANTAGE)
    assert memory.sizes[-1] == 16
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_other_errors_are_not_taken_for_want_of_memory(monkeypatch):
    network, base = small_network(0), small_network(1)
    trajectory = sample(velocity_policy(network, base))
    memory = SmallMemory(0, RuntimeError("a bug"), monkeypatch)
    with pytest.raises(RuntimeError, match="a bug"):
        make_learner(network, base).update(trajectory, ADVANTAGE)
    assert len(memory.sizes) == 1


def test_a_learner_that_runs_out_of_memory_keeps_its_peers_waiting_and_no_more(monkeypatch):
    old, base = small_network(0), small_network(1)
    trajectory = sample(velocity_policy(old, base))
    networks = [perturbed(old, 0.02) for _ in range(3)]
    one, *others = (make_learner(network, base, epochs=2, lr=1e-3, microbatch_pairs=100) for network in networks)
    expected = one.update(trajectory, ADVANTAGE)
    # The first has 10 pairs at each of 6 steps; the second 25, and so four steps in a microbatch.
    SmallMemory(70, OUT_OF_MEMORY[0], monkeypatch)
    found = update_together(others, [[0, 1], [2, 3]], trajectory, ADVANTAGE)
    assert others[0].microbatch_pairs == 100
    assert others[1].microbatch_pairs == 50
    for metrics in found:
        assert metrics.pop("microbatch_pairs") == 50
        assert metrics == pytest.approx(expected, rel=1e-8, abs=1e-10)
    for name, value in networks[0].state_dict().items():
        for network in networks[1:]:
            torch.testing.assert_close(network.state_dict()[name], value, rtol=0, atol=1e-10)
