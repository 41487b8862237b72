"""Who gets which request, and what becomes of it when an actor fails."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster

from omatg_ray.distributed.event_loop import EventLoop
from omatg_ray.distributed.failures import GONE, ActorGone, OutputLost, Timed, fetch
from omatg_ray.distributed.worker_group import MAX_ATTEMPTS, Request, WorkerGroup
from omatg_ray.errors import ClusterError, TrainingError
from omatg_ray.run.versions import software

pytestmark = pytest.mark.usefixtures("cluster")


class Counter:
    """Remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def info(self) -> Timed:
        return Timed({"pid": os.getpid(), "software": software()}, 0.0)

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


class Stillborn:
    def __init__(self) -> None:
        os._exit(4)

    def info(self) -> Timed:
        return Timed(None, 0.0)


class Team:
    """A loop, and pools of which every actor is known."""

    def __init__(self) -> None:
        self.loop, self.pools, self.hired = EventLoop(), list[WorkerGroup](), list[Any]()

    def pool(self, count: int = 2, role: str = "worker", cls: type[Any] = Counter, **options: Any) -> WorkerGroup:
        def hire(index: int) -> Any:
            self.hired.append(ray.remote(cls).options(num_cpus=0.1).remote())
            return self.hired[-1]

        pool = WorkerGroup(role, self.loop, hire, count, **options)
        self.pools.append(pool)
        return pool

    def finish(self) -> None:
        self.loop.until(lambda: not any(pool.waiting + pool.running for pool in self.pools))


@pytest.fixture
def team() -> Iterator[Team]:
    made = Team()
    yield made
    for pool in made.pools:
        pool.close()


@dataclass
class Answer:
    value: Any
    kept: tuple[Any, ...]


def into(found: dict[int, Any], index: int) -> Callable[..., None]:
    return lambda value, *kept: found.__setitem__(index, Answer(value, kept))


def test_every_request_is_answered_once_and_what_is_kept_stays_in_the_store(team: Team) -> None:
    pool, found = team.pool(), dict[int, Answer]()
    for index in range(9):
        pool.submit(Request(f"{index}", "square", (index,), into(found, index), kept=1))
    team.finish()
    assert [found[index].value for index in range(9)] == [-index for index in range(9)]
    assert [ray.get(found[index].kept[0]) for index in range(9)] == [index**2 for index in range(9)]
    assert pool.waiting == pool.running == 0


def test_no_actor_has_more_than_its_share_in_flight(team: Team) -> None:
    pool, most = team.pool(in_flight=2), 0
    pool.wait_for(2)  # one alone could answer everything before the other has started

    def count(*_: Any) -> None:
        nonlocal most
        most = max(most, pool.describe().count("square"))

    for index in range(9):
        pool.submit(Request(f"{index}", "square", (index, 0.05), count, kept=1))
    team.finish()
    assert most == 4
    histories = [ray.get(actor.history.remote()).value for actor in team.hired]
    assert sorted(number for history in histories for number in history) == list(range(9))
    assert all(histories)
    assert sum(pool.take_busy().values()) == pytest.approx(9 * 0.05)
    assert pool.take_busy() == {0: 0.0, 1: 0.0}
    assert len(pool.take_spans()) == 9


def test_requests_go_to_the_actor_with_least_to_do(team: Team) -> None:
    pool, found = team.pool(in_flight=2), dict[int, Answer]()
    pool.wait_for(2)
    for index in range(2):
        pool.submit(Request(f"{index}", "square", (index, 0.05), into(found, index), kept=1))
    team.finish()
    assert sorted(ray.get(actor.history.remote()).value for actor in team.hired) == [[0], [1]]


def test_requests_of_an_actor_that_died_go_before_those_that_wait(team: Team) -> None:
    pool, found = team.pool(1), dict[int, Answer]()
    pool.wait_for(1)
    for index in range(4):  # two are given to the actor
        pool.submit(Request(f"{index}", "square", (index, 1.0), into(found, index), kept=1))
    os.kill(pool.info[0]["pid"], signal.SIGKILL)
    team.finish()
    assert ray.get(team.hired[-1].history.remote()).value == [0, 1, 2, 3]


def test_spans_show_what_is_done_and_what_goes_on(team: Team) -> None:
    pool, found = team.pool(1), dict[int, Answer]()
    pool.wait_for(1)
    began = time.time()
    for index, seconds in enumerate((0.2, 1.5)):
        pool.submit(Request(f"{index}", "square", (index, seconds), into(found, index), kept=1))
    assert (pool.waiting, pool.running) == (0, 2)
    team.loop.until(lambda: 0 in found)
    time.sleep(0.3)
    done, under_way = pool.take_spans()
    now = time.time()
    assert (done.role, done.actor, done.method) == (under_way.role, under_way.actor, under_way.method)
    assert done.end - done.start == pytest.approx(0.2)
    assert began <= done.end <= under_way.start + 0.1 < under_way.end <= now
    so_far = pool.take_busy()[0]
    assert so_far >= 0.2 + 0.3
    team.finish()
    (whole,) = pool.take_spans()
    assert whole.end - whole.start == pytest.approx(1.5) and pool.take_spans() == []
    assert so_far + pool.take_busy()[0] == pytest.approx(0.2 + 1.5)  # no second counts twice


def test_answers_may_be_handed_on_while_others_run(team: Team) -> None:
    first, second = team.pool(1, "first"), team.pool(1, "second")
    totals: dict[int, Answer] = {}
    for index in range(5):

        def on(_: Any, kept: Any, index: int = index) -> None:
            second.submit(Request("", "total", (kept, 1), into(totals, index)))

        first.submit(Request("", "square", (index,), on, kept=1))
    team.finish()
    assert {index: answer.value for index, answer in totals.items()} == {index: index**2 + 1 for index in range(5)}


def test_who_dies_is_replaced_and_its_requests_are_answered_by_others(
    team: Team, caplog: pytest.LogCaptureFixture
) -> None:
    pool, found = team.pool(), dict[int, Answer]()
    pool.wait_for(2)
    victim = pool.info[0]["pid"]
    for index in range(8):
        pool.submit(Request(f"{index}", "square", (index, 0.2), into(found, index), kept=1))
    with caplog.at_level(logging.WARNING):
        os.kill(victim, signal.SIGKILL)
        team.finish()
        pool.wait_for(2)
    assert [ray.get(found[index].kept[0]) for index in range(8)] == [index**2 for index in range(8)]
    failures = pool.take_failures()
    assert failures["replaced_worker"] == 1
    assert failures["retried_worker"] in (1, 2)  # one that it worked on, and one behind it
    assert pool.take_failures() == {"replaced_worker": 0, "retried_worker": 0}
    assert len(team.hired) == 3
    assert victim not in {info["pid"] for info in pool.info}
    assert "worker actor 0 died" in caplog.text


def test_who_hangs_is_replaced_after_the_timeout(team: Team) -> None:
    pool, found = team.pool(1, in_flight=1, request_timeout=1.5), dict[int, Answer]()
    pool.wait_for(1)
    frozen = pool.info[0]["pid"]
    os.kill(frozen, signal.SIGSTOP)
    pool.submit(Request("0", "square", (3,), into(found, 0), kept=1))
    team.finish()
    assert ray.get(found[0].kept[0]) == 9
    assert pool.take_failures() == {"replaced_worker": 1, "retried_worker": 1}
    with pytest.raises(ProcessLookupError):
        for _ in range(50):
            os.kill(frozen, 0)
            time.sleep(0.1)


def test_what_kills_every_actor_is_given_up(team: Team) -> None:
    """And takes nothing else with it: what waits behind it is not to blame."""
    pool, found, reasons = team.pool(1), dict[int, Answer](), list[str]()
    pool.submit(Request("7", "die", (), into(found, 0), given_up=reasons.append))
    pool.submit(Request("8", "square", (2,), into(found, 1), kept=1))
    team.finish()
    assert reasons == [f"die 7: {MAX_ATTEMPTS} worker actors died or hung over it"]
    assert list(found) == [1]
    assert len(team.hired) == MAX_ATTEMPTS + 1  # each that died was replaced, and no more died than that


def test_without_anyone_to_ask_the_run_ends(team: Team) -> None:
    pool = team.pool(1)
    pool.submit(Request("7", "die", (), lambda _: None))
    with pytest.raises(ClusterError, match="^die 7: 5 worker actors died or hung over it$"):
        team.finish()


def test_actors_that_die_while_they_start(team: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("omatg_ray.distributed.worker_group.PAUSE", 0.1)
    pool = team.pool(1, "reward", Stillborn)
    with pytest.raises(ClusterError, match="(?s)^reward actor 0 died"):
        pool.wait_for(1)
    assert len(team.hired) == 3


def test_a_role_without_room_ends_the_run(team: Team) -> None:
    def nowhere(_: int) -> Any:
        return ray.remote(Counter).options(resources={"nowhere": 1}).remote()

    pool = WorkerGroup("rollout", team.loop, nowhere, 1, start_timeout=1.0)
    team.pools.append(pool)
    with pytest.raises(ClusterError, match="^(after 1 s .* rollout actor|there has been no rollout actor for 1 s)"):
        pool.wait_for(1)


def test_a_role_that_has_lost_its_room_ends_the_run(team: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    def hire(_: int) -> Any:
        resources = {"nowhere": 1.0} if team.hired else {}
        team.hired.append(ray.remote(Counter).options(num_cpus=0.1, resources=resources).remote())
        return team.hired[-1]

    pool = WorkerGroup("rollout", team.loop, hire, 1)
    team.pools.append(pool)
    pool.wait_for(1)
    monkeypatch.setattr(pool, "_start_timeout", 2.0)  # only now: on a busy machine the first one may take longer
    os.kill(pool.info[0]["pid"], signal.SIGKILL)
    pool.submit(Request("0", "square", (3,), lambda _: None, kept=1))
    with pytest.raises(ClusterError, match="^there has been no rollout actor for 2 s: "):
        team.finish()


def test_what_a_pool_cannot_mend_is_no_failure_of_who_else_waits(team: Team) -> None:
    """The learners wait in the same loop, and would take a lost input or a dead actor for their own."""
    pool = team.pool(1, "reward", Stillborn)
    with pytest.raises(ClusterError) as raised:
        pool.wait_for(1)
    assert type(raised.value) is ClusterError


@pytest.mark.parametrize("error", GONE)
def test_whatever_ray_calls_the_end_of_a_process_the_actor_is_gone(
    error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def get(_: object) -> None:
        raise error("the memory monitor killed it")

    monkeypatch.setattr("omatg_ray.distributed.failures.ray.get", get)
    with pytest.raises(ActorGone, match="^reward actor 1 died: "):
        fetch(None, "reward actor 1")  # type: ignore[arg-type]


def test_a_loop_that_waits_for_nothing_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("omatg_ray.distributed.event_loop.PATIENCE", 0.2)
    with pytest.raises(ClusterError, match="^nothing is running on the cluster any more"):
        EventLoop().until(lambda: False)


def test_actors_beyond_those_needed_join_when_there_is_room(team: Team, cluster: Cluster) -> None:
    def hire(index: int) -> Any:
        resources = {"later": 1.0} if index else {}
        return ray.remote(Counter).options(num_cpus=0.1, resources=resources).remote()

    pool, found = WorkerGroup("rollout", team.loop, hire, 2), dict[int, Answer]()
    team.pools.append(pool)
    pool.wait_for(1)
    assert pool.n_ready == 1
    node = cluster.add_node(num_cpus=1, resources={"later": 1})
    try:
        pool.wait_for(2)
        for index in range(8):
            pool.submit(Request("", "square", (index, 0.3), into(found, index), kept=1))
        team.loop.until(lambda: len(found) == 2)
    finally:
        cluster.remove_node(node)
    # The second leaves with its node; the first does the rest.
    team.finish()
    assert len(found) == 8
    assert pool.n_ready == 1


def test_what_was_given_to_an_actor_and_is_lost(team: Team, cluster: Cluster) -> None:
    """A node goes with the object that it holds, as with crystals that a reward actor was to judge."""
    node = cluster.add_node(num_cpus=1, resources={"here": 1}, object_store_memory=100 * 2**20)
    maker = ray.remote(Counter).options(num_cpus=0.1, resources={"here": 0.1}).remote()
    kept, _ = maker.large.options(num_returns=2).remote()
    ray.wait([kept], fetch_local=False)
    cluster.remove_node(node)
    pool, again = team.pool(), list[bool]()
    pool.submit(Request("0", "total", (kept,), lambda _: None, lost=lambda: again.append(True)))
    team.finish()
    assert again == [True]
    pool.submit(Request("0", "total", (kept,), lambda _: None))
    with pytest.raises(ClusterError, match=r"^worker actor \d cannot get its input, which was lost"):
        team.finish()
    with pytest.raises(OutputLost, match=r"^the output of rollout actor 3 was lost"):
        fetch(kept, "rollout actor 3")


def test_our_errors_arrive_as_themselves(team: Team) -> None:
    pool = team.pool()
    pool.submit(Request("0", "fail", (True,), lambda _: None))
    pool.submit(Request("1", "square", (1, 5.0), lambda _: None, kept=1))
    with pytest.raises(TrainingError, match="^the loss is not finite$"):
        team.finish()


def test_other_errors_name_the_actor_and_keep_their_traceback(team: Team) -> None:
    pool = team.pool(role="rollout")
    pool.submit(Request("0", "fail", (False,), lambda _: None))
    with pytest.raises(ClusterError, match=r"(?s)^rollout actor \d failed:.*in fail.*KeyError: 'nothing of ours'"):
        team.finish()


def test_long_silence_is_broken(team: Team, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    pool = team.pool(1, "rollout")
    pool.wait_for(1)
    monkeypatch.setattr("omatg_ray.distributed.event_loop.PATIENCE", 0.2)
    monkeypatch.setattr("omatg_ray.distributed.event_loop.TICK", 0.1)
    pool.submit(Request("4", "square", (1, 0.7), lambda *_: None, kept=1))
    with caplog.at_level(logging.WARNING):
        team.finish()
    assert "running: rollout actor 0: square 4" in caplog.text
