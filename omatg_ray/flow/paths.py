"""Paths of whole crystals: positions on the torus, lattices in flat space."""

from __future__ import annotations

from torch import Tensor

from omatg_ray.crystal.batch import CrystalBatch, Layout
from omatg_ray.crystal.fields import Fields
from omatg_ray.crystal.lattice import nearest_image, wrap
from omatg_ray.flow.interpolant import FieldPath
from omatg_ray.flow.settings import PathSettings

TIME_MARGIN = 1e-3
"""Samplers go this close to the ends, where the velocities of some paths are undefined."""


def path(interpolant: FieldPath, x_0: Tensor, x_1: Tensor, t: Tensor, z: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return the state x_t and velocity ∂_t x_t of a path in flat space; t broadcasts against the states.

    Args:
        z: Gaussian numbers shaped as the states. If there is a γ, γ z is added to the state and γ' z to the velocity.
    """
    (alpha, beta), (alpha_rate, beta_rate) = interpolant.weights(t), interpolant.rates(t)
    state, velocity = alpha * x_0 + beta * x_1, alpha_rate * x_0 + beta_rate * x_1
    if interpolant.gamma is None or z is None:
        return state, velocity
    return state + interpolant.gamma.value(t) * z, velocity + interpolant.gamma.derivative(t) * z


def torus_path(
    interpolant: FieldPath, x_0: Tensor, x_1: Tensor, t: Tensor, layout: Layout, z: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return wrapped positions x_t and their velocity without centre-of-mass motion, each (sum N, 3).

    x_1 enters as its image nearest to x_0. The velocity's mean over a structure's atoms is removed: the translation of
    a crystal as a whole carries no information, and for non-linear paths it would depend on the origin.

    Args:
        t: One time per atom (sum N, 1).
        z: As in `path`. The target of the denoiser keeps its mean.
    """
    x_0 = wrap(x_0)
    state, velocity = path(interpolant, x_0, nearest_image(x_1, x_0), t, z)
    return wrap(state), velocity - layout.mean(velocity).index_select(0, layout.batch)


def interpolate(
    paths: PathSettings, x_0: CrystalBatch, x_1: CrystalBatch, t: Tensor, z: Fields | None = None
) -> tuple[CrystalBatch, Fields]:
    """Return the state at times t (B,), and the target velocities of positions (sum N, 3) and lattices (B, 3, 3).

    Args:
        z: Gaussian numbers for the fields with γ.
    """
    z = {} if z is None else z
    layout = x_1.layout
    t_atom = t.index_select(0, layout.batch)[:, None]
    pos_t, pos_velocity = torus_path(paths.pos, x_0.pos, x_1.pos, t_atom, layout, z.get("pos"))
    cell_t, cell_velocity = path(paths.cell, x_0.cell, x_1.cell, t[:, None, None], z.get("cell"))
    return x_1.replace(pos_t, cell_t), {"pos": pos_velocity, "cell": cell_velocity}
