"""`ModelDescription`: what `model.json` says of a model."""

from __future__ import annotations

from typing import Any, Final, Literal

from pydantic import ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from omatg_ray.crystal.base import BaseDistribution, CellByVolume
from omatg_ray.crystal.domain import Domain
from omatg_ray.crystal.fields import FieldName
from omatg_ray.flow.settings import NetworkSettings, PathSettings
from omatg_ray.model.variants import VariantName
from omatg_ray.policy.settings import AnySchedule, NoiseSettings
from omatg_ray.settings import Settings

FORMAT: Final = "omatg_ray.model.1"


class ModelDescription(Settings):
    """Content of `model.json`: everything but the weights."""

    # In files the schedule is called `annealing`.
    model_config = ConfigDict(serialize_by_alias=True, populate_by_name=True)

    format: Literal["omatg_ray.model.1"] = FORMAT
    network: NetworkSettings
    paths: PathSettings
    base_distribution: BaseDistribution
    elements: list[str] = Field(description="symbols of the training set's elements")
    sizes: list[int] = Field(description="atoms per cell that occur in the training set")
    domain: Domain | None = Field(None, description="compositions of the training set; null in older models")
    variant: VariantName = Field("velocity", description="kind of policy that reinforcement trained")
    active: list[FieldName] = Field([], description="fields that reinforcement acted on; empty for a base model")
    noise: dict[FieldName, NoiseSettings] = Field({}, description="policy noise of the active fields")
    schedule: AnySchedule = Field(
        None,
        alias="annealing",
        description="schedule of the velocity: the one the sampler was trained with, or the one it learned",
    )
    acts_from: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="time from which the reinforced network acts; before it, the base",
    )
    potential: str | None = Field(None, description="potential that rewarded it: name or folder")
    recovery: dict[int, float] = Field(
        {},
        description="share of held-out crystals that a generated crystal each matched, by the most atoms of the cell: "
        "{10: 0.4, 20: 0.1} is of up to 10 atoms and of 11 to 20; empty if nobody measured it",
    )
    provenance: dict[str, Any] = Field({}, description="how it was made")

    @model_serializer(mode="wrap")
    def _leave_out_what_is_new(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # So that models that always act are the same as before, for older versions and in keys of results.
        values: dict[str, Any] = handler(self)
        unset = {name for name in ("acts_from", "recovery") if not getattr(self, name)}
        return {name: value for name, value in values.items() if name not in unset}

    @model_validator(mode="after")
    def _knows_the_mask(self) -> ModelDescription:
        if self.paths.species is not None and self.paths.species.masked != self.network.mask:
            raise ValueError(
                f"paths.species: {self.paths.species.kind} does not go with network.mask = {self.network.mask}"
            )
        if self.paths.species is not None and isinstance(self.base_distribution.cell, CellByVolume):
            raise ValueError("paths.species: lattices by_volume need the species that this model would generate")
        return self
