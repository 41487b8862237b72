"""Training losses: mean squared errors of predicted velocities b and denoisers η."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from omatg_ray.crystal.batch import CrystalBatch, Layout
from omatg_ray.crystal.fields import FIELDS, FieldName, Fields
from omatg_ray.flow.network import NetworkOutput
from omatg_ray.flow.paths import interpolate
from omatg_ray.flow.settings import PathSettings

LossName = Literal["pos", "cell", "pos_eta", "cell_eta"]
FlowLosses = dict[LossName, Tensor]
DENOISERS: dict[FieldName, Literal["pos_eta", "cell_eta"]] = {"pos": "pos_eta", "cell": "cell_eta"}


def flow_loss(
    network: Callable[[CrystalBatch, Tensor], NetworkOutput],
    paths: PathSettings,
    x_0: CrystalBatch,
    x_1: CrystalBatch,
    t: Tensor,
    z: Fields | None = None,
    whole: Layout | None = None,
) -> FlowLosses:
    """Return E ‖b_θ(t, x_t) − ∂_t x_t‖² of each field and E ‖η_θ(t, x_t) − z‖² of those with γ.

    The expectations are means over components.

    Where γ' diverges at the ends, b is compared at two states, x_t with z and with −z, and the loss is the mean of both
    (antithetic pair; Albergo et al. 2023, section 6); η is compared at the first one. All fields that need such a pair
    share the second state.

    These are full squared errors. OMatG omits the mean square of the targets, which does not depend on the network. It
    also halves the targets where the γ of an SDE needs no pair. Half the velocity minimises that loss, so the factor is
    not reproduced here.

    Args:
        network: A CSPNet, or a wrapper of one. Called once.
        x_0: Base sample, with atoms already paired with those of x_1.
        t: Times (B,), inside (0, 1) where `paths.open_ended`.
        z: Standard normal numbers for the fields with γ: pos (sum N, 3), cell (B, 3, 3).
        whole: Layout of the full batch that these crystals are a share of. The sums of squares are divided by its
            counts, so the losses of disjoint shares, which may be empty, add up to those of the full batch.

    Returns:
        `pos` (fractional units squared), `cell` (Å squared), and `pos_eta`, `cell_eta` of the fields with γ.
    """
    z = {} if z is None else z
    layout = x_1.layout if whole is None else whole
    counts = {"pos": 3 * sum(layout.sizes), "cell": 9 * len(layout.sizes)}
    state, velocity = interpolate(paths, x_0, x_1, t, z)
    opposite: Fields = {}
    if paths.antithetic:
        flipped: Fields = {field: -noise if field in paths.antithetic else noise for field, noise in z.items()}
        other, opposite = interpolate(paths, x_0, x_1, t, flipped)
        state, t = CrystalBatch.cat([state, other]), torch.cat([t, t])
    out = network(state, t)

    losses: FlowLosses = {}
    for field in FIELDS:
        predicted, target = getattr(out, f"{field}_b"), velocity[field]
        squares = (predicted[: len(target)] - target).square().sum()
        if field in paths.antithetic:
            squares = 0.5 * (squares + (predicted[len(target) :] - opposite[field]).square().sum())
        losses[field] = squares / counts[field]
    for field in paths.with_gamma:
        predicted = getattr(out, DENOISERS[field])
        losses[DENOISERS[field]] = (predicted[: len(z[field])] - z[field]).square().sum() / counts[field]
    return losses
