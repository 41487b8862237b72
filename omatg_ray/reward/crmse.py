"""Reward for a small distance to a known polymorph."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import astuple

import torch

from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.crystal.validity import check_validity
from omatg_ray.errors import RewardError
from omatg_ray.reward.matching import Composition, MatchSettings, compositions, run_all, to_arrays
from omatg_ray.reward.protocol import RewardResult
from omatg_ray.reward.worker_functions import Arrays, matched_rmse
from omatg_ray.run.bounded import BoundedPool

TOLERANCES = MatchSettings()
SHOWN = 5
"""Compositions that an error names."""


class PolymorphMatch:
    """stol − the smallest RMSE to the known crystals of the same reduced composition (−cRMSE up to a constant).

    RMSE is that of pymatgen's StructureMatcher in units of (V/N)^(1/3). Without a match, or for an invalid crystal, the
    RMSE counts as stol and the reward is 0. If any comparison of a crystal exceeds its time bound, raises or kills its
    process, the reward of the crystal has failed (NaN).

    Args:
        references: Known crystals; invalid ones match nothing.
        settings: Tolerances.
        workers: Worker processes (see `BoundedPool`).
        timeout: Seconds that one comparison may take.
        own_images: See `check_validity`.
    """

    name, elements = "crmse", None

    def __init__(
        self,
        references: CrystalBatch,
        settings: MatchSettings = TOLERANCES,
        *,
        workers: int = 0,
        timeout: float = 10.0,
        own_images: bool = True,
    ) -> None:
        self.settings, self.own_images = settings, own_images
        self._pool = BoundedPool(matched_rmse, workers, timeout)
        self._of_key: dict[Composition, list[Arrays]] = {}
        self.learn(references)

    def learn(self, known: CrystalBatch) -> None:
        """Add known crystals as references, but only for compositions that have none so far."""
        valid = check_validity(known, self.own_images).valid.tolist()
        new: dict[Composition, list[Arrays]] = defaultdict(list)
        for key, arrays, ok in zip(compositions(known), to_arrays(known), valid, strict=True):
            if key not in self._of_key:
                new[key] += [arrays] if ok else []
        self._of_key.update(new)

    def require(self, crystals: CrystalBatch) -> None:
        """Refuse crystals of compositions that no reference has.

        Raises:
            RewardError: Some compositions have no reference; names them.
        """
        unknown = [row for row, key in enumerate(compositions(crystals)) if key not in self._of_key]
        if unknown:
            formulas = sorted(set(crystals.select(unknown).formulas()))
            shown = ", ".join(formulas[:SHOWN]) + (", ..." if len(formulas) > SHOWN else "")
            raise RewardError(
                f"reward crmse: no reference has the composition {shown}; add one to reward.crmse.references, or leave "
                "out these compositions"
            )

    def __call__(self, crystals: CrystalBatch) -> RewardResult:
        """Return the rewards of B structures, with the value rmse: that of the best match, NaN without one.

        Raises:
            RewardError: As `require`.
        """
        self.require(crystals)
        arrays, keys = to_arrays(crystals), compositions(crystals)
        valid = check_validity(crystals, self.own_images).valid.nonzero().squeeze(1).tolist()
        pairs = [(row, known) for row in valid for known in self._of_key[keys[row]]]
        calls = [(arrays[row], known, *astuple(self.settings)) for row, known in pairs]
        outcomes = run_all(self._pool, calls, [f"crystal {row} and a polymorph" for row, _ in pairs])
        rmse = torch.full((len(crystals),), math.inf, dtype=torch.float64)
        failed = torch.zeros(len(crystals), dtype=torch.bool)
        for (row, _), outcome in zip(pairs, outcomes, strict=True):
            failed[row] |= outcome.error is not None
            if outcome.value is not None:
                rmse[row] = min(float(rmse[row]), outcome.value)
        reward = (self.settings.stol - rmse.clamp_max(self.settings.stol)).where(~failed, math.nan)
        return RewardResult(reward, {"rmse": rmse.where(rmse.isfinite(), math.nan)})

    def close(self) -> None:
        """End the worker processes."""
        self._pool.close()
