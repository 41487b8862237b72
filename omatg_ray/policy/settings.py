"""Settings of policies: what they act on, how they anneal, what noise they have."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from omatg_ray.deferred import Deferred
from omatg_ray.policy.hand_made import HAND_MADE, HandMadeSchedule, LinearSchedule, StepSizes
from omatg_ray.settings import FieldName, Kinds, Settings

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = Deferred("torch")

Feature = Literal["atoms", "electronegativity", "steps"]

CHUNK_PAIRS = 20_000
"""Ordered pairs of atoms per network call when generating, unless the caller says otherwise."""
NoiseMode = Literal["none", "policy"]


class ScheduleSettings(Settings):
    """A learned schedule s(t): a small network of time, and of features if there are any, for each field."""

    hidden: int = Field(64, ge=1, description="width of the network")
    layers: int = Field(2, ge=0, description="hidden layers")
    shared: bool = Field(True, description="one trunk with a linear layer per field, instead of a network per field")
    features: list[Feature] = Field(
        [],
        description="what s depends on besides time: atoms (number in the cell) · electronegativity (mean difference "
        "within the cell) · steps (their length)",
    )


class LearnedScheduleSettings(ScheduleSettings):
    """What a model's description says of a learned schedule."""

    kind: Literal["learned"] = Field("learned", description="tells it from hand-made ones")
    fields: list[FieldName] = Field(description="fields that have a schedule; the others keep s = 0")


AnyHandMade = Annotated[HandMadeSchedule | StepSizes | None, Kinds(*HAND_MADE, default=LinearSchedule, optional=True)]
"""Hand-made annealing in a file: `{pos: 5, cell: 2}`, `{kind: cosine, pos: 3}`, or null."""
AnySchedule = Annotated[
    HandMadeSchedule | StepSizes | LearnedScheduleSettings | None,
    Kinds(*HAND_MADE, LearnedScheduleSettings, default=LinearSchedule, optional=True),
]
"""The same, or what a learned schedule is made of."""


class NoiseSettings(Settings):
    """σ(t) of one field, in fractional units (positions) or Å (lattices); of an annealing policy, a plain number."""

    kind: Literal["constant", "sqrt", "learned"] = Field(
        "sqrt",
        description="constant: σ = a · sqrt: σ = a √((1 − t) / t) · learned: σ = a + softplus(MLP(t)) − ln 2, first a",
    )
    a: float = Field(0.1668, gt=0, description="scale of the noise")
    hidden: int = Field(64, ge=1, description="width of the network of learned noise")
    layers: int = Field(2, ge=0, description="hidden layers of the network of learned noise")

    def sigma(self, t: Tensor) -> Tensor:
        """σ at times t (any shape) in (0, 1); of learned noise, what it starts from."""
        if self.kind == "sqrt":
            return self.a * ((1.0 - t) / t).sqrt()
        return torch.full_like(t, self.a)


class Curve(Settings):
    """1 + s(t) of both fields at times t."""

    of: str = Field("", description="what it holds for, where s depends on more than time")
    t: list[float]
    pos: list[float]
    cell: list[float]
