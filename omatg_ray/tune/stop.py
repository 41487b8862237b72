"""Stopping a sweep: Ray Tune saves what it knows, and ends."""

from __future__ import annotations

import importlib
import threading
from types import FrameType
from typing import ClassVar

from omatg_ray.errors import OmatgRayError
from omatg_ray.run.interrupt import StopRequest

LISTENS = "_setup_signal_catching"
"""What in Tune gives the event at which it stops."""


class SweepStop(StopRequest):
    """Lets Tune, while it runs, save the sweep and stop.

    Attributes:
        active: That of the sweep that runs. Tune pickles its callbacks, which thus cannot hold it.
        error: Why it has to, if not by a signal.
    """

    active: ClassVar[SweepStop]
    error: OmatgRayError | None = None

    def because(self, error: OmatgRayError) -> None:
        """Stops Tune at its next step. An exception there would leave its state as it was up to a second ago."""
        self.error = self.error or error
        self._told.set()

    def __enter__(self) -> SweepStop:
        # Tune itself would listen to SIGUSR1, and tell nobody that it was why it ended.
        self._tune, self._told = vars(importlib.import_module("ray.tune.tune")), threading.Event()
        self._listens = self._tune[LISTENS]
        self._tune[LISTENS] = lambda: self._told
        SweepStop.active = self
        super().__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._tune[LISTENS] = self._listens
        super().__exit__(*error)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        super()._handle(number, frame)
        self._told.set()
