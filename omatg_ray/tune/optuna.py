"""Ray Tune's Optuna searcher, with numbered trials. Needs Optuna."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import optuna
from ray.tune.search.optuna import OptunaSearch

from omatg_ray.tune.trainable import NAME


class NumberedSearch(OptunaSearch):
    """TPE over the whole space; learns of every trial when it ends.

    Args:
        costs: Results of a trial to minimise. Several are searched for their Pareto front.
        seed: Seed of the samples.
    """

    def __init__(self, costs: Sequence[str], seed: int) -> None:
        several = len(costs) > 1
        super().__init__(
            metric=list(costs) if several else costs[0], mode=["min"] * len(costs) if several else "min", seed=seed
        )
        self._numbered = 0

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any) -> bool:
        """Create the study, also after a resume, without any output from Optuna."""
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        return bool(super().set_search_properties(metric, mode, config, **spec))

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        """Return values for a trial, and its number: Tune gives trials of a searcher random letters for a name."""
        values = super().suggest(trial_id)
        if values is None:
            return None
        self._numbered += 1
        return values | {NAME: f"{self._numbered - 1:05d}"}
