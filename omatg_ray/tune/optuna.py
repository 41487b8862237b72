"""Optuna's searcher of Ray Tune, with trials that are numbered. Needs Optuna."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import optuna
from ray.tune.search.optuna import OptunaSearch

from omatg_ray.tune.trainable import NAME


class NumberedSearch(OptunaSearch):
    """TPE over all of the space, told of every trial when it ends.

    Args:
        costs: Results of a trial, lower is better. Several are sought the front of.
        seed: Of the samples.
    """

    def __init__(self, costs: Sequence[str], seed: int) -> None:
        several = len(costs) > 1
        super().__init__(
            metric=list(costs) if several else costs[0], mode=["min"] * len(costs) if several else "min", seed=seed
        )
        self._numbered = 0

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any) -> bool:
        """Makes the study, after a resume too, without a word of Optuna."""
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        return bool(super().set_search_properties(metric, mode, config, **spec))

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        """Values for a trial, and its number: Tune calls what a searcher starts by random letters."""
        found = super().suggest(trial_id)
        if found is None:
            return None
        self._numbered += 1
        return found | {NAME: f"{self._numbered - 1:05d}"}
