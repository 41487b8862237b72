"""The buffer of the best crystals found, and what is learned from it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from omatg_ray.crystal.base import BaseDistribution
from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.flow.examples import Examples
from omatg_ray.flow.settings import PathSettings
from omatg_ray.reward.protocol import RewardResult
from omatg_ray.rl.backend import LocalTrainingBackend
from omatg_ray.rl.learner import Learner
from omatg_ray.rl.replay import SAME, Best, Ranked, Replay, best_of, boltzmann
from omatg_ray.rl.settings import (
    AdvantageSettings,
    FieldWeights,
    LearnerSettings,
    ObjectiveSettings,
    ReplaySettings,
    RolloutSettings,
)
from omatg_ray.rl.trainer import Trainer
from tests.small import small_network, velocity_policy

BASE = BaseDistribution(log_length_mean=(1.5, 1.5, 1.5), log_length_std=(0.05, 0.05, 0.05))


def crystals_at(shifts: list[float], species: tuple[int, int] = (11, 17), length: float = 4.0) -> CrystalBatch:
    """Cubic cells of two atoms, the second at (s, s, s)."""
    pos = torch.tensor([[[0.0] * 3, [shift] * 3] for shift in shifts])
    n = len(shifts)
    return CrystalBatch(
        torch.tensor(species * n), pos.flatten(0, 1), length * torch.eye(3).repeat(n, 1, 1), torch.full((n,), 2)
    )


def best(shifts: list[float], rewards: list[float], species: tuple[int, int] = (11, 17)) -> Best:
    return Best(crystals_at(shifts, species), torch.tensor(rewards, dtype=torch.float64))


def replay(ranked: Ranked | None = None, **settings: Any) -> Replay:
    return Replay(ReplaySettings(relax=0, **settings), BASE, PathSettings(), 0.0, seed=3, ranked=ranked)


def ends(buffer: Replay, iterations: int = 40) -> list[tuple[tuple[int, ...], float]]:
    """Composition and shift of the crystals that the examples of some iterations lead to."""
    found = []
    for iteration in range(iterations):
        examples = buffer.examples(iteration)
        x_1 = examples.state.pos + (1.0 - examples.t[examples.state.batch])[:, None] * examples.velocity["pos"]
        apart = (x_1[1::2] - x_1[::2])[:, 0] % 1.0
        found += list(zip(map(tuple, examples.state.atomic_numbers), apart.tolist(), strict=True))
    return found


def shifts_of(found: list[tuple[tuple[int, ...], float]]) -> set[float]:
    return {round(min(shift, 1.0 - shift), 2) for _, shift in found}


class ByShift:
    """The reward is how far apart the atoms are along x, at most one half."""

    name, elements = "shift", None

    def __call__(self, crystals: CrystalBatch) -> RewardResult:
        apart = (crystals.pos[1::2, 0] - crystals.pos[::2, 0]).double() % 1.0
        return RewardResult(torch.minimum(apart, 1.0 - apart), {})


class Mover:
    """Relaxes every crystal by moving its second atom to a place of its own."""

    def __init__(self, shift: float) -> None:
        self.shift = shift

    def relaxed(self, crystals: CrystalBatch, steps: int) -> Any:
        pos = crystals.pos.double().clone()
        pos[1::2] = self.shift + 0.001 * steps
        return SimpleNamespace(crystals=crystals.to(dtype=torch.float64).replace(pos, crystals.cell.double()))


def test_the_best_members_of_each_group_are_kept() -> None:
    """Two groups of three: the second has an invalid crystal, whose atoms overlap, and one without a reward."""
    crystals = crystals_at([0.5, 0.3, 0.4, 0.01, 0.35, 0.45])
    rewards = torch.tensor([1.0, 3.0, 2.0, 9.0, 1.5, float("nan")], dtype=torch.float64)
    found = best_of(crystals, rewards, 3, ReplaySettings(keep=2, relax=0), ByShift(), None)
    assert found.reward.tolist() == [3.0, 2.0, 1.5]
    assert found.crystals.pos[1::2, 0].tolist() == pytest.approx([0.3, 0.4, 0.35])


def test_what_is_relaxed_is_rewarded_anew() -> None:
    mover: Any = Mover(0.4)
    crystals, rewards = crystals_at([0.3, 0.5]), torch.tensor([0.3, 0.5], dtype=torch.float64)
    found = best_of(crystals, rewards, 2, ReplaySettings(keep=1, relax=5), ByShift(), mover)
    assert found.reward.tolist() == pytest.approx([0.405])
    assert found.crystals.pos[1, 0] == pytest.approx(0.405) and found.crystals.dtype == torch.float32
    nowhere: Any = Mover(0.0)  # onto the other atom
    none = best_of(crystals, rewards, 2, ReplaySettings(keep=1, relax=1), ByShift(), nowhere)
    assert len(none.reward) == len(none.crystals) == 0


def test_a_composition_keeps_its_distinct_best_crystals() -> None:
    buffer = replay(keep=2, temperature=1e9)
    buffer.add([best([0.5, 0.3], [1.0, 2.0]), best([0.4], [7.0], (12, 8))])
    buffer.add([best([0.3, 0.4], [2.5, 0.5])])  # the first is the same as one before, and better
    assert len(buffer) == 3 and buffer.reward == pytest.approx((2.5 + 7.0) / 2)
    assert shifts_of(ends(buffer)) == {0.3, 0.5}
    buffer.add([best([0.35], [9.0])])
    assert shifts_of(ends(buffer)) == {0.3, 0.35}


def test_a_single_crystal_is_drawn_only_if_no_composition_has_several() -> None:
    buffer = replay(keep=2)
    buffer.add([best([0.4], [7.0], (12, 8)), best([0.3], [1.0])])
    assert shifts_of(ends(buffer)) == {0.3, 0.4}
    buffer.add([best([0.5], [0.0])])
    assert shifts_of(ends(buffer)) == {0.3}


def test_known_crystals_without_a_reward_or_with_overlapping_atoms_are_left_out() -> None:
    buffer = replay(keep=3)
    crystals = crystals_at([0.5, 0.01, 0.3]).to(dtype=torch.float64)
    buffer.begin(crystals, torch.tensor([1.0, 2.0, float("nan")], dtype=torch.float64))
    assert len(buffer) == 1 and shifts_of(ends(buffer)) == {0.5} and buffer.reward == 1.0
    assert buffer.state_dict()["pos"].dtype == torch.float32 and "offset" not in buffer.state_dict()


def test_known_energies_rank_and_what_is_found_is_anchored_at_the_lowest_known_crystal() -> None:
    """The reward puts 0.5 first, the energies of the file 0.3, from which differences of rewards count."""
    known = crystals_at([0.5, 0.3]).to(dtype=torch.float64)
    ranked = Ranked(known, torch.tensor([-3.9, -4.0], dtype=torch.float64))
    buffer, again = replay(ranked, keep=3), replay(ranked, keep=3)
    buffer.begin(known, torch.tensor([2.0, 1.5], dtype=torch.float64))
    assert buffer.reward == 4.0 and shifts_of(ends(buffer)) == {0.3}
    again.load_state_dict({name: value.clone() for name, value in buffer.state_dict().items()})
    for each in (buffer, again):
        each.add([best([0.5, 0.3], [2.0, 9.0])])  # copies of known crystals say nothing new
        assert each.reward == 4.0 and len(each) == 2 and shifts_of(ends(each)) == {0.3}
        each.add([best([0.4], [1.4])])
        assert each.reward == 4.0 and len(each) == 3
        each.add([best([0.2], [1.7])])
        assert each.reward == pytest.approx(4.2) and shifts_of(ends(each)) == {0.2} and len(each) == 3
        each.add([best([0.45], [9.0], (12, 8))])  # nothing is known of this one
        assert each.reward == pytest.approx((4.2 + 9.0) / 2)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in buffer.state_dict().items())


def test_atoms_in_another_order_are_the_same_composition() -> None:
    buffer = replay(keep=3)
    buffer.add([best([0.5], [1.0]), best([0.5], [2.0], (17, 11))])
    assert len(buffer) == 1 and buffer.reward == 2.0
    assert SAME > 0.0


def test_weights_are_those_of_boltzmann() -> None:
    reward = torch.tensor([-1.0, -0.9, -1.4], dtype=torch.float64)
    weights = boltzmann(reward, 0.2)
    assert float(weights.sum()) == pytest.approx(1.0)
    assert float((weights[1] / weights[0]).log()) == pytest.approx(0.1 / 0.2)
    assert float((weights[1] / weights[2]).log()) == pytest.approx(0.5 / 0.2)
    assert boltzmann(reward, 0.0).tolist() == [0.0, 1.0, 0.0]


@pytest.mark.parametrize("temperature, share", [(0.0, 1.0), (0.5, 1 / (1 + 2.718281828**-2.0))])
def test_crystals_are_drawn_with_these_weights(temperature: float, share: float) -> None:
    buffer = replay(crystals=16, temperature=temperature)
    buffer.add([best([0.5, 0.3], [1.0, 2.0])])
    found = [round(min(shift, 1.0 - shift), 2) for _, shift in ends(buffer, 50)]
    standard_error = (share * (1.0 - share) / len(found)) ** 0.5
    assert found.count(0.3) / len(found) == pytest.approx(share, abs=4 * standard_error)


def test_compositions_take_turns() -> None:
    buffer = replay(crystals=4)
    buffer.add([best([0.5], [float(z)], (z, 8)) for z in range(11, 19)])
    found = [numbers for numbers, _ in ends(buffer, 2)]
    assert len(set(found)) == 8


def test_a_buffer_goes_on_exactly_after_a_checkpoint() -> None:
    buffer, again = replay(keep=2, temperature=0.3), replay(keep=2, temperature=0.3)
    assert buffer.state_dict() == {}
    with pytest.raises(ValueError, match="empty"):
        buffer.examples(0)
    again.load_state_dict({})
    buffer.add([best([0.5, 0.3, 0.4], [1.0, 2.0, 3.0]), best([0.4, 0.3], [7.0, 6.0], (12, 8))])
    again.load_state_dict({name: value.clone() for name, value in buffer.state_dict().items()})
    for each in (buffer, again):
        each.add([best([0.45], [2.5])])
    one, other = buffer.examples(5), again.examples(5)
    assert torch.equal(one.state.pos, other.state.pos) and torch.equal(one.velocity["cell"], other.velocity["cell"])
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in buffer.state_dict().items())


class ByLength(ByShift):
    """Minus the mean squared deviation of the lattice vectors' lengths from 5 Å."""

    def __call__(self, crystals: CrystalBatch) -> RewardResult:
        return RewardResult(-(crystals.cell.double().norm(dim=2) - 5.0).square().mean(1), {})


def trainer(settings: ReplaySettings, epochs: int = 1) -> Trainer:
    network, base = small_network(0, torch.float32), small_network(0, torch.float32)
    none = FieldWeights(pos=0.0, cell=0.0)
    learner = Learner(
        velocity_policy(network, base, ["pos", "cell"]),
        ObjectiveSettings(replay=settings, policy_weight=none),
        LearnerSettings(epochs=epochs, lr=1e-2),
    )
    start = BaseDistribution(log_length_mean=(1.5, 1.5, 1.5), log_length_std=(0.2, 0.2, 0.2))
    model: Any = SimpleNamespace(
        learned=network, description=SimpleNamespace(base_distribution=start), device=torch.device("cpu")
    )
    training = LocalTrainingBackend(learner, model, ByLength())
    return Trainer(
        RolloutSettings(groups=2, group_size=6, steps=4, groups_per_item=2),
        [[11, 17], [12, 8], [19, 9]],
        AdvantageSettings(),
        training,
        seed=3,
        total=100,
        by_policy=False,
        replay=Replay(settings, start, PathSettings(), 0.0, seed=3),
        epochs=epochs,
    )


def test_a_run_without_policy_and_reward_gradients_learns_from_the_best_alone() -> None:
    run = trainer(ReplaySettings(relax=0, keep=1, crystals=32))
    rewards, metrics = list[float](), dict[str, float]()
    for _ in range(40):
        metrics = run.step()
        rewards.append(metrics["reward_mean"])
        assert "loss" not in metrics and "policy_loss_pos" not in metrics and metrics["replay_pos"] > 0.0
    assert metrics["replay_crystals"] == 3 and metrics["replay_reward"] > -0.05
    # Rewards are negative: they have halved.
    assert mean(rewards[-10:]) > 0.5 * mean(rewards[:10])


def test_every_epoch_takes_other_crystals_and_epochs_count_on_from_one_iteration_to_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run, turns, losses = trainer(ReplaySettings(relax=0, crystals=2), epochs=3), list[int](), list[Examples]()
    assert run.replay is not None and isinstance(run.backend, LocalTrainingBackend)
    draw, learn = run.replay.examples, run.backend.learner._match
    monkeypatch.setattr(run.replay, "examples", lambda turn: (turns.append(turn), draw(turn))[1])
    monkeypatch.setattr(
        run.backend.learner, "_match", lambda source, of, report: (losses.append(of), learn(source, of, report))[1]
    )
    for _ in range(2):
        run.step()
    assert turns == list(range(6)) and len(losses) == 6
    assert len({tuple(of.t.tolist()) for of in losses}) == 6


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def test_nothing_is_learned_as_long_as_nothing_was_found(monkeypatch: pytest.MonkeyPatch) -> None:
    run = trainer(ReplaySettings(relax=0))
    monkeypatch.setattr(
        "omatg_ray.rl.replay.check_validity",
        lambda crystals: SimpleNamespace(valid=torch.zeros(len(crystals), dtype=torch.bool)),
    )
    before = weights(run)
    metrics = run.step()
    assert metrics["replay_crystals"] == 0.0 and torch.equal(weights(run), before)


def weights(run: Trainer) -> Tensor:
    assert isinstance(run.backend, LocalTrainingBackend)
    return torch.cat([p.detach().flatten() for p in run.backend.learner.policy.network.parameters()]).clone()
