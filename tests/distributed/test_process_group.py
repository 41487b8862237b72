"""Several learner actors do what one does, and stop together; shares of an iteration."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from typing import Any

import psutil
import pytest
import ray
import torch
from ray.cluster_utils import Cluster
from torch import Tensor, nn

from omatg_ray.crystal.base import BaseDistribution
from omatg_ray.distributed.failures import fetch
from omatg_ray.distributed.process_group import (
    LOOPBACK,
    LearnersLostError,
    TorchProcessGroup,
    open_rendezvous,
    plan_shares,
    reason_of,
)
from omatg_ray.distributed.settings import RaySettings, Share
from omatg_ray.distributed.workers import LearnerWorker
from omatg_ray.errors import ClusterError, TrainingError
from omatg_ray.flow.network import CSPNet
from omatg_ray.flow.settings import PathSettings
from omatg_ray.model.description import ModelDescription
from omatg_ray.model.flow_model import FlowModel
from omatg_ray.policy.grid import time_grid
from omatg_ray.policy.policy import draw_noise
from omatg_ray.rl.learner import Learner
from omatg_ray.rl.rollout import Trajectory, rollout
from omatg_ray.rl.settings import LearnerSettings, ObjectiveSettings
from omatg_ray.rl.signal import Signal
from tests.small import NOISE, SIZE, random_crystals, small_network


def test_the_error_that_says_why_is_raised_before_those_that_only_lost_another_learner() -> None:
    """Whichever came first; of several that say why, the first."""
    lost, why, other = LearnersLostError("left the others"), TrainingError("not finite"), ClusterError("no memory")
    assert reason_of([lost, why, other]) is reason_of([why, lost]) is why
    assert reason_of([lost, LearnersLostError("left, too")]) is lost


# --- shares -----------------------------------------------------------------------------------------------------

SIZES = [[2] * 4, [5] * 4, [1] * 4, [20] * 4, [3] * 4]
SOME = torch.tensor([0, 1, 3, 4, 6, 7, 8, 12, 13, 15, 16, 17, 18])


@pytest.mark.parametrize("counted", [torch.arange(20), SOME, torch.tensor([9]), torch.tensor([], dtype=torch.long)])
@pytest.mark.parametrize("n", [1, 2, 3, 7, 30])
def test_every_counted_structure_is_in_one_share(n: int, counted: Tensor) -> None:
    advantage = 100.0 + counted
    whole = [(item, member) for item, sizes in enumerate(SIZES) for member in range(len(sizes))]
    found, values = [], []
    shares = plan_shares(SIZES, counted, n)
    assert len(shares) == n
    for items, own, positions in shares:
        structures = [(item, member) for item in items for member in range(len(SIZES[item]))]
        found += [structures[index] for index in own.tolist()]
        values += advantage[positions].tolist()
        assert own.dtype == positions.dtype == torch.long
        # No item is sent that is not needed.
        assert {structures[index][0] for index in own.tolist()} == set(items)
    assert found == [whole[index] for index in counted.tolist()]
    assert values == advantage.tolist()


@pytest.mark.parametrize("n", [1, 2, 3, 5, 8])
def test_shares_are_even_in_pairs_of_atoms(n: int) -> None:
    generator = torch.Generator().manual_seed(n)
    sizes = [torch.randint(1, 21, (16,), generator=generator).tolist() for _ in range(12)]
    counted = torch.rand(192, generator=generator).gt(0.2).nonzero().squeeze(1)
    atoms = torch.tensor(sizes).flatten()
    pairs = [int(atoms[counted[positions]].square().sum()) for _, _, positions in plan_shares(sizes, counted, n)]
    assert sum(pairs) == int(atoms[counted].square().sum())
    assert all(abs(own - sum(pairs) / n) <= 400 for own in pairs)


def test_equal_structures_are_dealt_out_evenly_and_items_to_few() -> None:
    shares = plan_shares([[4] * 8] * 6, torch.arange(48), 3)
    assert [items for items, _, _ in shares] == [[0, 1], [2, 3], [4, 5]]
    assert all(own.tolist() == list(range(16)) for _, own, _ in shares)


def test_the_number_of_learners_is_a_key() -> None:
    assert RaySettings().learner.workers == 1
    assert RaySettings.model_validate({"learner": {"workers": 3}}).learner.workers == 3


# --- a group ----------------------------------------------------------------------------------------------------


def in_group(n: int, work: Callable[[TorchProcessGroup], Any], seconds: float = 60.0) -> list[Any]:
    """What every member of a group does in a thread of its own; errors are returned."""
    store, address = open_rendezvous(LOOPBACK, seconds)

    def join(rank: int) -> Any:
        try:
            group = TorchProcessGroup(address, rank, n, LOOPBACK, served=store if rank == 0 else None, seconds=seconds)
            return work(group)
        except LearnersLostError as error:
            return error

    with ThreadPoolExecutor(n) as threads:
        return list(threads.map(join, range(n)))


def test_a_group_hears_everybody_and_adds_up_the_same_bits() -> None:
    values = torch.randn(3, 1001, generator=torch.Generator().manual_seed(0))

    def work(group: TorchProcessGroup) -> tuple[list[dict[str, Any]], Tensor]:
        said = {"text": "σ" * group.rank, "values": [0.1] * group.rank, "worst": float("nan"), "none": None}
        return group.exchange(said), group.sum(values[group.rank])

    (first, total), *others = in_group(3, work)
    assert [said["text"] for said in first] == ["", "σ", "σσ"]
    assert [said["values"] for said in first] == [[], [0.1], [0.1, 0.1]]
    assert all(said["worst"] != said["worst"] and said["none"] is None for said in first)
    torch.testing.assert_close(total, values.sum(0))
    assert all(torch.equal(other, total) for _, other in others)


def test_a_group_listens_only_where_it_is_told_to() -> None:
    def listening() -> set[tuple[str, int]]:
        found = psutil.Process().net_connections("tcp")
        return {(at.laddr.ip.removeprefix("::ffff:"), at.laddr.port) for at in found if at.status == psutil.CONN_LISTEN}

    before = listening()
    together = threading.Barrier(2)

    def work(group: TorchProcessGroup) -> set[tuple[str, int]]:
        group.exchange({})
        together.wait(60)
        opened = listening() - before
        together.wait(60)
        return opened

    opened, _ = in_group(2, work)
    assert opened
    assert {address for address, _ in opened} == {LOOPBACK}


def test_who_leaves_is_noticed_and_cannot_come_back() -> None:
    stay = threading.Event()

    def work(group: TorchProcessGroup) -> None:
        if group.rank == 1:
            group.close()
            stay.set()
        stay.wait(60)
        group.sum(torch.ones(2))

    for rank, error in enumerate(in_group(3, work)):
        assert isinstance(error, LearnersLostError)
        assert ("has left the others" in str(error)) == (rank == 1)
        assert f"learner {rank} of 3" in str(error)


def test_nobody_waits_forever() -> None:
    done = threading.Event()

    def work(group: TorchProcessGroup) -> None:
        if group.rank == 1:
            done.wait(60)
            return
        try:
            group.exchange({})
        finally:
            done.set()

    error, _ = in_group(2, work, seconds=1.0)
    assert isinstance(error, LearnersLostError) and "Timed out" in str(error)


def test_who_does_not_come_is_not_waited_for_forever() -> None:
    store, address = open_rendezvous(LOOPBACK, seconds=1.0)
    with pytest.raises(LearnersLostError, match="learner 0 of 2"):
        TorchProcessGroup(address, 0, 2, LOOPBACK, served=store, seconds=1.0)


# --- actors -----------------------------------------------------------------------------------------------------

OBJECTIVE = ObjectiveSettings()
SETTINGS = LearnerSettings(lr=1e-3, grad_clip=0.1, microbatch_pairs=60)
ITEMS = [[3, 1], [4, 3, 2], [5], [2, 2]]
ROOM = 30
"""Pairs of atoms that fit into the memory of a `Cramped` learner."""


class Open(LearnerWorker):
    """Shows its weights."""

    def weights(self) -> dict[str, Tensor]:
        return {name: value.detach().cpu() for name, value in self._learned.state_dict().items()}


class Cramped(Open):
    """Runs out of memory with larger microbatches."""

    def update(self, *arguments: Any) -> Any:
        with pytest.MonkeyPatch.context() as patch:
            forward = CSPNet.forward

            def limited(network: CSPNet, crystals: Any, t: Tensor, precision: Any) -> Any:
                if int(crystals.n_atoms.square().sum()) > ROOM:
                    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
                return forward(network, crystals, t, precision)

            patch.setattr(CSPNet, "forward", limited)
            return super().update(*arguments)


def small_model(dtype: torch.dtype) -> FlowModel:
    description = ModelDescription(
        network=SIZE,
        paths=PathSettings(),
        base_distribution=BaseDistribution(log_length_mean=(1.4, 1.5, 1.6), log_length_std=(0.1, 0.1, 0.1)),
        elements=["O", "Ti"],
        sizes=[3, 5],
        active=["pos", "cell"],
        noise=NOISE,
    )
    base, policy = (small_network(seed, dtype) for seed in (0, 1))
    return FlowModel(description, base, nn.ModuleDict({"policy": policy}))


def iterations(model: FlowModel, count: int, items: Sequence[Sequence[int]] = ITEMS) -> Iterator[list[Trajectory]]:
    """Trajectories of the items, sampled by the weights that a model has when the next are asked for."""
    policy = model.policy()
    dtype = next(model.base_network.parameters()).dtype
    for iteration in range(count):
        trajectories = []
        for index, sizes in enumerate(items):
            seed = 100 * iteration + 10 * index
            x_0 = random_crystals(sizes, seed, dtype)
            noise = draw_noise(x_0, 5, [seed + member for member in range(len(sizes))], policy.active)
            noise = {field: values.to(dtype) for field, values in noise.items()}
            # Every other iteration is learned from in part.
            some = None if iteration % 2 else (0, 2)
            trajectories.append(rollout(policy, x_0, time_grid(5), noise, with_base=True, learn_from=some))
        yield trajectories


class Set:
    """Learner actors as a controller uses them."""

    def __init__(self, model: FlowModel, n: int, cls: type[Open] = Open) -> None:
        remote = ray.remote(cls).options(num_cpus=0.1)
        self.actors: list[Any] = [remote.remote(Share(), model, OBJECTIVE, SETTINGS) for _ in range(n)]
        if n > 1:
            address = fetch(self.actors[0].rendezvous.remote(), "learner 0").value
            joining = [actor.join.remote(address, rank, n) for rank, actor in enumerate(self.actors)]
            assert [fetch(ref, "a learner").value for ref in joining] == [None] * n
            assert address.startswith(f"{LOOPBACK}:")

    def submit(self, trajectories: Sequence[Trajectory], counted: Tensor, advantage: Tensor) -> list[tuple[Any, ...]]:
        sizes = [trajectory.x_0.n_atoms.tolist() for trajectory in trajectories]
        references = [ray.put(trajectory) for trajectory in trajectories]
        calls = []
        shares = plan_shares(sizes, counted, len(self.actors))
        for actor, (items, own, positions) in zip(self.actors, shares, strict=True):
            needed = [references[item] for item in items]
            update = actor.update.options(num_returns=3)
            calls.append(tuple(update.remote(Signal(own, advantage[positions]), len(counted), *needed)))
        return calls

    def update(self, *arguments: Any) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, float]]:
        calls = self.submit(*arguments)
        weights, optimizers, timed = ([fetch(ref, "a learner") for ref in refs] for refs in zip(*calls, strict=True))
        for state in (weights, optimizers):
            assert [one is None for one in state] == [rank > 0 for rank in range(len(self.actors))]
        assert all(metrics.value == timed[0].value for metrics in timed)
        return weights[0], optimizers[0], timed[0].value

    def load(self, weights: dict[str, Tensor], optimizer: dict[str, Tensor]) -> None:
        for actor in self.actors:
            assert fetch(actor.load.remote(weights, optimizer), "a learner").value is None

    def end(self) -> None:
        for actor in self.actors:
            ray.kill(actor)


@pytest.fixture(scope="module")
def make(cluster: Cluster) -> Iterator[Callable[..., Set]]:
    """Sets of learners that end with the tests of this file."""
    made: list[Set] = []

    def new(*arguments: Any) -> Set:
        made.append(Set(*arguments))
        return made[-1]

    yield new
    for learners in made:
        learners.end()


@pytest.fixture(scope="module")
def three(make: Callable[..., Set]) -> Set:
    """Three learners in double precision, which tests bring to where they want them by `load`."""
    return make(small_model(torch.float64), 3)


@pytest.fixture(scope="module")
def cramped(make: Callable[..., Set]) -> Set:
    """Two learners that run out of memory."""
    return make(small_model(torch.float64), 2, Cramped)


def first_state(model: FlowModel) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Weights and optimizer of a learner that has not learned anything yet."""
    return model.learned.state_dict(), {}


COUNTED = [torch.arange(8), torch.tensor([0, 2, 3, 6]), torch.tensor([4]), torch.tensor([1, 2, 4, 5, 7])]


def advantages(counted: Tensor, iteration: int) -> Tensor:
    return torch.randn(len(counted), generator=torch.Generator().manual_seed(iteration), dtype=torch.float64)


@pytest.mark.parametrize(
    "n, dtype, tolerance", [(1, torch.float32, 0.0), (2, torch.float32, 1e-4), (3, torch.float64, 1e-10)]
)
def test_learners_give_the_result_of_one_process(
    n: int, dtype: torch.dtype, tolerance: float, make: Callable[..., Set], three: Set
) -> None:
    """Over iterations with 8, 4, 1 and 5 structures; of the third, all learners but one have nothing."""
    model = small_model(dtype)
    learners = three if n == 3 else make(model, n)
    learners.load(*first_state(model))
    start = deepcopy(model.learned.state_dict())
    alone = Learner(model.policy(), OBJECTIVE, SETTINGS)
    for iteration, trajectories in enumerate(iterations(model, len(COUNTED))):
        counted = COUNTED[iteration]
        advantage = advantages(counted, iteration)
        expected = alone.update(Trajectory.cat(trajectories).select(counted), advantage)
        weights, optimizer, metrics = learners.update(trajectories, counted, advantage)
        assert metrics.keys() == expected.keys()
        assert metrics == pytest.approx(expected, rel=100 * tolerance, abs=10 * tolerance)
    expected_weights = model.learned.state_dict()
    assert expected_weights.keys() == weights.keys()
    assert max(float((weights[name] - start[name]).abs().max()) for name in weights) > 1e-3
    for name, value in expected_weights.items():
        torch.testing.assert_close(weights[name], value, rtol=0, atol=tolerance)
    for name, value in alone.state_dict().items():
        torch.testing.assert_close(optimizer[name], value, rtol=0, atol=tolerance)
    for actor in learners.actors:
        own = ray.get(actor.weights.remote())
        assert all(torch.equal(value, own[name]) for name, value in weights.items())


def test_learners_go_on_exactly_from_a_snapshot(three: Set) -> None:
    model = small_model(torch.float64)
    first, second, third = list(iterations(model, 3))
    everything, advantage = torch.arange(8), advantages(torch.arange(8), 0)
    three.load(*first_state(model))
    *state, _ = three.update(first, everything, advantage)
    expected = [three.update(trajectories, everything, advantage) for trajectories in (second, third)]
    three.load(*state)
    found = [three.update(trajectories, everything, advantage) for trajectories in (second, third)]
    for (*theirs, their_metrics), (*ours, our_metrics) in zip(expected, found, strict=True):
        assert our_metrics == their_metrics
        for our_part, their_part in zip(ours, theirs, strict=True):
            assert our_part.keys() == their_part.keys()
            assert all(torch.equal(value, their_part[name]) for name, value in our_part.items())
    # What was loaded first, without any state of the optimizer, was the start indeed.
    three.load(*first_state(model))
    again, _, _ = three.update(first, everything, advantage)
    assert all(torch.equal(value, state[0][name]) for name, value in again.items())


def test_a_loss_that_is_not_finite_is_the_same_error_on_all_who_then_go_on(three: Set) -> None:
    model = small_model(torch.float64)
    (trajectories,) = iterations(model, 1)
    everything, advantage = torch.arange(8), advantages(torch.arange(8), 0)
    three.load(*first_state(model))
    expected, _, _ = three.update(trajectories, everything, advantage)
    three.load(*first_state(model))
    broken = advantage.clone()
    broken[-1] = float("nan")
    messages = set()
    for refs in three.submit(trajectories, everything, broken):
        with pytest.raises(TrainingError, match="the loss is not finite") as caught:
            fetch(refs[-1], "a learner")
        messages.add(str(caught.value))
    assert len(messages) == 1
    assert trajectories[-1].x_0.formulas()[-1] in messages.pop()
    weights, _, _ = three.update(trajectories, everything, advantage)
    assert all(torch.equal(value, expected[name]) for name, value in weights.items())


def test_actors_halve_their_microbatches_where_memory_runs_out(cramped: Set) -> None:
    model = small_model(torch.float64)
    alone = Learner(model.policy(), OBJECTIVE, SETTINGS)
    for iteration, trajectories in enumerate(iterations(model, 2)):
        advantage = advantages(torch.arange(8), iteration)
        expected = alone.update(Trajectory.cat(trajectories), advantage)
        weights, _, metrics = cramped.update(trajectories, torch.arange(8), advantage)
        assert metrics.pop("microbatch_pairs") <= ROOM
        assert metrics == pytest.approx(expected, rel=1e-8, abs=1e-10)
    for name, value in model.learned.state_dict().items():
        torch.testing.assert_close(weights[name], value, rtol=0, atol=1e-10)


def test_one_structure_that_does_not_fit_is_the_same_error_on_all(cramped: Set) -> None:
    (trajectories,) = iterations(small_model(torch.float64), 1, [[3, 1], [7], [2, 2]])
    messages = set()
    for refs in cramped.submit(trajectories, torch.arange(5), advantages(torch.arange(5), 0)):
        with pytest.raises(TrainingError, match="single structure at a single step, .* does not fit") as caught:
            fetch(refs[-1], "a learner")
        messages.add(str(caught.value))
    assert len(messages) == 1
    assert trajectories[1].x_0.formulas()[0] in messages.pop()


def test_learners_do_not_wait_for_one_that_fails(make: Callable[..., Set]) -> None:
    model = small_model(torch.float32)
    learners = make(model, 2)
    (trajectories,) = iterations(model, 1)
    calls = [actor.update.options(num_returns=3) for actor in learners.actors]
    good = calls[0].remote(Signal(torch.tensor([0]), torch.ones(1)), 2, trajectories[0])
    bad = calls[1].remote(Signal(torch.tensor([99]), torch.ones(1)), 2, trajectories[1])
    with pytest.raises(LearnersLostError):
        fetch(good[-1], "learner actor 0")
    with pytest.raises(ClusterError, match=r"(?s)^learner actor 1 failed:.*IndexError"):
        fetch(bad[-1], "learner actor 1")


def test_learners_notice_that_another_one_is_dead(three: Set) -> None:
    """The last test of these three. It is the one whose store the others have met in that dies."""
    model = small_model(torch.float64)
    (trajectories,) = iterations(model, 1)
    arguments = (trajectories, torch.arange(8), advantages(torch.arange(8), 0))
    three.update(*arguments)
    ray.kill(three.actors[0])
    for rank, refs in enumerate(three.submit(*arguments)):
        with pytest.raises(ClusterError) as caught:
            fetch(refs[-1], f"learner actor {rank}")
        assert isinstance(caught.value, LearnersLostError) == (rank != 0)
    # They are of no use any more, which they say.
    with pytest.raises(LearnersLostError, match="has left the others"):
        fetch(three.submit(*arguments)[1][-1], "learner actor 1")
