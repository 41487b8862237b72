"""What a sweep found: its trials and which is best; `trials.json`."""

from __future__ import annotations

import json
import math
import operator
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from omatg_ray.errors import DataError
from omatg_ray.run.atomic import write_json
from omatg_ray.tune.guards import HACKED

FORMAT: Final = "omatg_ray.sweep.1"
TRIALS, TRIALS_FILE = "trials", "trials.json"
WORST = 1e6
"""Objective of a validation that does not count; no metric comes near, and schedulers can still reckon with it."""
FINISHED, STOPPED, FAILED, UNFINISHED = "finished", "stopped early", "failed", "unfinished"


@dataclass(frozen=True)
class Goal:
    """A metric of validations that decides.

    Attributes:
        metric: Its name.
        mode: Whether less or more of it is better.
    """

    metric: str
    mode: Literal["min", "max"]

    def cost(self, metrics: Mapping[str, Any]) -> float | None:
        """Its value among metrics, negated where more is better: less is better; None where it was not measured."""
        value = metrics.get(self.metric)
        return None if value is None else -float(value) if self.mode == "max" else float(value)


@dataclass(frozen=True)
class TrialScore:
    """Where a trial stands in the metrics that decide.

    Attributes:
        last: Metrics of its last validation. That before training is left out everywhere: it is the same for all.
        best: Metrics of the one that counts: the best by the first goal, of those where all goals were measured and
            no guard objected. None where there is none.
        best_iteration: That one is after so many iterations.
        hacked: Whether a guard objected to any.
        objective: Cost of the first goal at the last validation; `WORST` where that cannot count.
    """

    last: dict[str, float] = field(default_factory=dict)
    best: dict[str, float] | None = None
    best_iteration: int | None = None
    hacked: bool = False
    objective: float = WORST


def trial_score(
    lines: Sequence[Mapping[str, Any]], goals: Sequence[Goal], exclude_hacked: bool, since: int = 0
) -> TrialScore:
    """Where a run stands by its metrics.

    Args:
        lines: What `read_metrics` gives.
        goals: What decides; the first also which validation counts.
        exclude_hacked: Whether validations that a guard objects to are left out.
        since: Validations up to this iteration are left out: they were of the same start, or of another trial whose
            state was taken over.
    """
    found = [line for line in lines if line["kind"] == "validation" and line["step"] > since]
    if not found:
        return TrialScore()

    def cost(line: Mapping[str, Any]) -> float | None:
        if (exclude_hacked and line.get(HACKED, 0)) or any(goal.cost(line) is None for goal in goals):
            return None
        return goals[0].cost(line)

    costs = [cost(line) for line in found]
    best = min(((cost, place) for place, cost in enumerate(costs) if cost is not None), default=None)
    return TrialScore(
        _measured(found[-1]),
        None if best is None else _measured(found[best[1]]),
        None if best is None else found[best[1]]["step"],
        any(line.get(HACKED, 0) for line in found),
        WORST if costs[-1] is None else costs[-1],
    )


def _measured(line: Mapping[str, Any]) -> dict[str, float]:
    return {name: value for name, value in line.items() if value is not None and name not in ("kind", "step")}


@dataclass(frozen=True)
class Trial:
    """A trial as `trials.json` keeps it.

    Attributes:
        name: Of its folder in `trials/`.
        values: Of the keys that are varied.
        status: finished, stopped early, failed or unfinished.
        iteration: Iterations that are done.
        last: Metrics of its last validation.
        best: Metrics of the one that counts (`TrialScore`); None where none does.
        best_iteration: That one is after so many iterations.
        since: Up to this iteration it is the past of another trial, whose state it took over.
        hacked: Whether a guard objected to a validation.
        error: Why it failed.
    """

    name: str
    values: dict[str, Any]
    status: str
    iteration: int = 0
    last: dict[str, float] = field(default_factory=dict)
    best: dict[str, float] | None = None
    best_iteration: int | None = None
    since: int = 0
    hacked: bool = False
    error: str | None = None


@dataclass(frozen=True)
class Sweep:
    """All trials.

    Attributes:
        goals: What decides; of several the first before the next.
        trials: In their order.
    """

    goals: list[Goal]
    trials: list[Trial]

    def costs(self, trial: Trial) -> tuple[float, ...]:
        """What a trial's validation that counts costs by each goal; infinite without any."""
        costs = [goal.cost(trial.best or {}) for goal in self.goals]
        return tuple(math.inf if cost is None else cost for cost in costs)

    @property
    def front(self) -> list[Trial]:
        """The Pareto front, from the best by the first goal on: no trial is as good by all goals and better by one."""
        counting = [trial for trial in self.trials if trial.best is not None]
        costs = [self.costs(trial) for trial in counting]
        free = [
            trial
            for trial, own in zip(counting, costs, strict=True)
            if not any(other != own and all(map(operator.le, other, own)) for other in costs)
        ]
        return sorted(free, key=self.costs)

    @property
    def ranked(self) -> list[Trial]:
        """The front, then the others from the best by the first goal on, those without what counts at the end."""
        front = self.front
        return front + sorted((trial for trial in self.trials if trial not in front), key=self.costs)

    @property
    def best(self) -> Trial | None:
        """Of the front the best by the first goal; None where no trial has a value that counts."""
        return next(iter(self.front), None)

    @property
    def keys(self) -> list[str]:
        """The keys that are varied."""
        return list(dict.fromkeys(key for trial in self.trials for key in trial.values))

    def write(self, folder: Path) -> None:
        """Writes `trials.json`."""
        front = [trial.name for trial in self.front]
        write_json(
            folder / TRIALS_FILE,
            {
                "format": FORMAT,
                "goals": [asdict(goal) for goal in self.goals],
                "best": next(iter(front), None),
                **({"front": front} if len(self.goals) > 1 else {}),
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
            return cls([Goal(**goal) for goal in found["goals"]], [Trial(**row) for row in rows])
        except FileNotFoundError as error:
            raise DataError(f"there is no {TRIALS_FILE} in {folder}") from error
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{folder / TRIALS_FILE} is damaged: {error}") from error
