"""Calls with a hard time limit, in worker processes that start quickly and may be killed at any time.

A worker is a fresh interpreter that only imports the module of the called function. It is not forked from a process
that runs torch threads. Unlike a `multiprocessing` child, it does not import the parent's main module again, so it
works from a notebook, a script without a `__main__` guard and a Ray actor alike.
"""

from __future__ import annotations

import logging
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe, wait
from typing import Any, Self

from omatg_ray.errors import ConfigError
from omatg_ray.run.interrupt import deaf_children

logger = logging.getLogger(__name__)

SECONDS_TO_END = 10.0
"""How long a worker that has closed its connection may take to end."""
MAX_ATTEMPTS = 2
"""A call whose worker died (not one that timed out) is retried once: something else may have killed the worker."""


@dataclass(frozen=True)
class Outcome:
    """Result of one call: its value, or the reason why there is none."""

    value: Any = None
    error: str | None = None
    timed_out: bool = False


class BoundedPool:
    """A pool that runs one function on many argument tuples, with a time limit for each call.

    Args:
        function: A function that can be pickled by name; its module should import quickly.
        workers: Number of worker processes, started on first use; 0 runs the calls in this process.
        timeout: Time limit of one call in seconds. In a worker the kernel then ends the process, whatever it is doing.
            In this process (`workers=0`) an exception interrupts Python code, but not a single call into compiled code,
            and only on the main thread. On other threads nothing limits the call.

    Raises:
        ConfigError: `workers` is negative or `timeout` is not positive.
    """

    def __init__(self, function: Callable[..., Any], workers: int = 0, timeout: float = 10.0) -> None:
        if workers < 0:
            raise ConfigError(f"workers must be 0 or more, not {workers}")
        if not timeout > 0:
            raise ConfigError(f"timeout must be a positive number of seconds, not {timeout}")
        self.function, self.workers, self.timeout = function, workers, timeout
        self._idle: list[_Worker] = []

    def __reduce__(self) -> tuple[type[BoundedPool], tuple[Any, ...]]:
        # A copy in another process starts workers of its own.
        return BoundedPool, (self.function, self.workers, self.timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Kill the workers. The pool starts new ones if it is used again."""
        while self._idle:
            self._idle.pop().end(0.0)

    def map(self, calls: Sequence[tuple[Any, ...]]) -> Iterator[tuple[int, Outcome]]:
        """Yield (index of the call, its outcome) in the order in which calls finish; every index exactly once.

        Raises:
            RuntimeError: Workers cannot start (their own message is on standard error).
        """
        return self._map_in_workers(calls) if self.workers else self._map_here(calls)

    def _map_here(self, calls: Sequence[tuple[Any, ...]]) -> Iterator[tuple[int, Outcome]]:
        if calls and threading.current_thread() is not threading.main_thread():
            logger.warning("not on the main thread: calls have no time limit (use at least one worker)")
        for index, arguments in enumerate(calls):
            try:
                with _time_limit(self.timeout):
                    outcome = Outcome(self.function(*arguments))
            except _TimeLimitReached:
                outcome = Outcome(error=f"took longer than {self.timeout:g} s", timed_out=True)
            except Exception as error:  # noqa: BLE001 - one call's failure is its outcome
                outcome = Outcome(error=f"{type(error).__name__}: {error}")
            yield index, outcome

    def _map_in_workers(self, calls: Sequence[tuple[Any, ...]]) -> Iterator[tuple[int, Outcome]]:
        waiting = deque((index, 1) for index in range(len(calls)))
        busy: dict[Connection, tuple[_Worker, int, int]] = {}
        try:
            while waiting or busy:
                while waiting and len(busy) < self.workers:
                    index, attempt = waiting.popleft()
                    worker = self._idle.pop() if self._idle else _Worker(self.function, self.timeout)
                    worker.send(calls[index])
                    busy[worker.connection] = (worker, index, attempt)
                for connection in wait(list(busy)):
                    assert isinstance(connection, Connection)
                    worker, index, attempt = busy[connection]
                    try:
                        outcome = worker.receive()
                        if outcome is None:
                            continue
                        self._idle.append(worker)
                    except EOFError:
                        outcome = self._outcome_of_death(worker)
                        if not outcome.timed_out and attempt < MAX_ATTEMPTS:
                            waiting.appendleft((index, attempt + 1))
                            outcome = None
                    del busy[connection]
                    if outcome is not None:
                        yield index, outcome
        finally:
            # Left early: a worker that is still computing would answer the next map's calls.
            for worker, _, _ in busy.values():
                worker.end(0.0)

    def _outcome_of_death(self, worker: _Worker) -> Outcome:
        exit_code = worker.end(SECONDS_TO_END)
        if not worker.ready:
            raise RuntimeError(
                f"a worker process for {self.function!r} ended with exit code {exit_code} before it was ready;"
                " its message is on standard error"
            )
        if exit_code == -signal.SIGALRM:
            return Outcome(error=f"took longer than {self.timeout:g} s", timed_out=True)
        return Outcome(error=f"its worker process died with exit code {exit_code}")


class _Worker:
    """One worker process and the connection to it."""

    def __init__(self, function: Callable[..., Any], timeout: float) -> None:
        self.connection, theirs = Pipe()
        # Ctrl-C reaches the whole process group; the parent decides what it means for its workers.
        start = (
            "import signal, sys; signal.signal(signal.SIGINT, signal.SIG_IGN);"
            f" sys.path[:] = {sys.path!r};"
            f" from {__name__} import serve; serve({theirs.fileno()})"
        )
        one_thread = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        with theirs, deaf_children():
            self._process = subprocess.Popen(
                [sys.executable, "-c", start],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env={**os.environ, **one_thread},
            )
        self.ready = False
        self.send((function, timeout))

    def send(self, message: object) -> None:
        with suppress(OSError):  # The process is gone, and `receive` will say so.
            self.connection.send(message)

    def receive(self) -> Outcome | None:
        """Receive the next message: None once, when the process is ready, then one outcome per call.

        Raises:
            EOFError: The process has ended.
        """
        try:
            received = self.connection.recv_bytes()
        except OSError as error:
            raise EOFError from error
        try:
            message: Outcome | None = pickle.loads(received)
        except Exception as error:  # noqa: BLE001 - unpickling may run any code of a class
            return Outcome(error=f"its result cannot be read here: {type(error).__name__}: {error}")
        if message is None:
            self.ready = True
        return message

    def end(self, seconds: float) -> int:
        """Kill the process unless it ends by itself in some seconds; return its exit code, negative for a signal."""
        try:
            self._process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self.connection.close()
        return self._process.wait()


def serve(descriptor: int) -> None:
    """Run a worker's main loop: receive calls and send outcomes until the other side closes the connection.

    Each call runs under an alarm with its default action, which ends the process. The limit therefore also holds in
    compiled code, and after the parent was killed.
    """
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGALRM})
    connection = Connection(descriptor)
    try:
        function, timeout = connection.recv()
        connection.send(None)
        while True:
            arguments = connection.recv()
            signal.setitimer(signal.ITIMER_REAL, timeout)
            try:
                outcome = Outcome(function(*arguments))
            except Exception as error:  # noqa: BLE001 - one call's failure is its outcome
                outcome = Outcome(error=f"{type(error).__name__}: {error}")
            signal.setitimer(signal.ITIMER_REAL, 0)
            try:
                connection.send(outcome)
            except ConnectionError:
                raise
            except Exception as error:  # noqa: BLE001 - pickling may raise anything, before anything is sent
                connection.send(Outcome(error=f"its result cannot be sent: {type(error).__name__}: {error}"))
    except (EOFError, ConnectionError):
        return


class _TimeLimitReached(BaseException):
    """Interrupts a call. Not an `Exception`, so that the interrupted code cannot catch it by accident."""


@contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Raise `_TimeLimitReached` in the block after some seconds; keep an outer alarm (a test's time-out) alive."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(*_: object) -> None:
        raise _TimeLimitReached

    started = time.monotonic()
    handler = signal.signal(signal.SIGALRM, interrupt)
    remaining, interval = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        if remaining:
            signal.setitimer(signal.ITIMER_REAL, max(remaining - (time.monotonic() - started), 1e-3), interval)
