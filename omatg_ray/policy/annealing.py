"""Velocity annealing: the velocity of a field is multiplied by 1 + s(t), with s made by hand or learned.

Source: OMatG (Höllmer et al., 2025) for linear s; OMatG-IRL (arXiv 2602.00424) for learned s.
"""

from __future__ import annotations

import hashlib
import math
from abc import abstractmethod
from typing import Annotated, Any, Literal, Protocol

import torch
from pydantic import Field
from torch import Tensor, nn

from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.crystal.fields import FIELDS, FieldName
from omatg_ray.kinds import Kinds
from omatg_ray.policy.features import Feature, examples, features_of
from omatg_ray.policy.grid import T_MAX, T_MIN, time_grid
from omatg_ray.policy.mlp import at_times, time_mlp, zero_output
from omatg_ray.settings import Settings

CURVE_POINTS = 51


class Curve(Settings):
    """1 + s(t) of both fields at times t."""

    of: str = Field("", description="what it holds for, where s depends on more than time")
    t: list[float]
    pos: list[float]
    cell: list[float]


class Annealing(Protocol):
    """s(t) of each field, and the time grid that it is integrated on."""

    def factor(
        self, field: FieldName, t: Tensor, crystals: CrystalBatch | None = None, dt: Tensor | None = None
    ) -> Tensor:
        """1 + s(t).

        Args:
            field: Field.
            t: One time for all structures (), one for each (B,), or any shape where s depends on time alone.
            crystals: Structures whose s is asked for, where it depends on what they are made of.
            dt: Length of the step at t, shaped as t or (), where s depends on it.
        """
        ...

    def times(self, steps: int) -> Tensor:
        """Grid (steps,) of an integration, float32."""
        ...


class HandMadeAnnealing(Settings):
    """s(t) = slope · shape(t) for each field, with a shape that is 1 at t = 1."""

    kind: str
    pos: float = Field(0.0, ge=-1.0, description="s at t = 1 for positions")
    cell: float = Field(0.0, ge=-1.0, description="s at t = 1 for lattices")

    @abstractmethod
    def shape(self, t: Tensor) -> Tensor:
        """1 at t = 1."""

    def factor(
        self, field: FieldName, t: Tensor, crystals: CrystalBatch | None = None, dt: Tensor | None = None
    ) -> Tensor:
        """1 + s(t) at times t (any shape)."""
        return 1.0 + getattr(self, field) * self.shape(t)

    def times(self, steps: int) -> Tensor:
        """Equal steps."""
        return time_grid(steps)


class LinearAnnealing(HandMadeAnnealing):
    """s(t) = slope · t for each field. On MP-20, slopes near 10 (positions) and 1.8 (lattices) are known to help."""

    kind: Literal["linear"] = "linear"

    def shape(self, t: Tensor) -> Tensor:
        return t


class QuadraticAnnealing(HandMadeAnnealing):
    """s(t) = slope · t²."""

    kind: Literal["quadratic"] = "quadratic"

    def shape(self, t: Tensor) -> Tensor:
        return t.square()


class CosineAnnealing(HandMadeAnnealing):
    """s(t) = slope · (1 − cos π t) / 2."""

    kind: Literal["cosine"] = "cosine"

    def shape(self, t: Tensor) -> Tensor:
        return 0.5 * (1.0 - torch.cos(math.pi * t))


class ConstantAnnealing(HandMadeAnnealing):
    """s(t) = slope at all times."""

    kind: Literal["constant"] = "constant"

    def shape(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)


class StepSizes(Settings):
    """s = 0 on a grid of unequal steps: a schedule of step sizes in place of a scale of velocities."""

    kind: Literal["steps"] = "steps"
    power: float = Field(1.0, gt=0, description="exponent of `time_grid`; more than 1: smaller steps near the crystal")

    def factor(
        self, field: FieldName, t: Tensor, crystals: CrystalBatch | None = None, dt: Tensor | None = None
    ) -> Tensor:
        """1 at times t (any shape)."""
        return torch.ones_like(t)

    def times(self, steps: int) -> Tensor:
        """Steps that grow or shrink with the power."""
        return time_grid(steps, self.power)


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


class LearnedSchedule(ScheduleSettings):
    """What a model's description says of a learned schedule."""

    kind: Literal["learned"] = Field("learned", description="tells it from hand-made ones")
    fields: list[FieldName] = Field(description="fields that have a schedule; the others keep s = 0")


HAND_MADE = (LinearAnnealing, QuadraticAnnealing, CosineAnnealing, ConstantAnnealing, StepSizes)
AnyHandMade = Annotated[HandMadeAnnealing | StepSizes | None, Kinds(*HAND_MADE, default=LinearAnnealing, optional=True)]
"""Hand-made annealing in a file: `{pos: 5, cell: 2}`, `{kind: cosine, pos: 3}`, or null."""
AnyAnnealing = Annotated[
    HandMadeAnnealing | StepSizes | LearnedSchedule | None,
    Kinds(*HAND_MADE, LearnedSchedule, default=LinearAnnealing, optional=True),
]
"""The same, or what a learned schedule is made of."""


class LearnedAnnealing(nn.Module):
    """s(t) of some fields from networks of time and features; zero before training.

    Args:
        settings: Size, fields and features.
    """

    def __init__(self, settings: LearnedSchedule) -> None:
        super().__init__()
        fields, inputs = settings.fields, 1 + len(settings.features)
        outputs = settings.hidden if settings.shared else 1
        if settings.shared:
            self.trunk = time_mlp(settings.hidden, settings.layers, outputs, inputs)
            self.heads = nn.ModuleDict({field: nn.Linear(outputs, 1) for field in fields})
        else:
            heads = {str(field): time_mlp(settings.hidden, settings.layers, inputs=inputs) for field in fields}
            self.heads = nn.ModuleDict(heads)
        self.settings = settings
        for head in self.heads.values():
            zero_output(head if settings.shared else head[-1])  # type: ignore[index]

    def value(
        self, field: FieldName, t: Tensor, crystals: CrystalBatch | None = None, dt: Tensor | None = None
    ) -> Tensor:
        """s(t); the arguments are those of `Annealing.factor`.

        Raises:
            ModelError: It depends on crystals or on the step's length, and these are not given.
        """
        if field not in self.heads:
            return torch.zeros_like(t)
        if not self.settings.features:
            return at_times(self._network(field), t)
        features = features_of(self.settings.features, t, crystals, dt)
        return self.given(field, t.expand(features.shape[:-1]), features)

    def given(self, field: FieldName, t: Tensor, features: Tensor) -> Tensor:
        """s(t) (n,) at times (n,) with features (n, F)."""
        if field not in self.heads:
            return torch.zeros_like(t)
        return self._network(field)(torch.cat([t[..., None], features], dim=-1))[..., 0]

    def _network(self, field: FieldName) -> nn.Module:
        head = self.heads[field]
        return nn.Sequential(self.trunk, head) if self.settings.shared else head

    def factor(
        self, field: FieldName, t: Tensor, crystals: CrystalBatch | None = None, dt: Tensor | None = None
    ) -> Tensor:
        """1 + s(t); the arguments are those of `Annealing.factor`."""
        return 1.0 + self.value(field, t, crystals, dt)

    def times(self, steps: int) -> Tensor:
        """Equal steps."""
        return time_grid(steps)


def describe(annealing: Annealing | None) -> dict[str, Any] | None:
    """What an annealing is, ready for JSON, the same for two only if they are; of learned weights their checksum.

    All that leave the velocity and the grid as they are, are described as one.
    """
    if annealing is None:
        return None
    if isinstance(annealing, HandMadeAnnealing) and annealing.pos == annealing.cell == 0.0:
        return {"kind": "none"}
    if isinstance(annealing, StepSizes) and annealing.power == 1.0:
        return {"kind": "none"}
    if isinstance(annealing, LearnedAnnealing):
        digest = hashlib.sha256()
        for name, value in sorted(annealing.state_dict().items()):
            digest.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
        return annealing.settings.model_dump(mode="json") | {"weights_sha256": digest.hexdigest()}
    assert isinstance(annealing, Settings)
    return annealing.model_dump(mode="json")


@torch.no_grad()
def curves(annealing: Annealing) -> list[Curve]:
    """1 + s(t) for pictures and files: one curve, or where s depends on features, one for each of some examples."""
    t = torch.linspace(T_MIN, T_MAX, CURVE_POINTS)
    if isinstance(annealing, LearnedAnnealing):
        t = t.to(next(annealing.parameters()))
    if not isinstance(annealing, LearnedAnnealing) or not annealing.settings.features:
        return [Curve(of="", t=t.tolist(), **{field: annealing.factor(field, t).tolist() for field in FIELDS})]
    found = []
    for label, features in examples(annealing.settings.features):
        rows = torch.tensor(features).to(t).expand(len(t), -1)
        values = {field: (1.0 + annealing.given(field, t, rows)).tolist() for field in FIELDS}
        found.append(Curve(of=label, t=t.tolist(), **values))
    return found
