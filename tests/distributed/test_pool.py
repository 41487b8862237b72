"""Who gets which request, and what a failure looks like."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster

from omatg_ray.distributed.pool import Pool, Request, Timed, answers, fetch
from omatg_ray.errors import ClusterError, TrainingError

pytestmark = pytest.mark.usefixtures("cluster")


class Counter:
    """Remembers what it was asked, and at most how much of it was waiting."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def square(self, number: int, seconds: float = 0.0) -> tuple[int, Timed]:
        self.asked.append(number)
        time.sleep(seconds)
        return number**2, Timed(-number, seconds)

    def total(self, *numbers: int) -> Timed:
        return Timed(sum(numbers), 0.0)

    def large(self) -> tuple[bytes, Timed]:
        return bytes(2**20), Timed(None, 0.0)

    def history(self) -> Timed:
        return Timed(self.asked, 0.0)

    def fail(self, ours: bool) -> Timed:
        raise TrainingError("the loss is not finite") if ours else KeyError("nothing of ours")

    def die(self) -> Timed:
        os._exit(3)


@pytest.fixture
def actors() -> Iterator[list[Any]]:
    started = [ray.remote(Counter).options(num_cpus=0.1).remote() for _ in range(2)]
    yield started
    for actor in started:
        ray.kill(actor)


def test_every_request_is_answered_once_and_what_is_kept_stays_in_the_store(actors: list[Any]) -> None:
    pool = Pool("worker", 2, actors)
    for index in range(9):
        pool.submit(Request(index, "square", (index,), kept=1))
    found = {answer.index: answer for _, answer in answers(pool)}
    assert sorted(found) == list(range(9))
    assert [found[index].value for index in range(9)] == [-index for index in range(9)]
    assert [ray.get(found[index].kept[0]) for index in range(9)] == [index**2 for index in range(9)]
    assert pool.unfinished == 0


def test_no_actor_has_more_than_its_share_in_flight(actors: list[Any]) -> None:
    pool = Pool("worker", 2, actors)
    for index in range(9):
        pool.submit(Request(index, "square", (index, 0.05), kept=1))
    most = 0
    while pool.unfinished:
        assert len(list(pool.running)) == min(4, pool.unfinished)
        most = max(most, pool.describe().count("square"))
        (ready, *_), _ = ray.wait(list(pool.running))
        pool.take(ready)
    assert most == 4
    histories = ray.get([actor.history.remote() for actor in actors])
    assert sorted(number for history in histories for number in history.value) == list(range(9))
    assert all(history.value for history in histories)
    assert sum(pool.take_busy()) == pytest.approx(9 * 0.05)
    assert pool.take_busy() == [0.0, 0.0]


def test_answers_may_be_handed_on_while_others_run(actors: list[Any]) -> None:
    first, second = Pool("first", 2, actors[:1]), Pool("second", 2, actors[1:])
    for index in range(5):
        first.submit(Request(index, "square", (index,), kept=1))
    totals = {}
    for pool, answer in answers(first, second):
        if pool is first:
            second.submit(Request(answer.index, "total", (answer.kept[0], 1)))
        else:
            totals[answer.index] = answer.value
    assert totals == {index: index**2 + 1 for index in range(5)}


def test_what_was_given_to_an_actor_and_is_lost(actors: list[Any], cluster: Cluster) -> None:
    """A node goes with the object that it holds, as with trajectories that the learner was to learn from."""
    node = cluster.add_node(num_cpus=1, resources={"here": 1}, object_store_memory=100 * 2**20)
    maker = ray.remote(Counter).options(num_cpus=0.1, resources={"here": 0.1}).remote()
    kept, _ = maker.large.options(num_returns=2).remote()
    ray.wait([kept], fetch_local=False)
    cluster.remove_node(node)
    pool = Pool("learner", 2, actors)
    pool.submit(Request(0, "total", (kept,)))
    with pytest.raises(ClusterError, match=r"^learner actor 0 cannot get what others made for it; it is lost"):
        list(answers(pool))
    with pytest.raises(ClusterError, match=r"^what rollout actor 3 made is lost"):
        fetch(kept, "rollout actor 3")


def test_our_errors_arrive_as_themselves(actors: list[Any]) -> None:
    pool = Pool("worker", 2, actors)
    pool.submit(Request(0, "fail", (True,)))
    pool.submit(Request(1, "square", (1, 5.0), kept=1))
    with pytest.raises(TrainingError, match="^the loss is not finite$"):
        list(answers(pool))
    assert pool.unfinished == 0


def test_other_errors_name_the_actor_and_keep_their_traceback(actors: list[Any]) -> None:
    pool = Pool("rollout", 2, actors)
    pool.submit(Request(0, "fail", (False,)))
    with pytest.raises(ClusterError, match=r"(?s)^rollout actor 0 failed:.*in fail.*KeyError: 'nothing of ours'"):
        list(answers(pool))


def test_a_dead_actor_is_named(actors: list[Any]) -> None:
    pool = Pool("reward", 2, actors)
    pool.submit(Request(0, "square", (1,), kept=1))
    pool.submit(Request(1, "die", ()))
    with pytest.raises(ClusterError, match=r"(?s)^reward actor 1 died: .*exit"):
        list(answers(pool))


def test_long_silence_is_broken(
    actors: list[Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("omatg_ray.distributed.pool.PATIENCE", 0.2)
    pool = Pool("rollout", 2, actors)
    pool.submit(Request(4, "square", (1, 0.7), kept=1))
    with caplog.at_level(logging.WARNING):
        assert len(list(answers(pool))) == 1
    assert "running: rollout actor 0: square 4" in caplog.text
