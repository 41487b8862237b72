"""Drifts: what a policy's mean action per unit of time is, as a function of the state.

A policy variant is its drift. This module has the one that needs nothing but the velocity network; adding another is
one small class with the same method.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.crystal.fields import FieldName, Fields
from omatg_ray.flow.network import CSPNet


class Drift(Protocol):
    """Mean action per unit of time."""

    def __call__(self, crystals: CrystalBatch, t: Tensor, fields: Sequence[FieldName]) -> Fields: ...


class VelocityDrift:
    """The network's velocity b_θ(t, x): actions are displacements, positions (sum N, 3) and lattices (B, 3, 3)."""

    def __init__(self, network: CSPNet) -> None:
        self.network = network

    def __call__(self, crystals: CrystalBatch, t: Tensor, fields: Sequence[FieldName]) -> Fields:
        out = self.network(crystals, t)
        return {field: out.pos_b if field == "pos" else out.cell_b for field in fields}
