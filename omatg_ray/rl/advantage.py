"""Group-relative advantages (GRPO): how much better a member is than the other samples of its composition.

Source: Shao et al., "DeepSeekMath" (2024), with OMatG-IRL's population standard deviation.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from omatg_ray.rl.settings import AdvantageSettings

EPSILON = 1e-8
# Rewards closer than this, relative to their size, differ only by the rounding of float32 potentials.
MIN_SPREAD = 1e-6
# Rewards are clipped to this many robust standard deviations from their group's median.
CLIP_DEVIATIONS = 3.0
MAD_TO_STD = 1.4826


PLAIN = AdvantageSettings(shaping="none")


@dataclass(frozen=True)
class Advantages:
    """Advantages of an iteration.

    Attributes:
        values: (groups, members) float64; 0 where not counted.
        counted: (groups, members) bool: members that get a loss.
        skipped_groups: Number of groups with fewer than two rewarded members or without spread.
    """

    values: Tensor
    counted: Tensor
    skipped_groups: int

    def times(self, factor: Tensor) -> Advantages:
        """Return the advantages multiplied by one factor for each group (groups,)."""
        return replace(self, values=self.values * factor[:, None])


def spread_within(rewards: Tensor) -> Tensor:
    """Return the population standard deviation of the finite rewards of each group (groups,); 0 if there are none."""
    finite = rewards.isfinite()
    n = finite.sum(1).clamp_min(1)
    deviation = (rewards - (rewards.where(finite, 0.0).sum(1) / n)[:, None]).where(finite, 0.0)
    return (deviation.square().sum(1) / n).sqrt()


def clipped(values: Tensor, n_std: float) -> Tensor:
    """Clip values (n,) to their mean ± `n_std` population standard deviations."""
    reach = n_std * values.std(unbiased=False)
    return values.clamp(values.mean() - reach, values.mean() + reach)


def _shape(rewards: Tensor, shaping: str) -> Tensor:
    if shaping == "rank":
        from scipy.stats import rankdata  # not before: it takes half a second

        return torch.from_numpy(rankdata(rewards.numpy())).double()
    if shaping == "clip":
        median = rewards.quantile(0.5)
        width = CLIP_DEVIATIONS * MAD_TO_STD * (rewards - median).abs().quantile(0.5)
        # If half the group has equal rewards, there is no robust width to measure outliers against.
        return rewards.clamp(median - width, median + width) if width > 0 else rewards
    return rewards


def _novelty(rewards: Tensor, distance: Tensor) -> Tensor:
    """Return the standardised mean distance of each better member to the other better ones; 0 elsewhere.

    It is also 0 without spread. Only the better half takes part: among all members, the failures would be the most
    unusual ones.

    Args:
        rewards: (n,).
        distance: (n, n); rows and columns are NaN where there is none.
    """
    values = torch.zeros_like(rewards)
    better = ((rewards >= rewards.quantile(0.5)) & distance.diagonal().isfinite()).nonzero().squeeze(1)
    if len(better) < 2:
        return values
    mean = distance[better][:, better].sum(1) / (len(better) - 1)
    spread = mean.std(unbiased=False)
    if spread > MIN_SPREAD:
        values[better] = (mean - mean.mean()) / spread
    return values


def group_advantages(
    rewards: Tensor, settings: AdvantageSettings = PLAIN, distance: Tensor | None = None
) -> Advantages:
    """Compute A_i = (r_i − mean) / (std + 1e-8) over each group, with population standard deviation, in float64.

    A failed reward (not finite) is left out of its group's statistics and gets no loss. A group whose rewards are
    equal up to rounding is skipped: in float32 the rounded mean of equal rewards need not equal them.

    Args:
        rewards: (groups, members).
        settings: Processing of a group's rewards before they are normalised; none by default.
        distance: Distances between the members of every group (groups, members, members), for the diversity term;
            NaN where there is none.
    """
    rewards = rewards.double().cpu()
    values = torch.zeros_like(rewards)
    counted = torch.isfinite(rewards)
    skipped = 0
    for group, members in enumerate(counted):
        finite = rewards[group, members]
        if len(finite) < 2 or float(finite.max() - finite.min()) <= MIN_SPREAD * float(finite.abs().max()):
            counted[group] = False
            skipped += 1
            continue
        if settings.clip_std is not None:
            finite = clipped(finite, settings.clip_std)
        finite = _shape(finite, settings.shaping)
        values[group, members] = (finite - finite.mean()) / (finite.std(unbiased=False) + EPSILON)
        if distance is not None and settings.diversity_weight:
            novelty = _novelty(rewards[group, members], distance[group][members][:, members].double())
            values[group, members] += settings.diversity_weight * novelty
    return Advantages(values, counted, skipped)
