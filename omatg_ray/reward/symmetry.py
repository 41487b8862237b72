"""Symmetry rewards: for crystals that are not triclinic, or have no centre of inversion."""

from __future__ import annotations

import math

import torch

from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.crystal.validity import check_validity
from omatg_ray.reward.matching import run_all, to_arrays
from omatg_ray.reward.protocol import Reward, RewardResult, pass_on
from omatg_ray.reward.worker_functions import symmetry
from omatg_ray.run.bounded import BoundedPool

P_MINUS_1 = 2
"""Space groups up to this number are triclinic."""


class NonTriclinic:
    """1 for a space group above P-1 (number 2), 0 for a triclinic or invalid crystal.

    A crystal in which spglib finds no space group counts as P1. If spglib exceeds the time bound, fails or kills its
    process, the reward of the crystal has failed (NaN).

    Args:
        symprec: spglib's tolerance in Å.
        workers: Worker processes (see `BoundedPool`).
        timeout: Seconds that one crystal may take.
        own_images: See `check_validity`.
    """

    name, elements = "non_triclinic", None

    def __init__(
        self, symprec: float = 0.1, *, workers: int = 0, timeout: float = 10.0, own_images: bool = True
    ) -> None:
        self.symprec, self.own_images = symprec, own_images
        self._pool = BoundedPool(symmetry, workers, timeout)

    def __call__(self, crystals: CrystalBatch) -> RewardResult:
        """Return the rewards of B structures, with their values, which are NaN where invalid or failed.

        - space_group: Number, 1 to 230.
        - inversion: 1 or 0.
        """
        arrays = to_arrays(crystals)
        rows = check_validity(crystals, self.own_images).valid.nonzero().squeeze(1).tolist()
        names = [f"symmetry of crystal {row}" for row in rows]
        outcomes = run_all(self._pool, [(arrays[row], self.symprec) for row in rows], names)
        number, inversion = torch.full((2, len(crystals)), math.nan, dtype=torch.float64)
        reward = torch.zeros(len(crystals), dtype=torch.float64)
        for row, outcome in zip(rows, outcomes, strict=True):
            if outcome.error is not None:
                reward[row] = math.nan
            else:
                number[row], inversion[row] = outcome.value or (1, False)
                reward[row] = float(number[row] > P_MINUS_1)
        return RewardResult(reward, {"space_group": number, "inversion": inversion})

    def close(self) -> None:
        """End the worker processes."""
        self._pool.close()


class NonCentrosymmetric:
    """1 for a crystal that is neither triclinic nor has a centre of inversion, 0 for others, NaN where `of` fails.

    Args:
        of: `NonTriclinic`, or a cache of its result.
    """

    name, elements = "non_centrosymmetric", None

    def __init__(self, of: Reward) -> None:
        self._of = of

    def __call__(self, crystals: CrystalBatch) -> RewardResult:
        """Return the rewards of B structures, with the values of `NonTriclinic`."""
        result = self._of(crystals)
        return RewardResult(result.reward * (result.values["inversion"] != 1.0), result.values)

    def close(self) -> None:
        """End the worker processes."""
        pass_on(self._of, "close")
