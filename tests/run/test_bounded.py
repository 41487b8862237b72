from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch  # noqa: F401 - the parent has it, its workers must not

from omatg_ray.errors import ConfigError
from omatg_ray.run.bounded import BoundedPool, Outcome
from tests.evaluate.comparisons import die_once

# `eval` can be pickled by name and imports nothing, so that expressions say what a worker does.
SLEEP, DIE = "__import__('time').sleep(3600)", "__import__('os')._exit(7)"


def outcomes(pool: BoundedPool, *expressions: str) -> list[Outcome]:
    found = dict(pool.map([(expression,) for expression in expressions]))
    assert sorted(found) == list(range(len(expressions)))
    return [found[i] for i in range(len(expressions))]


GHOST = (
    "exec(\"import sys, types; sys.modules['ghost'] = module = types.ModuleType('ghost');"
    " exec('class Ghost: pass', module.__dict__)\") or __import__('ghost').Ghost()"
)


@pytest.mark.processes
@pytest.mark.parametrize(
    "expression, said", [(GHOST, "cannot be read here: ModuleNotFoundError"), ("lambda: 0", "cannot be sent: ")]
)
def test_a_result_that_does_not_travel_is_an_outcome(expression: str, said: str) -> None:
    with BoundedPool(eval, 1) as pool:
        first, second = outcomes(pool, expression, "7")
        assert first.error is not None and first.error.startswith(f"its result {said}")
        assert second.value == 7


@pytest.mark.processes
@pytest.mark.parametrize("workers", [0, 1, 3])
def test_every_call_has_its_own_outcome(workers: int) -> None:
    with BoundedPool(eval, workers) as pool:
        assert [o.value for o in outcomes(pool, *(f"{i} * {i}" for i in range(50)))] == [i * i for i in range(50)]
        assert outcomes(pool) == []


@pytest.mark.processes
@pytest.mark.parametrize("workers", [0, 2])
def test_call_over_the_time_bound_is_ended_and_the_others_go_on(workers: int) -> None:
    with BoundedPool(eval, workers, timeout=1.0) as pool:
        results = outcomes(pool, "1", SLEEP, "2", SLEEP, "3", "4")
        assert [o.value for o in results] == [1, None, 2, None, 3, 4]
        assert [o.timed_out for o in results] == [False, True, False, True, False, False]
        assert "1 s" in (results[1].error or "")
        assert outcomes(pool, "5")[0].value == 5


@pytest.mark.processes
def test_time_bound_holds_in_compiled_code() -> None:
    # One call into C, of which no Python signal handler gets a turn.
    with BoundedPool(eval, 1, timeout=1.0) as pool:
        first, second = outcomes(pool, "pow(7, 10**9) and 0", "'next'")
    assert first.timed_out and second.value == "next"


@pytest.mark.processes
@pytest.mark.parametrize("workers", [0, 2])
def test_exceptions_are_outcomes(workers: int) -> None:
    with BoundedPool(eval, workers) as pool:
        first, second = outcomes(pool, "1 / 0", "'fine'")
    assert first.error == "ZeroDivisionError: division by zero" and not first.timed_out
    assert second == Outcome("fine")


@pytest.mark.processes
def test_worker_that_dies_costs_only_its_call() -> None:
    with BoundedPool(eval, 2) as pool:
        results = outcomes(pool, "1", DIE, "2", "3")
    assert [o.value for o in results] == [1, None, 2, 3]
    assert "exit code 7" in (results[1].error or "") and not results[1].timed_out


@pytest.mark.processes
def test_call_of_a_worker_that_died_is_tried_once_more(tmp_path: Path) -> None:
    with BoundedPool(die_once, 1) as pool:
        assert list(pool.map([(str(tmp_path / "died"),)])) == [(0, Outcome("answer"))]


@pytest.mark.processes
def test_worker_killed_while_idle_is_replaced() -> None:
    with BoundedPool(eval, 1) as pool:
        os.kill(outcomes(pool, "__import__('os').getpid()")[0].value, signal.SIGKILL)
        assert outcomes(pool, "'alive'")[0].value == "alive"


@pytest.mark.processes
def test_workers_that_cannot_start_are_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "only_here.py").write_text("def function():\n    return 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    from only_here import function  # type: ignore[import-not-found]

    (tmp_path / "only_here.py").unlink()
    with BoundedPool(function, 1) as pool, pytest.raises(RuntimeError, match="before it was ready"):
        list(pool.map([()]))
    assert "only_here" in capfd.readouterr().err


@pytest.mark.processes
def test_calls_left_early_do_not_answer_later_ones() -> None:
    with BoundedPool(eval, 2) as pool:
        for _, outcome in pool.map([("1",), (SLEEP,), ("2",)]):
            assert outcome.value in (1, 2)
            break
        assert outcomes(pool, "3", "4") == [Outcome(3), Outcome(4)]


@pytest.mark.processes
def test_closing_ends_the_processes() -> None:
    with BoundedPool(eval, 2) as pool:
        pids = {o.value for o in outcomes(pool, *["__import__('os').getpid()"] * 8)}
    assert pids and os.getpid() not in pids
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


@pytest.mark.processes
def test_workers_do_not_import_torch() -> None:
    with BoundedPool(eval, 1) as pool:
        imported = "__import__('importlib').import_module('omatg_ray.reward.worker_functions')"
        loaded = f"{imported} and 'torch' in __import__('sys').modules"
        assert outcomes(pool, loaded) == [Outcome(False)]


@pytest.mark.processes
def test_works_in_a_script_without_main_guard() -> None:
    script = (
        "from omatg_ray.run.bounded import BoundedPool\n"
        "with BoundedPool(abs, 2) as pool:\n"
        "    print(sorted(outcome.value for _, outcome in pool.map([(-1,), (-2,)])))\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-"], check=False, input=script, env=environment, capture_output=True, text=True
    )
    assert (done.stdout, done.returncode) == ("[1, 2]\n", 0), done.stderr


@pytest.mark.processes
def test_worker_outlives_a_killed_parent_by_no_more_than_the_time_bound() -> None:
    script = (
        "from omatg_ray.run.bounded import BoundedPool\n"
        "call = \"print('busy', flush=True) or __import__('time').sleep(3600)\"\n"
        "list(BoundedPool(eval, 1, timeout=2.0).map([(call,)]))\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen([sys.executable, "-c", script], env=environment, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"busy\n"
        parent.kill()
        # The worker shares the pipe, which ends only when the worker has ended too.
        assert parent.stdout.read() == b""


def test_outer_alarm_survives_calls_in_this_process() -> None:
    rung: list[int] = []
    handler = signal.signal(signal.SIGALRM, lambda *_: rung.append(1))
    outer = signal.setitimer(signal.ITIMER_REAL, 0.4)
    try:
        with BoundedPool(eval, 0, timeout=30.0) as pool:
            outcomes(pool, "1", "2")
        threading.Event().wait(0.8)
    finally:
        signal.setitimer(signal.ITIMER_REAL, *outer)
        signal.signal(signal.SIGALRM, handler)
    assert rung == [1]


def test_missing_time_bound_off_the_main_thread_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    results: list[Outcome] = []
    with BoundedPool(eval, 0) as pool:
        thread = threading.Thread(target=lambda: results.extend(outcomes(pool, "1")))
        thread.start()
        thread.join()
    assert results == [Outcome(1)]
    assert "no time limit" in caplog.text


@pytest.mark.parametrize(("workers", "timeout"), [(-1, 1.0), (0, 0.0), (1, float("nan"))])
def test_impossible_settings_are_refused(workers: int, timeout: float) -> None:
    with pytest.raises(ConfigError, match="workers" if workers < 0 else "timeout"):
        BoundedPool(eval, workers, timeout)
