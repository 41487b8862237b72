"""The two generated fields of a crystal with given species."""

from __future__ import annotations

from torch import Tensor

from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.crystal.lattice import wrap
from omatg_ray.settings import FIELDS, FieldName

__all__ = ["FIELDS", "FieldName", "Fields", "displace"]

Fields = dict[FieldName, Tensor]


def displace(crystals: CrystalBatch, displacement: Fields) -> CrystalBatch:
    """Displace positions (sum N, 3) and lattices (B, 3, 3) of crystals; the new positions are wrapped."""
    return crystals.replace(wrap(crystals.pos + displacement["pos"]), crystals.cell + displacement["cell"])
