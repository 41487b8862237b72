"""Rewards that users write: imported and run in a process of their own, so that nothing they do can take a run with it.

This module is what the process imports first.
"""

from __future__ import annotations

import importlib
import json
import logging
import math
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.errors import RewardError
from omatg_ray.reward.protocol import Reward, RewardResult
from omatg_ray.run.bounded import BoundedPool, Outcome

logger = logging.getLogger(__name__)

MAX_TIMEOUTS = 8
"""Time-outs within one batch after which all that is left of it has failed: halving 128 finds one that hangs."""

Numbers = dict[str, np.ndarray]
"""Rewards under the empty name, then values."""


class CustomReward:
    """A user's reward.

    A batch on which it raises, dies or exceeds its time is halved until what is at fault stands alone; its reward has
    failed (NaN), and the others are not lost.

    Args:
        name: What metrics and messages call it.
        target: `module:Class`.
        options: Keyword arguments of the class: plain values.
        path: Folder of the module; None leaves the import path as it is, with the working directory.
        timeout: Seconds that one call may take; the first one also imports the module and makes the object.

    Example:
        >>> reward = CustomReward("flat", "my_rewards:Flat", {"axis": 2}, "rewards")     # doctest: +SKIP
    """

    elements: frozenset[int] | None = None

    def __init__(
        self,
        name: str,
        target: str,
        options: dict[str, Any] | None = None,
        path: str | Path | None = None,
        timeout: float = 60.0,
    ) -> None:
        self.name = name
        # An empty entry of the import path is the working directory.
        self._spec = (target, json.dumps(options or {}), "" if path is None else str(Path(path).absolute()))
        self._pool = BoundedPool(judge_here, workers=1, timeout=timeout)

    def __call__(self, crystals: CrystalBatch) -> RewardResult:
        """Rewards of B structures, and the values that it names.

        Raises:
            RewardError: It returned something else than a number per structure.
        """
        crystals = crystals.to("cpu")
        found: Numbers = {"": np.full(len(crystals), math.nan)}
        waiting, timeouts = [list(range(len(crystals)))] if len(crystals) else [], 0
        while waiting and timeouts < MAX_TIMEOUTS:
            rows = waiting.pop()
            part = crystals.select(rows)
            outcome = self._ask(part)
            if outcome.error is None:
                for key, numbers in self._checked(outcome.value, len(rows)).items():
                    found.setdefault(key, np.full(len(crystals), math.nan))[rows] = numbers
                continue
            timeouts += outcome.timed_out
            if len(rows) == 1:
                logger.warning(
                    "reward %s: structure %d (%s): %s", self.name, rows[0], part.formulas()[0], outcome.error
                )
            else:
                half = len(rows) // 2
                waiting += [rows[half:], rows[:half]]
        if waiting:
            left = sum(map(len, waiting))
            logger.warning("reward %s: %d structures failed after %d time-outs", self.name, left, timeouts)
        values = {key: torch.from_numpy(numbers) for key, numbers in found.items()}
        return RewardResult(values.pop(""), values)

    def try_out(self, crystals: CrystalBatch) -> None:
        """Judges crystals for a test, before a run depends on it.

        Raises:
            RewardError: It cannot be imported or made, raises, takes too long or returns something else than a number
                per structure.
        """
        outcome = self._ask(crystals.to("cpu"))
        if outcome.error is not None:
            target, _, path = self._spec
            raise RewardError(
                f"reward {self.name}: {target} (path {path or 'as it is'}) fails on crystals of the training split: "
                f"{outcome.error}"
            )
        self._checked(outcome.value, len(crystals))

    def close(self) -> None:
        """Ends the process. It starts again when it is needed."""
        self._pool.close()

    def _ask(self, crystals: CrystalBatch) -> Outcome:
        # As numpy arrays: torch would hand its tensors over in shared memory.
        tensors = (crystals.species, crystals.pos, crystals.cell, crystals.n_atoms)
        _, outcome = next(iter(self._pool.map([(self._spec, *(tensor.numpy() for tensor in tensors))])))
        return outcome

    def _checked(self, numbers: Numbers, count: int) -> Numbers:
        for key, array in numbers.items():
            what = f"value {key!r}" if key else "reward"
            if "/" in key or array.dtype.kind not in "fiub":
                raise RewardError(f"reward {self.name}: its {what} is no array of numbers with a name free of slashes")
            if array.shape != (count,):
                raise RewardError(f"reward {self.name}: its {what} has shape {array.shape}, not ({count},)")
        return {key: array.astype(np.float64) for key, array in numbers.items()}


def judge_here(
    spec: tuple[str, str, str], species: np.ndarray, pos: np.ndarray, cell: np.ndarray, n_atoms: np.ndarray
) -> Numbers:
    """What the process runs."""
    # `numpy()` of the other side may be read-only.
    crystals = CrystalBatch(*(torch.from_numpy(np.array(array)) for array in (species, pos, cell, n_atoms)))
    returned = made(*spec)(crystals)
    result = returned if isinstance(returned, RewardResult) else RewardResult(returned, {})
    return {name: np.asarray(value) for name, value in {"": result.reward, **result.values}.items()}


@lru_cache(maxsize=1)
def made(target: str, options: str, path: str) -> Reward:
    """The user's object, made once per process."""
    sys.path.insert(0, path)
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)(**json.loads(options))
