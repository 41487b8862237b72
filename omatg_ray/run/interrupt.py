"""Stopping at the next boundary instead of in the middle of something."""

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
"""Ask for a stop; the second of them is for those who cannot wait."""
AHEAD = (signal.SIGHUP, signal.SIGUSR1)
"""Announce an end: of the terminal, which sends several, or of what a scheduler grants. They ask, however many come."""


class Interrupted(OmatgRayError):
    """The user asked for a stop, and the run stopped at a boundary from which it can go on."""


class StopRequest:
    """While active, Ctrl-C, SIGTERM, SIGHUP and SIGUSR1 set `requested`; a second Ctrl-C or SIGTERM interrupts at once.

    What `nohup` has made deaf to SIGHUP stays so. Signals reach the main thread of a process only; elsewhere this does
    nothing.

    Args:
        boundary: What the run still completes, for the message: "this iteration".
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
        message += "; once more (Ctrl-C) stops at once\n" if self._at_once else f" ({signal.Signals(number).name})\n"
        # Not through sys.stderr: its buffer may be in the middle of a write when the signal arrives. With SIGHUP the
        # terminal has gone.
        with suppress(OSError):
            os.write(sys.__stderr__.fileno() if sys.__stderr__ is not None else 2, message.encode())


@contextmanager
def deaf_children() -> Iterator[None]:
    """Processes that this thread starts meanwhile are deaf to what announces an end.

    A terminal or a scheduler sends it to every process of a run; the run alone decides what it means for them.
    """
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, AHEAD)  # what is blocked here arrives afterwards
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)
