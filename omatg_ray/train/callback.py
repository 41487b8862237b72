"""Observers of a reinforcement run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

APART: Final = "second_apart"
"""Among the metrics that a callback gets of a validation: 1 if rewarded and second potential have diverged, else 0."""


class StopRun(Exception):
    """Raised by a callback to end the run cleanly: validated, saved, tested and reported like a run of that length.

    A resumed run (`resume=True`) goes on from there.
    """


class Callback:
    """Observer of a run. Override what you need; either method may raise `StopRun`.

    Called in the process that started the run, also if actors do the work. Any other exception ends the run with its
    last checkpoint.

    Example:
        >>> class Patience(Callback):
        ...     def validated(self, iteration, metrics):
        ...         if metrics["invalid_share"] > 0.2:
        ...             raise StopRun("too many invalid crystals")
    """

    def iterated(self, iteration: int, metrics: Mapping[str, float]) -> None:
        """Receive the metrics of an iteration, counted from 1: those of `metrics.jsonl`, kind `train`."""

    def validated(self, iteration: int, metrics: Mapping[str, float]) -> Mapping[str, float] | None:
        """Receive the metrics of a validation: those of `metrics.jsonl`, kind `validation`, and `second_apart`.

        The first validation, of iteration 0, is before training.

        Returns:
            Metrics to log with the validation, if any.
        """
        return None
