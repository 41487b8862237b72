"""Runs of a study: each is made once, an interrupted one goes on, and its processor time is counted."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import omatg_ray as og
from omatg_ray.run.metrics import read_metrics

SECONDS = "processor_seconds"


class ProcessorTime(og.Callback):
    """Counts the processor time of a run, validations left out, logs it with each, and may end the run by it.

    Args:
        limit: Seconds after which the run ends.
        used: Seconds that the run has taken before.
    """

    def __init__(self, limit: float = math.inf, used: float = 0.0) -> None:
        self.limit, self.used, self.since = limit, used, time.process_time()

    def iterated(self, iteration: int, metrics: Mapping[str, float]) -> None:
        """Add what the iteration took."""
        now = time.process_time()
        self.used, self.since = self.used + now - self.since, now
        if self.used >= self.limit:
            raise og.StopRun(f"{self.used:.0f} seconds of processor time are used")

    def validated(self, iteration: int, metrics: Mapping[str, float]) -> dict[str, float]:
        """Leave out what the validation took."""
        self.since = time.process_time()
        return {SECONDS: self.used}


def finish(config: og.Config, limit: float = math.inf, progress: bool = True) -> list[dict[str, Any]]:
    """Return the validations of a run, which is made, or finished, if it is not.

    Args:
        config: The run. Its checkpoints are put where it validates, which logs what was used until then.
        limit: Processor time after which it ends, in seconds.
        progress: Whether to show progress.
    """
    run = Path(config.run)
    if not (run / "finished").exists():
        config = config.model_copy(
            update={"checkpoint": config.checkpoint.model_copy(update={"every": config.validation.every})}
        )
        resume = (run / "config.yaml").exists()
        used = [row[SECONDS] for row in validations(run)] if resume else []
        og.train(config, resume=resume, progress=progress, callback=ProcessorTime(limit, used[-1] if used else 0.0))
        (run / "finished").touch()
    return validations(run)


def validations(run: Path) -> list[dict[str, Any]]:
    """Return what a run has logged with each validation."""
    path = run / "metrics.jsonl"
    return [row for row in read_metrics(path) if row["kind"] == "validation"] if path.exists() else []
