"""Results of a sweep: its trials and the best of them; `trials.json`."""

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
"""Objective of a validation that does not count: far above any metric, yet finite for the arithmetic of schedulers."""
FINISHED, STOPPED, FAILED, UNFINISHED = "finished", "stopped early", "failed", "unfinished"


@dataclass(frozen=True)
class Goal:
    """A validation metric that decides.

    Attributes:
        metric: Its name.
        mode: Whether less or more of it is better.
    """

    metric: str
    mode: Literal["min", "max"]

    def cost(self, metrics: Mapping[str, Any]) -> float | None:
        """Return the metric's value, negated if more is better, so that less is better; None if it was not measured."""
        value = metrics.get(self.metric)
        return None if value is None else -float(value) if self.mode == "max" else float(value)


@dataclass(frozen=True)
class TrialScore:
    """Result of a trial in the metrics that decide.

    The validation before training is left out everywhere: it is the same for all trials.

    Attributes:
        last: Metrics of the last validation.
        best: Metrics of the validation that counts: the best by the first goal among those where all goals were
            measured and no guard objected. None if there is none.
        best_iteration: Number of iterations before that validation.
        hacked: Whether a guard objected to any validation.
        objective: Cost of the first goal at the last validation; `WORST` if that cannot count.
    """

    last: dict[str, float] = field(default_factory=dict)
    best: dict[str, float] | None = None
    best_iteration: int | None = None
    hacked: bool = False
    objective: float = WORST


def trial_score(
    lines: Sequence[Mapping[str, Any]], goals: Sequence[Goal], exclude_hacked: bool, since: int = 0
) -> TrialScore:
    """Score a run by its metrics.

    Args:
        lines: Lines from `read_metrics`.
        goals: The metrics that decide. The first one also decides which validation counts.
        exclude_hacked: Whether validations that a guard objects to are left out.
        since: Validations up to this iteration are left out: they belong to the common start, or to another trial whose
            state was taken over.
    """
    validations = [line for line in lines if line["kind"] == "validation" and line["step"] > since]
    if not validations:
        return TrialScore()

    def cost(line: Mapping[str, Any]) -> float | None:
        if (exclude_hacked and line.get(HACKED, 0)) or any(goal.cost(line) is None for goal in goals):
            return None
        return goals[0].cost(line)

    costs = [cost(line) for line in validations]
    best = min(((cost, index) for index, cost in enumerate(costs) if cost is not None), default=None)
    return TrialScore(
        _drop_missing(validations[-1]),
        None if best is None else _drop_missing(validations[best[1]]),
        None if best is None else validations[best[1]]["step"],
        any(line.get(HACKED, 0) for line in validations),
        WORST if costs[-1] is None else costs[-1],
    )


def _drop_missing(line: Mapping[str, Any]) -> dict[str, float]:
    return {name: value for name, value in line.items() if value is not None and name not in ("kind", "step")}


@dataclass(frozen=True)
class Trial:
    """A trial in `trials.json`.

    Attributes:
        name: Name of its folder in `trials/`.
        values: Values of the keys that vary.
        status: finished, stopped early, failed or unfinished.
        iteration: Number of finished iterations.
        last: Metrics of its last validation.
        best: Metrics of the validation that counts (`TrialScore`); None if there is none.
        best_iteration: Number of iterations before that validation.
        since: Up to this iteration, the history is that of another trial whose state was taken over.
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
    """All trials of a sweep.

    Attributes:
        goals: The metrics that decide, the most important first.
        trials: In their order.
    """

    goals: list[Goal]
    trials: list[Trial]

    def costs(self, trial: Trial) -> tuple[float, ...]:
        """Return the cost by each goal of the validation that counts; infinite if there is none."""
        costs = [goal.cost(trial.best or {}) for goal in self.goals]
        return tuple(math.inf if cost is None else cost for cost in costs)

    @property
    def front(self) -> list[Trial]:
        """The Pareto front, best by the first goal first: no other trial is as good by all goals and better by one."""
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
        """The front, then the others, best by the first goal first; trials without a counting validation come last."""
        front = self.front
        return front + sorted((trial for trial in self.trials if trial not in front), key=self.costs)

    @property
    def best(self) -> Trial | None:
        """The trial on the front that is best by the first goal; None if no trial has a validation that counts."""
        return next(iter(self.front), None)

    @property
    def keys(self) -> list[str]:
        """The keys that vary."""
        return list(dict.fromkeys(key for trial in self.trials for key in trial.values))

    def write(self, folder: Path) -> None:
        """Write `trials.json`."""
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
        """Read `trials.json`; the inverse of `write`.

        Raises:
            DataError: There is no such file, or it is damaged.
        """
        try:
            content = json.loads((folder / TRIALS_FILE).read_text())
            rows = [{name: value for name, value in row.items() if name != "folder"} for row in content["trials"]]
            return cls([Goal(**goal) for goal in content["goals"]], [Trial(**row) for row in rows])
        except FileNotFoundError as error:
            raise DataError(f"there is no {TRIALS_FILE} in {folder}") from error
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{folder / TRIALS_FILE} is damaged: {error}") from error
