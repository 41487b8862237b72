from __future__ import annotations

import pytest
import torch
from torch import nn

from omatg_ray.crystal.base import BaseDistribution, InformedCell
from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.errors import ConfigError, ModelError
from omatg_ray.evaluate.backend import Block
from omatg_ray.flow.settings import PathSettings
from omatg_ray.model.description import ModelDescription
from omatg_ray.model.flow_model import FlowModel, new_modules
from omatg_ray.model.sampling import Sampling
from omatg_ray.rl.flow_matching import matching_loss
from omatg_ray.rl.replay import Best
from omatg_ray.rl.settings import FieldWeights
from omatg_ray.search.random_crystals import RandomCrystals
from omatg_ray.search.restarts import Restarts
from omatg_ray.search.sampler import FixedSampler, Learning, LearningSampler, RandomSampler
from tests.small import NOISE, SIZE, rock_salt, small_network

NACL = [11, 17]
LEARNING = Learning(updates=3, lr=1e-2, crystals=4, period=4)


def small_model(acts_from: float = 0.0, reinforced: bool = False) -> FlowModel:
    description = ModelDescription(
        network=SIZE,
        paths=PathSettings(),
        base_distribution=BaseDistribution(cell=InformedCell(log_length_mean=[1.4] * 3, log_length_std=[0.1] * 3)),
        elements=["Na", "Cl"],
        sizes=[2],
        active=["pos", "cell"] if reinforced else [],
        noise=NOISE if reinforced else {},
        acts_from=acts_from,
    )
    learned = new_modules(description) if reinforced else nn.ModuleDict()
    return FlowModel(description, small_network(dtype=torch.float32), learned.requires_grad_(False))


def known() -> CrystalBatch:
    return CrystalBatch.from_structures([rock_salt().get_primitive_structure()] * 2, torch.float32)


def sampler(model: FlowModel, learning: Learning = LEARNING) -> LearningSampler:
    return LearningSampler(model, 5, learning)


def learn(one: FixedSampler, crystals: CrystalBatch, energy: torch.Tensor) -> None:
    one.take(crystals, energy)
    one.learn()


def weights(module: nn.Module) -> torch.Tensor:
    return torch.cat([value.detach().flatten() for value in module.parameters()])


def test_a_model_as_it_is_stays_so() -> None:
    fixed = FixedSampler(small_model(), 5)
    before = weights(fixed.model.base_network)
    learn(fixed, known(), torch.tensor([-1.0, -1.0]))
    assert fixed.models([0, 1, 2]) == [(fixed.start, [0, 1, 2])]
    assert torch.equal(before, weights(fixed.model.base_network))
    assert fixed.state_dict() == {}


def test_random_crystals_stand_in_for_a_model() -> None:
    one = RandomSampler(small_model(), 5)
    ((random, rows),) = one.models([0, 1, 2])
    assert rows == [0, 1, 2]
    block = Block([NACL] * 3, [4, 5, 6], Sampling(4), seed=5)
    made, _ = block.generate(random)
    torch.testing.assert_close(made.pos, RandomCrystals().generate([NACL] * 3, seed=5, indices=[4, 5, 6]).pos)
    learn(one, known(), torch.tensor([-1.0, -1.0]))
    assert one.state_dict() == {}


@pytest.mark.parametrize(
    "acts_from, reinforced, learns", [(0.0, False, "base"), (0.5, True, "base"), (0.0, True, "policy")]
)
def test_the_network_that_acts_first_learns(acts_from: float, reinforced: bool, learns: str) -> None:
    start = small_model(acts_from, reinforced)
    one = sampler(start)
    before = weights(start.base_network)
    learn(one, known(), torch.tensor([-1.0, -1.0]))
    assert torch.equal(weights(start.base_network), before), "the model that was given has changed"
    assert torch.equal(weights(one.model.base_network), before) == (learns != "base")
    if reinforced:
        unchanged = torch.equal(weights(one.model.learned["policy"]), weights(start.learned["policy"]))
        assert unchanged == (learns != "policy")


def test_it_learns_the_flow_to_what_was_lowest() -> None:
    """Errors on examples that no update saw; those of crystals that lie higher do not count at temperature 0."""
    one = sampler(small_model(), Learning(updates=40, lr=1e-2, crystals=16, keep=1, temperature=0.0))
    other = LearningSampler(small_model(), 6, one.learning)
    lowest = known().select([0])
    other.replay.add([Best(lowest, torch.tensor([2.0], dtype=torch.float64))])
    unseen = other.replay.examples(0)

    def errors() -> dict[str, float]:
        weights = FieldWeights(pos=1.0, cell=1.0)
        return matching_loss(one.learner.policy, unseen, weights, "replay")[1]

    before = errors()
    stretched = lowest.replace(lowest.pos, 3.0 * lowest.cell)
    learn(one, CrystalBatch.cat([lowest, stretched]), torch.tensor([-2.0, 0.0]))
    after = errors()
    assert after["replay_cell"] < 0.5 * before["replay_cell"]
    assert after["replay_pos"] < before["replay_pos"]


def test_some_samples_explore_and_some_restart() -> None:
    start = small_model()
    one = sampler(start)
    learn(one, known(), torch.tensor([-1.0, -1.0]))
    (given, explored), (restarts, restarted), (now, others) = one.models([0, 1, 2, 3, 4, 5, 7])
    assert given is start and explored == [0, 4] and restarted == [1, 5] and others == [2, 3, 6]
    assert isinstance(restarts, Restarts) and isinstance(now, FlowModel)
    assert torch.equal(weights(now.base_network), weights(one.model.base_network))
    assert [rows for _, rows in one.models([3, 2])] == [[0, 1]] and [rows for _, rows in one.models([0])] == [[0]]


def test_what_makes_a_round_does_not_change_while_it_is_worked_on() -> None:
    one = sampler(small_model())
    learn(one, known(), torch.tensor([-1.0, -1.0]))
    ((now, _),) = one.models([2])
    assert isinstance(now, FlowModel)
    before = weights(now.base_network)
    learn(one, known(), torch.tensor([-1.0, -1.0]))
    assert torch.equal(before, weights(now.base_network))
    assert not torch.equal(before, weights(one.model.base_network))


def test_a_restored_sampler_goes_on_as_the_other() -> None:
    first, second = sampler(small_model()), sampler(small_model())
    learn(first, known(), torch.tensor([-1.0, -1.0]))
    second.load_state_dict({name: value.clone() for name, value in first.state_dict().items()})
    for one in (first, second):
        learn(one, known(), torch.tensor([-1.1, -1.1]))
    assert torch.equal(weights(first.model.base_network), weights(second.model.base_network))
    broken = {name: value[:1] if name.startswith("base/") else value for name, value in first.state_dict().items()}
    with pytest.raises(ModelError, match="another network"):
        second.load_state_dict(broken)


def test_what_it_has_not_learned_from_yet_is_restored_too() -> None:
    """A round that is begun again knows of restarts what it knew before; then both learn the same."""
    first, second = sampler(small_model()), sampler(small_model())
    learn(first, known(), torch.tensor([-1.0, -1.0]))
    stretched = known().replace(known().pos, 2.0 * known().cell)
    first.take(stretched, torch.tensor([-1.2, -1.3]))
    second.load_state_dict({name: value.clone() for name, value in first.state_dict().items()})
    assert second.replay.reward == first.replay.reward == pytest.approx(1.0)
    for one in (first, second):
        one.learn()
        assert one.replay.reward == pytest.approx(1.3)
    assert torch.equal(weights(first.model.base_network), weights(second.model.base_network))
    assert "taken/pos" not in first.state_dict()


def test_nothing_found_changes_nothing() -> None:
    one = sampler(small_model())
    before = weights(one.model.base_network)
    learn(one, known().select([]), torch.zeros(0))
    assert torch.equal(before, weights(one.model.base_network))


def test_a_flow_that_is_not_trained_here_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: PathSettings) -> None:
        raise ValueError("paths.pos: a bent path")

    monkeypatch.setattr(PathSettings, "refuse_untrainable", refuse)
    with pytest.raises(ConfigError, match=r"bent path.*--method sample"):
        sampler(small_model())
