"""Stopping a sweep: Ray Tune saves its state and ends."""

from __future__ import annotations

import importlib
import threading
from types import FrameType
from typing import ClassVar

from omatg_ray.errors import OmatgRayError
from omatg_ray.run.interrupt import StopRequest

LISTENS = "_setup_signal_catching"
"""Function in Tune that returns the event at which it stops."""


class SweepStop(StopRequest):
    """Stop request that a running Tune obeys by saving the sweep and ending.

    Attributes:
        active: The stop request of the running sweep. Tune pickles its callbacks, so they cannot hold it themselves.
        error: Why the sweep has to stop, if not because of a signal.
    """

    active: ClassVar[SweepStop]
    error: OmatgRayError | None = None

    def because(self, error: OmatgRayError) -> None:
        """Stop Tune at its next step.

        An exception raised there instead would leave Tune's state up to a second out of date.
        """
        self.error = self.error or error
        self._stopping.set()

    def __enter__(self) -> SweepStop:
        # Tune itself would listen to SIGUSR1, and not report it as the cause.
        self._tune, self._stopping = vars(importlib.import_module("ray.tune.tune")), threading.Event()
        self._listens = self._tune[LISTENS]
        self._tune[LISTENS] = lambda: self._stopping
        SweepStop.active = self
        super().__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._tune[LISTENS] = self._listens
        super().__exit__(*error)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        super()._handle(number, frame)
        self._stopping.set()
