"""The flow-matching loss: mean squared error of the predicted velocities."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pydantic import Field
from torch import Tensor

from omatg_ray.crystal.batch import CrystalBatch, Layout
from omatg_ray.flow.interpolant import INTERPOLANTS, InterpolantName, interpolate
from omatg_ray.flow.network import NetworkOutput
from omatg_ray.settings import Settings


class PathSettings(Settings):
    """The path from base to data of each field. Sampling does not need it, training does."""

    pos: InterpolantName = Field("linear", description="path of the positions, on the torus")
    cell: InterpolantName = Field("linear", description="path of the lattices")


@dataclass(frozen=True)
class VelocityLoss:
    """Mean squared errors over all components of all atoms (positions, fractional units) and lattices (Å)."""

    pos: Tensor
    cell: Tensor


def velocity_loss(
    network: Callable[[CrystalBatch, Tensor], NetworkOutput],
    paths: PathSettings,
    x_0: CrystalBatch,
    x_1: CrystalBatch,
    t: Tensor,
    whole: Layout | None = None,
) -> VelocityLoss:
    """E ‖b_θ(t, x_t) − ∂_t x_t‖² on one batch, each field as a mean over components.

    Args:
        network: A CSPNet, or what wraps one.
        x_0: Base sample, atoms already paired with those of x_1.
        t: Times (B,).
        whole: Layout of the batch that these crystals are a share of: the sum of squares is then divided by the counts
            of that batch, so that the losses of disjoint shares, which may be empty, add up to the loss of the whole.
    """
    whole = x_1.layout if whole is None else whole
    state, pos_target, cell_target = interpolate(INTERPOLANTS[paths.pos], INTERPOLANTS[paths.cell], x_0, x_1, t)
    out = network(state, t)
    return VelocityLoss(
        pos=(out.pos_b - pos_target).square().sum() / (3 * sum(whole.sizes)),
        cell=(out.cell_b - cell_target).square().sum() / (9 * len(whole.sizes)),
    )
