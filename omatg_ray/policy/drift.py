"""Drifts: what a policy's mean action per unit of time is, as a function of the state.

A policy variant is its drift; adding one is a small class with the same method.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.crystal.fields import FieldName, Fields
from omatg_ray.flow.network import CSPNet
from omatg_ray.policy.annealing import LinearAnnealing


class Drift(Protocol):
    """Mean action per unit of time of the fields asked for, at one time for all structures () or one for each (B,)."""

    def __call__(self, crystals: CrystalBatch, t: Tensor, fields: Sequence[FieldName]) -> Fields: ...


class VelocityDrift:
    """The network's velocity b_θ(t, x): actions are displacements, positions (sum N, 3) and lattices (B, 3, 3)."""

    def __init__(self, network: CSPNet) -> None:
        self.network = network

    def __call__(self, crystals: CrystalBatch, t: Tensor, fields: Sequence[FieldName]) -> Fields:
        out = self.network(crystals, t)
        return {field: out.pos_b if field == "pos" else out.cell_b for field in fields}


class AnnealedDrift:
    """Another drift multiplied by 1 + s(t)."""

    def __init__(self, drift: Drift, annealing: LinearAnnealing) -> None:
        self.drift, self.annealing = drift, annealing

    def __call__(self, crystals: CrystalBatch, t: Tensor, fields: Sequence[FieldName]) -> Fields:
        rates = self.drift(crystals, t, fields)
        t = t.expand(len(crystals))
        for field, rate in rates.items():
            factor = self.annealing.factor(field, t)
            factor = factor.index_select(0, crystals.batch)[:, None] if field == "pos" else factor[:, None, None]
            rates[field] = factor * rate
        return rates
