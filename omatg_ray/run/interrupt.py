"""Stopping at the next boundary instead of in the middle of something."""

from __future__ import annotations

import os
import signal
import sys
import threading
from contextlib import suppress
from types import FrameType

from omatg_ray.errors import OmatgRayError


class Interrupted(OmatgRayError):
    """The user asked for a stop, and the run stopped at a boundary from which it can go on."""


class StopRequest:
    """While active, the first Ctrl-C (or SIGTERM) sets `requested`; a second one interrupts at once.

    Signals reach the main thread of a process only; elsewhere this does nothing.

    Args:
        boundary: What the run still completes, for the message: "this iteration".
    """

    def __init__(self, boundary: str) -> None:
        self.boundary, self.requested = boundary, False
        self._previous: dict[int, signal.Handlers] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._handle)  # type: ignore[assignment]
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        # Not through sys.stderr: its buffer may be in the middle of a write when the signal arrives.
        message = f"\nstopping after {self.boundary}; once more (Ctrl-C) stops at once\n"
        with suppress(OSError):  # Nobody may be there to read it.
            os.write(sys.__stderr__.fileno() if sys.__stderr__ is not None else 2, message.encode())
