"""Detection of reward hacking, by the divergence of the rewarded potential from a second, independent one."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping

from torch import Tensor

MIN_RANK_CORRELATION = 0.5
"""Mean Spearman correlation within groups below which the two rank the crystals of a composition differently."""
MAX_SHIFT_RISE = 0.1
"""eV/atom by which the energies of the second potential may rise against those of the first during a run."""
MIN_MEMBERS = 4
"""Valid members that a group needs for a rank correlation."""

CORRELATION, SHIFT = "second_rank_correlation", "second_shift"


def rank_correlation(first: Tensor, second: Tensor) -> float:
    """Return Spearman's correlation of two energies (groups, members), averaged over groups; NaN if no group has one.

    Members without both energies are left out, and so are groups without spread or with fewer than `MIN_MEMBERS` left.
    """
    from scipy.stats import spearmanr  # not before: it takes half a second

    correlations = []
    for row, other in zip(first, second, strict=True):
        both = row.isfinite() & other.isfinite()
        a, b = row[both], other[both]
        if len(a) >= MIN_MEMBERS and a.min() < a.max() and b.min() < b.max():
            correlations.append(float(spearmanr(a.numpy(), b.numpy()).statistic))
    return sum(correlations) / len(correlations) if correlations else math.nan


class DivergenceWatch:
    """Warning when an iteration's metrics show that the two potentials diverge, repeated only after they agreed again.

    They diverge if the mean rank correlation within groups falls below `MIN_RANK_CORRELATION`, or if the mean shift
    (`SecondPotential`) has risen by more than `MAX_SHIFT_RISE` since the first iteration that had one.

    Args:
        first_shift: Shift of the first iteration, for a resumed run; None takes the first one that comes.

    Attributes:
        apart: Whether they diverged in the last iteration.
    """

    def __init__(self, first_shift: float | None = None) -> None:
        self._first_shift, self.apart = first_shift, False

    def __call__(self, iteration: int, metrics: Mapping[str, float]) -> None:
        """Check an iteration's metrics; without a second potential this does nothing."""
        correlation, shift = metrics.get(CORRELATION, math.nan), metrics.get(SHIFT, math.nan)
        if self._first_shift is None and math.isfinite(shift):
            self._first_shift = shift
        rise = math.nan if self._first_shift is None else shift - self._first_shift
        reasons = []
        if correlation < MIN_RANK_CORRELATION:
            reasons.append(f"their ranks within a group correlate by only {correlation:.2f}")
        if rise > MAX_SHIFT_RISE:
            reasons.append(f"the second rates crystals worse by {rise:.2f} eV/atom more than at the start")
        if reasons and not self.apart:
            warnings.warn(
                f"iteration {iteration}: the rewarded and the second potential diverge ({' and '.join(reasons)}); "
                "the policy may exploit errors of the first (docs/rewards.md)",
                stacklevel=2,
            )
        self.apart = bool(reasons)
