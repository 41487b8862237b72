"""Reward hacking: when the potential that is rewarded and a second, independent one part company."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping

from torch import Tensor

MIN_RANK_CORRELATION = 0.5
"""Below this mean Spearman correlation within groups, the two rank the crystals of a composition differently."""
MAX_SHIFT_RISE = 0.1
"""eV/atom by which the second potential may come to find the crystals worse than the first does."""
MIN_MEMBERS = 4
"""A group with fewer valid members says nothing about ranks."""

CORRELATION, SHIFT = "second_rank_correlation", "second_shift"


def rank_correlation(first: Tensor, second: Tensor) -> float:
    """Mean over groups of Spearman's correlation of two energies (groups, members); NaN where no group has any.

    Members without both energies are left out, and groups with fewer than `MIN_MEMBERS` left or without spread.
    """
    from scipy.stats import spearmanr  # not before: it takes half a second

    found = []
    for one, other in zip(first, second, strict=True):
        both = one.isfinite() & other.isfinite()
        a, b = one[both], other[both]
        if len(a) >= MIN_MEMBERS and a.min() < a.max() and b.min() < b.max():
            found.append(float(spearmanr(a.numpy(), b.numpy()).statistic))
    return sum(found) / len(found) if found else math.nan


class DivergenceWatch:
    """Warns when an iteration's metrics say that the two potentials part company, and again only after they rejoined.

    They part where the mean rank correlation within groups falls below `MIN_RANK_CORRELATION`, or where the mean shift
    (`SecondPotential`) has risen by more than `MAX_SHIFT_RISE` since the first iteration that had one.

    Args:
        first_shift: That of the first iteration, for a run that goes on; None takes the first that comes.

    Attributes:
        apart: Whether they were apart in the last iteration.
    """

    def __init__(self, first_shift: float | None = None) -> None:
        self._first_shift, self.apart = first_shift, False

    def __call__(self, iteration: int, metrics: Mapping[str, float]) -> None:
        """Looks at an iteration's metrics; without a second potential there is nothing to see."""
        correlation, shift = metrics.get(CORRELATION, math.nan), metrics.get(SHIFT, math.nan)
        if self._first_shift is None and math.isfinite(shift):
            self._first_shift = shift
        rise = math.nan if self._first_shift is None else shift - self._first_shift
        reasons = []
        if correlation < MIN_RANK_CORRELATION:
            reasons.append(f"their ranks within a group correlate by {correlation:.2f} only")
        if rise > MAX_SHIFT_RISE:
            reasons.append(f"the second finds crystals worse by {rise:.2f} eV/atom more than at the start")
        if reasons and not self.apart:
            warnings.warn(
                f"iteration {iteration}: the rewarded and the second potential part company ({' and '.join(reasons)}); "
                "the policy may exploit errors of the first (docs/rewards.md)",
                stacklevel=2,
            )
        self.apart = bool(reasons)
