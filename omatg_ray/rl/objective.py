"""The PPO objective of Gaussian step policies: pure functions of log-ratios, divergences and advantages.

Source: OMatG-IRL (arXiv 2602.00424); the clipped surrogate is that of Schulman et al. (2017).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from omatg_ray.crystal.batch import Layout
from omatg_ray.rl.settings import PositionReduction

Terms = tuple[Tensor, Tensor, Tensor]
"""Unweighted terms of the surrogate and of the KL per step and structure, and the clipped share, each (K, B)."""


def surrogate(log_ratio: Tensor, advantage: Tensor, clip: float) -> tuple[Tensor, Tensor]:
    """Return −min(ratio · A, clip(ratio, 1 ± ε) · A), and whether the ratio lies outside [1 − ε, 1 + ε] (1 or 0).

    The minimum is −A · min(ratio, 1 + ε) for A ≥ 0 and −A · max(ratio, 1 − ε) for A < 0. Bounding the logarithm gives
    both, and a clipped ratio beyond the range of floats has no gradient instead of NaN.

    Args:
        log_ratio: log p_θ − log p_old, summed over the components of what has one ratio (K, B).
        advantage: (B,).
        clip: ε.
    """
    low, high = math.log1p(-clip), math.log1p(clip)
    bounded = torch.where(advantage < 0, log_ratio.clamp(min=low), log_ratio.clamp(max=high))
    outside = ((log_ratio < low) | (log_ratio > high)).to(log_ratio.dtype)
    return -advantage * bounded.exp(), outside


def position_terms(
    log_ratio: Tensor, kl: Tensor, advantage: Tensor, layout: Layout, clip: float, reduction: PositionReduction
) -> Terms:
    """Compute the terms of the positions from values per atom.

    Args:
        log_ratio: log p_θ − log p_old, summed over x, y, z (K, sum N).
        kl: KL to the reference, summed over x, y, z (K, sum N).
        advantage: (B,).
        layout: Assignment of atoms to the B structures.
        reduction: See `ObjectiveSettings.position_reduction`. `none` sums the KL over the atoms of a structure, the
            other two average it.
    """

    def total(values: Tensor) -> Tensor:
        return layout.sum(values.transpose(0, 1)).transpose(0, 1)

    n_atoms = layout.n_atoms.to(log_ratio.dtype)
    if reduction == "none":
        policy, clipped = surrogate(total(log_ratio), advantage, clip)
        return policy, total(kl), clipped
    if reduction == "per_structure":
        policy, clipped = surrogate(total(log_ratio), advantage / n_atoms, clip)
        return policy, total(kl) / n_atoms, clipped
    policy, clipped = surrogate(log_ratio, advantage.index_select(0, layout.batch), clip)
    return total(policy) / n_atoms, total(kl) / n_atoms, total(clipped) / n_atoms


def negative_entropy(sigma: Tensor) -> Tensor:
    """Return the negative entropy of N(·, σ²) per component, −½ ln(2 π σ²) − ½, without the constant ln dt."""
    return -0.5 * torch.log(2 * math.pi * sigma.square()) - 0.5
