"""Diagonal Gaussian over an action, N(mean, σ(t)² dt): log-density and divergence per component."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def noise_log_density(noise: Tensor, variance: Tensor) -> Tensor:
    """Return the log-density of an action with standardised deviation `noise` from its mean.

    Args:
        noise: (action − mean) / √variance.
        variance: σ² dt, broadcastable.
    """
    return -0.5 * (torch.log(2 * math.pi * variance) + noise.square())


def log_density(action: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """Return the log-density of an action under N(mean, variance), per component."""
    return noise_log_density((action - mean) / variance.sqrt(), variance)


def kl_divergence(drift_difference: Tensor, sigma: Tensor, sigma_ref: Tensor, dt: Tensor) -> Tensor:
    """Return KL(policy ‖ reference) of one step, per component.

    It is log σ_ref − log σ + (σ² + Δdrift² dt) / (2 σ_ref²) − 1/2 for two Gaussians with variances σ² dt and σ_ref² dt
    and means that differ by Δdrift dt.
    """
    spread = (sigma.square() + drift_difference.square() * dt) / (2 * sigma_ref.square())
    return torch.log(sigma_ref / sigma) + spread - 0.5
