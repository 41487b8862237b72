"""Chemical plausibility, the official implementation's validity: metrics over matches of plausible crystals only.

A crystal is plausible if it passes the geometric checks (`omatg_ray.crystal.validity`), SMACT's screening of its
composition, and if matminer can compute its Magpie and CrystalNN fingerprints, as the compared publications require.
Both packages are optional: the extra `validity`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor

from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.crystal.validity import check_validity
from omatg_ray.errors import ConfigError
from omatg_ray.evaluate.metrics import match_rows
from omatg_ray.reward.matching import run_all, to_arrays
from omatg_ray.run.advice import install
from omatg_ray.run.bounded import BoundedPool

if TYPE_CHECKING:
    from omatg_ray.evaluate.evaluation import Evaluation

PACKAGES = ("smact", "matminer")


@dataclass(frozen=True)
class Plausibility:
    """Plausibility of many crystals.

    Attributes:
        plausible: (n,) bool.
        timed_out: Number of crystals whose fingerprints exceeded the time limit; they count as not plausible.
        failed: Number of crystals whose fingerprints raised an unexpected error; likewise.
    """

    plausible: Tensor
    timed_out: int
    failed: int


class PlausibilityCheck:
    """Plausibility check of crystals in this process or in worker processes, with a time limit for each crystal.

    Fingerprints of local environments can take minutes, or raise, on nearly flat cells.

    Args:
        workers: Worker processes; 0 checks in this process (`BoundedPool` says what the time limit means there).
        timeout: Seconds that one crystal may take.
        own_images: Whether distances of a site to its own periodic images count; the published rule ignores them.

    Raises:
        ConfigError: SMACT or matminer is not installed.
    """

    def __init__(self, workers: int = 0, timeout: float = 30.0, *, own_images: bool = True) -> None:
        missing = [package for package in PACKAGES if find_spec(package) is None]
        if missing:
            raise ConfigError(f"chemical plausibility needs {' and '.join(missing)}: {install('validity')}")
        from omatg_ray.evaluate.chemistry_tasks import is_plausible

        self.own_images = own_images
        self._pool = BoundedPool(is_plausible, workers, timeout)
        self._known: tuple[CrystalBatch, Tensor] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.close()

    def __call__(self, crystals: CrystalBatch) -> Plausibility:
        """Check which crystals are plausible."""
        plausible = check_validity(crystals, own_images=self.own_images).valid
        rows = plausible.nonzero().squeeze(1).tolist()
        arrays = to_arrays(crystals.select(rows))
        outcomes = run_all(self._pool, [(array,) for array in arrays], [f"crystal {row}" for row in rows])
        plausible[rows] = torch.tensor([bool(outcome.value) for outcome in outcomes], dtype=torch.bool)
        timed_out = sum(outcome.timed_out for outcome in outcomes)
        return Plausibility(plausible, timed_out, sum(o.error is not None for o in outcomes) - timed_out)

    def known(self, references: CrystalBatch) -> Tensor:
        """Return which references are plausible (n,), bool; the result is reused while the references stay the same."""
        if self._known is None or self._known[0] is not references:
            self._known = references, self(references).plausible
        return self._known[1]


def with_plausibility(
    evaluation: Evaluation, references: CrystalBatch, check: PlausibilityCheck, stol: float
) -> Evaluation:
    """Return an evaluation with metrics over plausible crystals, including matches if these were measured.

    Args:
        evaluation: One generated crystal per reference, or several samples one after the other.
        references: The references, row by row.
        check: Decides what is plausible.
        stol: Site tolerance of the matcher, which the cRMSE counts where there is no match.
    """
    ours = check(evaluation.crystals).plausible
    rows = {"plausible_share": ours.double()}
    if evaluation.metrics.match_rate is not None:
        theirs = check.known(references).repeat(len(ours) // len(references))
        matches = match_rows(plausible_matches(evaluation.match, ours, theirs), stol)
        rows |= {f"plausible_{name}": values for name, values in matches.items()}
    return evaluation.with_rows(rows)


def plausible_matches(matches: Tensor, generated: Tensor, reference: Tensor) -> Tensor:
    """Keep matches between plausible crystals; every other row becomes no match (NaN).

    The functions of `omatg_ray.evaluate.metrics` then give the rates over all rows.

    Args:
        matches: RMSE of every row (n,), NaN where there is no match.
        generated: Which generated crystals are plausible (n,), bool.
        reference: The same for the references.
    """
    return matches.where(generated & reference, math.nan)
