"""Paths of whole crystals: positions on the torus, lattices in flat space."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from omatg_ray.crystal.batch import CrystalBatch, Layout
from omatg_ray.crystal.fields import FIELDS, FieldName, Fields
from omatg_ray.crystal.lattice import nearest_image, wrap
from omatg_ray.flow.interpolant import AnyPath, EncoderDecoder, FieldPath, Linear
from omatg_ray.flow.species import AnySpeciesPath
from omatg_ray.settings import Settings


class PathSettings(Settings):
    """The path from base to data of each field, and of the species where these are generated.

    Training needs it, and so does what samples with the denoiser or generates species.
    """

    pos: AnyPath = Field(default_factory=Linear, description="path of the positions, on the torus")
    cell: AnyPath = Field(default_factory=Linear, description="path of the lattices")
    species: AnySpeciesPath = Field(
        None,
        # Left out where there is none, as in files from before it existed.
        exclude_if=lambda path: path is None,
        description="path of the species, for imported models that generate them; null: species are given",
    )

    def of(self, field: FieldName) -> FieldPath:
        """The path of a field."""
        return self.pos if field == "pos" else self.cell

    @property
    def with_gamma(self) -> tuple[FieldName, ...]:
        """Fields to which a Gaussian is added."""
        return tuple(field for field in FIELDS if self.of(field).gamma is not None)

    @property
    def antithetic(self) -> tuple[FieldName, ...]:
        """Fields whose velocity is learned from pairs of states, with z and with −z."""
        gammas = {field: self.of(field).gamma for field in FIELDS}
        return tuple(field for field, gamma in gammas.items() if gamma is not None and gamma.antithetic)

    @property
    def open_ended(self) -> bool:
        """Whether velocities are not defined at t = 0 or t = 1 themselves."""
        return bool(self.with_gamma) or any(isinstance(self.of(field), EncoderDecoder) for field in FIELDS)

    def refuse_untrainable(self) -> None:
        """Looks whether new models can be trained on these paths.

        Raises:
            ValueError: One is one-sided, as those of score-based diffusion are, or species are generated: these exist
                for imported models.
        """
        if self.species is not None:
            raise ValueError(
                "species: generated species are for imported models only; leave this key out to train on given species"
            )
        for field in FIELDS:
            if self.of(field).one_sided:
                raise ValueError(
                    f"{field}: {self.of(field).kind}, one-sided, is for imported models only; train on linear, "
                    "trigonometric, encoder_decoder or mirror, with or without gamma"
                )


def path(interpolant: FieldPath, x_0: Tensor, x_1: Tensor, t: Tensor, z: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """State x_t and velocity ∂_t x_t of a path in flat space; t broadcasts against the states.

    Args:
        z: Gaussian numbers shaped as the states; γ z is added to the state and γ' z to the velocity where there is a γ.
    """
    state = interpolant.alpha(t) * x_0 + interpolant.beta(t) * x_1
    velocity = interpolant.alpha_dot(t) * x_0 + interpolant.beta_dot(t) * x_1
    if interpolant.gamma is None or z is None:
        return state, velocity
    return state + interpolant.gamma.value(t) * z, velocity + interpolant.gamma.derivative(t) * z


def torus_path(
    interpolant: FieldPath, x_0: Tensor, x_1: Tensor, t: Tensor, layout: Layout, z: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Wrapped positions x_t and their velocity without centre-of-mass motion, each (sum N, 3).

    x_1 enters as its image nearest to x_0. The translation of a crystal as a whole carries no information, and for
    non-linear paths the velocity would depend on where the origin is: the mean over a structure's atoms is removed.

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
    """State at times t (B,), and the targets of the position (sum N, 3) and lattice velocity (B, 3, 3).

    Args:
        z: Gaussian numbers for the fields with γ.
    """
    z = {} if z is None else z
    layout = x_1.layout
    t_atom = t.index_select(0, layout.batch)[:, None]
    pos_t, pos_velocity = torus_path(paths.pos, x_0.pos, x_1.pos, t_atom, layout, z.get("pos"))
    cell_t, cell_velocity = path(paths.cell, x_0.cell, x_1.cell, t[:, None, None], z.get("cell"))
    return x_1.replace(pos_t, cell_t), {"pos": pos_velocity, "cell": cell_velocity}
