"""Stopping a run at its next boundary rather than in the middle of something."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from omatg_ray.errors import OmatgRayError

AT_ONCE = (signal.SIGINT, signal.SIGTERM)
"""Signals that ask for a stop; a second one stops at once."""
AHEAD = (signal.SIGHUP, signal.SIGUSR1)
"""Signals that announce an end: of the terminal, which sends several, or of the time a scheduler grants.

They ask for a stop, however many arrive.
"""


class Interrupted(OmatgRayError):
    """The user asked for a stop, and the run stopped at a boundary from which it can be resumed."""


class StopRequest:
    """Context in which Ctrl-C, SIGTERM, SIGHUP and SIGUSR1 set `requested`; a second Ctrl-C or SIGTERM stops at once.

    SIGHUP stays ignored under `nohup`. Signals only reach the main thread of a process; on other threads this does
    nothing.

    Args:
        boundary: The unit that the run still completes, for the message: "this iteration".
    """

    def __init__(self, boundary: str) -> None:
        self.boundary, self.requested = boundary, False
        self._at_once = False
        self._previous: dict[int, signal.Handlers] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for number in (*AT_ONCE, *AHEAD):
                if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
                    self._previous[number] = signal.signal(number, self._handle)  # type: ignore[assignment]
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if number in AHEAD and self.requested:
            return
        if self._at_once:
            raise KeyboardInterrupt
        self.requested, self._at_once = True, number in AT_ONCE
        message = f"\nstopping after {self.boundary}"
        message += "; press Ctrl-C again to stop at once\n" if self._at_once else f" ({signal.Signals(number).name})\n"
        # Not through sys.stderr: its buffer may be in the middle of a write when the signal arrives. After SIGHUP the
        # terminal is gone.
        with suppress(OSError):
            os.write(sys.__stderr__.fileno() if sys.__stderr__ is not None else 2, message.encode())


@contextmanager
def deaf_children() -> Iterator[None]:
    """Shield processes that this thread starts within the block from signals that announce an end.

    A terminal or scheduler sends these to every process of a run, but the run alone decides what they mean for its
    children.
    """
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, AHEAD)  # signals blocked here arrive afterwards
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)
