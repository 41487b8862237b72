"""Settings of the network, of the paths it learns, and of its pretraining."""

from __future__ import annotations

import operator
from typing import Literal

from pydantic import Field, field_validator

from omatg_ray.flow.interpolant import AnyPath, EncoderDecoder, FieldPath, Linear
from omatg_ray.flow.species import AnySpeciesPath
from omatg_ray.run.location_keys import ModelLocation
from omatg_ray.settings import FIELDS, FieldName, Settings

Precision = Literal["float32", "bfloat16"]
Pairing = Literal["all_atoms", "same_species", "as_drawn"]


class NetworkSettings(Settings):
    """Size of a CSPNet. The defaults learn Perov-5 on two cores; OMatG's published size is 512, 6, 128, 256."""

    hidden: int = Field(128, ge=1, description="features per atom and message")
    layers: int = Field(4, ge=1, description="message layers")
    frequencies: int = Field(32, ge=1, description="harmonics of each fractional distance, from 0")
    time_features: int = Field(128, ge=4, multiple_of=2, description="size of the sinusoidal time embedding")
    max_atomic_number: int = Field(100, ge=1, le=118, description="elements in the embedding")
    pooled: bool = Field(
        False,
        # Omitted when unset, as the next three, as in files written before these keys existed.
        exclude_if=operator.not_,
        description="whether a layer takes the mean of its messages before their second linear map; not for OMatG",
    )
    neighbors: int | None = Field(
        None,
        ge=1,
        exclude_if=lambda neighbors: neighbors is None,
        description="nearest atoms with which an atom exchanges messages; null: all atoms of the cell, as in OMatG",
    )
    lattice: Literal["metric", "shape"] = Field(
        "metric",
        exclude_if=lambda lattice: lattice == "metric",
        description="what the network sees of the lattice: metric, L Lᵀ as in OMatG; or shape, logarithms of lengths "
        "and volumes and cosines of angles",
    )
    separation: bool = Field(
        False,
        exclude_if=operator.not_,
        description="whether velocities of positions also have a part along the lines between near atoms, which keeps "
        "like atoms apart; not for OMatG",
    )
    mask: bool = Field(
        False,
        exclude_if=operator.not_,
        description="whether the embedding also has masked atoms, with atomic number 0; imported models only",
    )


class PathSettings(Settings):
    """Path of each field from base to data, and of the species where these are generated.

    Needed for training, for sampling with the denoiser, and for generating species.
    """

    pos: AnyPath = Field(default_factory=Linear, description="path of the positions, on the torus")
    cell: AnyPath = Field(default_factory=Linear, description="path of the lattices")
    species: AnySpeciesPath = Field(
        None,
        # Omitted when null, as in files written before this key existed.
        exclude_if=lambda path: path is None,
        description="path of the species, for imported models that generate them; null: species are given",
    )
    pairing: Pairing | None = Field(
        None,
        exclude_if=lambda pairing: pairing is None,
        description="which atoms of the base are exchanged to shorten paths in training: all_atoms of a crystal, as in "
        "OMatG; those of the same_species, after which x_0 is distributed as in sampling; or as_drawn; null: as the "
        "model in pretrain.start, else all_atoms",
    )

    def of(self, field: FieldName) -> FieldPath:
        """Return the path of a field."""
        return self.pos if field == "pos" else self.cell

    @property
    def with_gamma(self) -> tuple[FieldName, ...]:
        """Return the fields to which a Gaussian is added."""
        return tuple(field for field in FIELDS if self.of(field).gamma is not None)

    @property
    def antithetic(self) -> tuple[FieldName, ...]:
        """Return the fields whose velocity is learned from pairs of states, with z and with −z."""
        gammas = {field: self.of(field).gamma for field in FIELDS}
        return tuple(field for field, gamma in gammas.items() if gamma is not None and gamma.antithetic)

    @property
    def open_ended(self) -> bool:
        """Return whether velocities are undefined at t = 0 or t = 1 themselves."""
        return bool(self.with_gamma) or any(isinstance(self.of(field), EncoderDecoder) for field in FIELDS)

    def refuse_untrainable(self) -> None:
        """Refuse paths on which new models cannot be trained.

        Raises:
            ValueError: A path is one-sided, as in score-based diffusion, or species are generated. Both exist for
                imported models only.
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


class LossWeights(Settings):
    """Weights of the losses. Lattices are in Å and have by far the larger errors.

    Denoisers predict unit Gaussians, but that of the lattices does so by a matrix that multiplies a lattice.
    """

    pos: float = Field(1.0, ge=0, description="weight of the position loss")
    cell: float = Field(0.05, ge=0, description="weight of the lattice loss")
    pos_eta: float = Field(1.0, ge=0, description="weight of the positions' denoiser loss, present with gamma")
    cell_eta: float = Field(0.1, ge=0, description="weight of the lattices' denoiser loss, present with gamma")


class PretrainSettings(Settings):
    """Pretraining of the base model."""

    start: ModelLocation | None = Field(
        None,
        # Omitted when null, as in files written before this key existed.
        exclude_if=lambda start: start is None,
        description="base model whose weights training starts from, e.g. bundled; network, paths and the start of the "
        "lattices are its own then",
    )
    network: NetworkSettings = Field(NetworkSettings(), description="size of the network")
    paths: PathSettings = Field(PathSettings(), description="interpolants from base to data")
    lattices: Literal["informed", "by_volume"] = Field(
        "informed",
        description="where lattices start: informed, lengths as in the data whatever the atoms; by_volume, lengths "
        "that follow from the volumes of the elements, for cells of different sizes",
    )
    epochs: int = Field(1500, ge=1, description="passes over the training split")
    batch_size: int = Field(256, ge=1, description="crystals per step")
    optimizer: Literal["adamw", "muon"] = Field(
        "adamw",
        description="adamw; or muon, which orthogonalises the updates of hidden matrices and learns more from an epoch",
    )
    lr: float = Field(2e-3, gt=0, description="peak learning rate")
    warmup_steps: int = Field(100, ge=0, description="steps of linear warm-up; a cosine down to zero follows")
    weight_decay: float = Field(0.0, ge=0, description="decoupled weight decay")
    ema: float = Field(0.999, ge=0, lt=1, description="decay of the averaged weights that are validated and saved")
    grad_clip: float = Field(1.0, gt=0, description="largest gradient norm")
    loss_weights: LossWeights = Field(LossWeights(), description="weights of the losses")
    validate_every: int = Field(10, ge=1, description="epochs between validations; a validation can make a new best")
    checkpoint_every: int = Field(50, ge=1, description="epochs between checkpoints")

    @field_validator("paths")
    @classmethod
    def _trainable(cls, paths: PathSettings) -> PathSettings:
        paths.refuse_untrainable()
        return paths

    @field_validator("network")
    @classmethod
    def _without_mask(cls, network: NetworkSettings) -> NetworkSettings:
        if network.mask:
            raise ValueError("mask: masked atoms are for imported models only; training generates no species")
        return network
