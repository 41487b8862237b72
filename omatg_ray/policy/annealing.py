"""Hand-made velocity annealing: the velocity of a field is multiplied by 1 + s(t)."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from omatg_ray.crystal.fields import FieldName
from omatg_ray.settings import Settings


class LinearAnnealing(Settings):
    """s(t) = slope · t for each field. On MP-20, slopes near 10 (positions) and 1.8 (lattices) are known to help."""

    pos: float = Field(0.0, ge=-1.0, description="slope of s(t) for positions")
    cell: float = Field(0.0, ge=-1.0, description="slope of s(t) for lattices")

    def factor(self, field: FieldName, t: Tensor) -> Tensor:
        """1 + s(t) at times t (any shape)."""
        return 1.0 + getattr(self, field) * t
