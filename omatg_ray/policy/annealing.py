"""Velocity annealing: the velocity of a field is multiplied by 1 + s(t), with s made by hand or learned.

Source: OMatG (Höllmer et al., 2025) for linear s; OMatG-IRL (arXiv 2602.00424) for learned s.
"""

from __future__ import annotations

from typing import Literal, Protocol

import torch
from pydantic import Field
from torch import Tensor, nn

from omatg_ray.crystal.fields import FieldName
from omatg_ray.policy.mlp import at_times, time_mlp, zero_output
from omatg_ray.settings import Settings


class Annealing(Protocol):
    """s(t) of each field."""

    def factor(self, field: FieldName, t: Tensor) -> Tensor:
        """1 + s(t) at times t (any shape)."""
        ...


class LinearAnnealing(Settings):
    """s(t) = slope · t for each field. On MP-20, slopes near 10 (positions) and 1.8 (lattices) are known to help."""

    pos: float = Field(0.0, ge=-1.0, description="slope of s(t) for positions")
    cell: float = Field(0.0, ge=-1.0, description="slope of s(t) for lattices")

    def factor(self, field: FieldName, t: Tensor) -> Tensor:
        """1 + s(t) at times t (any shape)."""
        return 1.0 + getattr(self, field) * t


class ScheduleSettings(Settings):
    """A learned schedule s(t): a small network of time for each field."""

    hidden: int = Field(64, ge=1, description="width of the network")
    layers: int = Field(2, ge=0, description="hidden layers")
    shared: bool = Field(True, description="one trunk with a linear layer per field, instead of a network per field")


class LearnedSchedule(ScheduleSettings):
    """What a model's description says of a learned schedule."""

    kind: Literal["learned"] = Field("learned", description="tells it from slopes")
    fields: list[FieldName] = Field(description="fields that have a schedule; the others keep s = 0")


class LearnedAnnealing(nn.Module):
    """s(t) of some fields from networks of time; zero before training.

    Args:
        settings: Size and fields.
    """

    def __init__(self, settings: LearnedSchedule) -> None:
        super().__init__()
        fields = settings.fields
        outputs = settings.hidden if settings.shared else 1
        if settings.shared:
            self.trunk = time_mlp(settings.hidden, settings.layers, outputs)
            self.heads = nn.ModuleDict({field: nn.Linear(outputs, 1) for field in fields})
        else:
            self.heads = nn.ModuleDict({field: time_mlp(settings.hidden, settings.layers) for field in fields})
        self.shared = settings.shared
        for head in self.heads.values():
            zero_output(head if settings.shared else head[-1])  # type: ignore[index]

    def value(self, field: FieldName, t: Tensor) -> Tensor:
        """s(t) at times t (any shape)."""
        if field not in self.heads:
            return torch.zeros_like(t)
        head = self.heads[field]
        return at_times(nn.Sequential(self.trunk, head) if self.shared else head, t)

    def factor(self, field: FieldName, t: Tensor) -> Tensor:
        """1 + s(t) at times t (any shape)."""
        return 1.0 + self.value(field, t)
