"""Rewards that users write, imported and run in a process of their own so that they cannot take down a run.

The process imports this module first.
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
from omatg_ray.crystal.validity import check_validity
from omatg_ray.errors import RewardError
from omatg_ray.reward.protocol import Reward, RewardResult, checked
from omatg_ray.run.bounded import BoundedPool, Outcome

logger = logging.getLogger(__name__)

MAX_TIMEOUTS = 8
"""Time-outs within one batch after which the rest of it has failed: halving 128 structures to one that hangs."""

Answer = tuple[np.ndarray, dict[str, np.ndarray]]
"""Rewards and values by name, float64."""


class CustomReward:
    """A user's reward.

    A batch on which it raises, dies or times out is halved until the structure at fault stands alone. The reward of
    that structure has failed (NaN); the others are kept. After `MAX_TIMEOUTS` time-outs in a row it is called once per
    batch until it answers again, so a reward that always hangs costs one time-out per batch instead of eight.

    Invalid structures (`check_validity`) are not passed to it. They get `invalid`, and lower rewards of valid
    structures are raised to it.

    Args:
        name: Name in metrics and messages.
        target: `module:Class`.
        invalid: Reward of an invalid structure, and the lowest reward of a valid one.
        options: Keyword arguments of the class; plain values.
        path: Folder of the module; None leaves the import path, with the working directory, as it is.
        timeout: Seconds that one call may take; the first one also imports the module and builds the object.

    Example:
        >>> reward = CustomReward("flat", "my_rewards:Flat", -30.0, {"axis": 2}, "rewards")     # doctest: +SKIP
    """

    elements: frozenset[int] | None = None

    def __init__(
        self,
        name: str,
        target: str,
        invalid: float,
        options: dict[str, Any] | None = None,
        path: str | Path | None = None,
        timeout: float = 60.0,
    ) -> None:
        self.name, self.invalid = name, invalid
        # An empty entry of the import path is the working directory.
        self._spec = (target, json.dumps(options or {}), "" if path is None else str(Path(path).absolute()))
        self._pool = BoundedPool(score_here, workers=1, timeout=timeout)
        self._late = 0

    def __call__(self, crystals: CrystalBatch) -> RewardResult:
        """Return the rewards of B structures, and the values that it names; NaN where invalid or failed.

        Raises:
            RewardError: It returned something other than one number per structure.
        """
        crystals = crystals.to("cpu")
        valid = check_validity(crystals).valid
        reward, values = np.full(len(crystals), math.nan), dict[str, np.ndarray]()
        reward[~valid.numpy()] = self.invalid
        waiting, timeouts = [valid.nonzero()[:, 0].tolist()] if valid.any() else [], 0
        patience = MAX_TIMEOUTS if self._late < MAX_TIMEOUTS else 1
        while waiting and timeouts < patience:
            rows = waiting.pop()
            part = crystals.select(rows)
            outcome = self._ask(part)
            self._late = self._late + 1 if outcome.timed_out else 0
            if outcome.error is None:
                rewards, named = outcome.value
                # Minus infinity is raised like any low reward; plus infinity counts as failed.
                rewards = np.where(np.isposinf(rewards), math.nan, rewards)
                if missing := int(np.isnan(rewards).sum()):
                    logger.warning("reward %s: NaN or infinity for %d of %d structures", self.name, missing, len(rows))
                reward[rows] = np.maximum(rewards, self.invalid)
                for name, numbers in named.items():
                    values.setdefault(name, np.full(len(crystals), math.nan))[rows] = numbers
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
        return RewardResult(
            torch.from_numpy(reward), {name: torch.from_numpy(numbers) for name, numbers in values.items()}
        )

    def try_out(self, crystals: CrystalBatch) -> None:
        """Score crystals as a test, before a run depends on the reward; warn if it has no number for any of them.

        Raises:
            RewardError: It cannot be imported or built, raises, takes too long, or returns something other than one
                number per structure.
        """
        outcome = self._ask(crystals.to("cpu"))
        if outcome.error is not None:
            target, _, path = self._spec
            raise RewardError(
                f"reward {self.name}: {target} (path {path or 'as it is'}) fails on crystals of the training split: "
                f"{outcome.error}. Try it on its own: check_reward (docs/rewards.md) shows where it raises"
            )
        rewards, _ = outcome.value
        if len(crystals) and not np.isfinite(rewards).any():
            logger.warning(
                "reward %s: NaN or infinity for all %d crystals of the training split that it was tried on. These "
                "count as failed, and a run stops if more than 5 %% fail",
                self.name,
                len(crystals),
            )

    def close(self) -> None:
        """End the process. It starts again when needed."""
        self._pool.close()

    def _ask(self, crystals: CrystalBatch) -> Outcome:
        """Return the `Answer` of the process, or what went wrong there.

        Raises:
            RewardError: It returned something other than one number per structure.
        """
        # Sent as numpy arrays, because torch would pass its tensors in shared memory.
        tensors = (crystals.species, crystals.pos, crystals.cell, crystals.n_atoms)
        _, outcome = next(iter(self._pool.map([(self.name, self._spec, *(tensor.numpy() for tensor in tensors))])))
        if isinstance(outcome.value, str):
            raise RewardError(outcome.value)
        return outcome


def score_here(name: str, spec: tuple[str, str, str], *arrays: np.ndarray) -> Answer | str:
    """Score crystals, given by the arrays of a `CrystalBatch`, inside the process.

    The result holds only plain names and arrays, because the parent process does not know the user's code. It is a
    message if what the reward returned is not one number per structure.
    """
    # Arrays from the parent's `numpy()` may be read-only.
    crystals = CrystalBatch(*(torch.from_numpy(np.array(array)) for array in arrays))
    returned = make_reward(*spec)(crystals)
    try:
        result = checked(name, returned, len(crystals))
    except RewardError as error:
        return str(error)
    return result.reward.numpy(), {key: values.numpy() for key, values in result.values.items()}


@lru_cache(maxsize=1)
def make_reward(target: str, options: str, path: str) -> Reward:
    """Build the user's object, once per process."""
    sys.path.insert(0, path)
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)(**json.loads(options))
