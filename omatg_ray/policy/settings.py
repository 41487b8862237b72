"""Settings of policies: schedules and noise."""

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
"""Default number of ordered pairs of atoms per network call when generating."""
NoiseMode = Literal["none", "policy"]


class ScheduleSettings(Settings):
    """Learned schedule s(t): for each field a small network of time, and of features if there are any."""

    hidden: int = Field(64, ge=1, description="width of the network")
    layers: int = Field(2, ge=0, description="hidden layers")
    shared: bool = Field(True, description="one trunk with a linear layer per field, instead of a network per field")
    features: list[Feature] = Field(
        [],
        description="what s depends on besides time: atoms (number in the cell) · electronegativity (mean difference "
        "within the cell) · steps (their length)",
    )


class LearnedScheduleSettings(ScheduleSettings):
    """Learned schedule in a model's description."""

    kind: Literal["learned"] = Field("learned", description="distinguishes it from hand-made ones")
    fields: list[FieldName] = Field(description="fields that have a schedule; the others keep s = 0")


AnyHandMade = Annotated[HandMadeSchedule | StepSizes | None, Kinds(*HAND_MADE, default=LinearSchedule, optional=True)]
"""Hand-made schedule. In a file: `{pos: 5, cell: 2}`, `{kind: cosine, pos: 3}`, or null."""
AnySchedule = Annotated[
    HandMadeSchedule | StepSizes | LearnedScheduleSettings | None,
    Kinds(*HAND_MADE, LearnedScheduleSettings, default=LinearSchedule, optional=True),
]
"""The same, or the settings of a learned schedule."""


class NoiseSettings(Settings):
    """σ(t) of one field, in fractional units (positions) or Å (lattices); a plain number for an annealing policy."""

    kind: Literal["constant", "sqrt", "learned"] = Field(
        "sqrt",
        description="constant: σ = a · sqrt: σ = a √((1 − t) / t) · learned: σ = a + softplus(MLP(t)) − ln 2, first a",
    )
    a: float = Field(0.1668, gt=0, description="scale of the noise")
    hidden: int = Field(64, ge=1, description="width of the network of learned noise")
    layers: int = Field(2, ge=0, description="hidden layers of the network of learned noise")

    def sigma(self, t: Tensor) -> Tensor:
        """Return σ at times t (any shape) in (0, 1); for learned noise, its initial value."""
        if self.kind == "sqrt":
            return self.a * ((1.0 - t) / t).sqrt()
        return torch.full_like(t, self.a)


class Curve(Settings):
    """1 + s(t) of both fields at times t."""

    of: str = Field("", description="example that it holds for, if s depends on more than time")
    t: list[float]
    pos: list[float]
    cell: list[float]
