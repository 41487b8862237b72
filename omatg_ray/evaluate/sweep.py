"""What a sweep found: its trials and which is best; `trials.json`."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from omatg_ray.errors import DataError
from omatg_ray.rl.guards import HACKED
from omatg_ray.run.atomic import write_json

FORMAT: Final = "omatg_ray.sweep.1"
TRIALS, TRIALS_FILE = "trials", "trials.json"
WORST = 1e6
"""Objective of a validation that does not count; no metric comes near, and schedulers can still reckon with it."""
FINISHED, STOPPED, FAILED, UNFINISHED = "finished", "stopped early", "failed", "unfinished"


@dataclass(frozen=True)
class Standing:
    """Where a trial stands in the metric that decides.

    Attributes:
        last: At its last validation.
        best: At the best of those that count; the one before training does not, since it is the same for all.
        best_iteration: The best is after so many.
        hacked: Whether a guard objected to any.
        objective: The last, where lower is better and what does not count is `WORST`.
    """

    last: float | None = None
    best: float | None = None
    best_iteration: int | None = None
    hacked: bool = False
    objective: float = WORST


def standing_of(
    lines: Sequence[Mapping[str, Any]], metric: str, direction: str, exclude_hacked: bool, since: int = 0
) -> Standing:
    """Where a run stands by its metrics.

    Args:
        lines: What `read_metrics` gives.
        metric: Of validations.
        direction: min or max.
        exclude_hacked: Whether validations that a guard objects to are left out.
        since: Validations up to this iteration are left out: they were of the same start, or of another trial whose
            state was taken over.
    """
    found = [line for line in lines if line["kind"] == "validation" and line["step"] > since]
    if not found:
        return Standing()
    sign = -1.0 if direction == "max" else 1.0
    counted = [line for line in found if line.get(metric) is not None and not (exclude_hacked and line.get(HACKED, 0))]
    best = min(counted, key=lambda line: sign * line[metric], default=None)
    last = found[-1]
    return Standing(
        last.get(metric),
        None if best is None else best[metric],
        None if best is None else best["step"],
        any(line.get(HACKED, 0) for line in found),
        sign * last[metric] if counted and counted[-1] is last else WORST,
    )


@dataclass(frozen=True)
class Trial:
    """A trial as `trials.json` keeps it.

    Attributes:
        name: Of its folder in `trials/`.
        values: Of the keys that are varied.
        status: finished, stopped early, failed or unfinished.
        iteration: Iterations that are done.
        last: The metric at its last validation.
        best: At its best one.
        best_iteration: After so many iterations.
        since: Up to this iteration it is the past of another trial, whose state it took over.
        hacked: Whether a guard objected to a validation.
        error: Why it failed.
        metrics: Those of its last validation.
    """

    name: str
    values: dict[str, Any]
    status: str
    iteration: int = 0
    last: float | None = None
    best: float | None = None
    best_iteration: int | None = None
    since: int = 0
    hacked: bool = False
    error: str | None = None
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Sweep:
    """All trials.

    Attributes:
        metric: What decides.
        direction: min or max.
        trials: In their order.
    """

    metric: str
    direction: str
    trials: list[Trial]

    @property
    def ranked(self) -> list[Trial]:
        """Trials from the best to the worst; those without a value that counts at the end."""
        sign = -1.0 if self.direction == "max" else 1.0
        return sorted(self.trials, key=lambda one: math.inf if one.best is None else sign * one.best)

    @property
    def best(self) -> Trial | None:
        """The best; None where none has a value that counts."""
        ranked = self.ranked
        return ranked[0] if ranked and ranked[0].best is not None else None

    @property
    def keys(self) -> list[str]:
        """The keys that are varied."""
        return list(dict.fromkeys(key for trial in self.trials for key in trial.values))

    def write(self, folder: Path) -> None:
        """Writes `trials.json`."""
        best = self.best
        write_json(
            folder / TRIALS_FILE,
            {
                "format": FORMAT,
                "metric": self.metric,
                "mode": self.direction,
                "best": None if best is None else best.name,
                "trials": [asdict(trial) | {"folder": f"{TRIALS}/{trial.name}"} for trial in self.trials],
            },
        )

    @classmethod
    def read(cls, folder: Path) -> Sweep:
        """Inverse of `write`.

        Raises:
            DataError: There is no such file, or it is damaged.
        """
        try:
            found = json.loads((folder / TRIALS_FILE).read_text())
            rows = [{name: value for name, value in row.items() if name != "folder"} for row in found["trials"]]
            return cls(found["metric"], found["mode"], [Trial(**row) for row in rows])
        except FileNotFoundError as error:
            raise DataError(f"there is no {TRIALS_FILE} in {folder}") from error
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{folder / TRIALS_FILE} is damaged: {error}") from error
