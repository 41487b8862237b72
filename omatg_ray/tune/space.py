"""Domains of the keys of a sweep. Imports no Ray."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydantic import Field, model_serializer, model_validator

from omatg_ray.settings import Settings


class Domain(Settings):
    """The values that a key may have: exactly one of these."""

    uniform: tuple[float, float] | None = Field(None, description="between two numbers")
    loguniform: tuple[float, float] | None = Field(None, description="between two numbers, uniform in the logarithm")
    quniform: tuple[float, float, float] | None = Field(None, description="between two numbers, in steps of the third")
    randint: tuple[int, int] | None = Field(None, description="integers from the first to the second (excluded)")
    choice: list[Any] | None = Field(None, min_length=1, description="one of these")
    grid: list[Any] | None = Field(None, min_length=1, description="each of these in turn")

    @model_validator(mode="after")
    def _one(self) -> Domain:
        names = [name for name in type(self).model_fields if getattr(self, name) is not None]
        if len(names) != 1:
            raise ValueError(
                f"give exactly one of {', '.join(type(self).model_fields)}, e.g. {{loguniform: [1e-4, 1e-3]}}"
            )
        limits = getattr(self, names[0])
        if names[0] in ("choice", "grid"):
            return self
        if not limits[0] < limits[1]:
            raise ValueError(f"{names[0]}: the first limit must be below the second, not {list(limits[:2])}")
        if self.loguniform is not None and limits[0] <= 0:
            raise ValueError(f"loguniform: limits must be above 0, not {list(limits)}")
        if self.quniform is not None and not 0 < limits[2] <= limits[1] - limits[0]:
            raise ValueError(f"quniform: the step {limits[2]} must be above 0 and fit between the limits")
        return self

    @model_serializer
    def _as_given(self) -> dict[str, Any]:
        return {self.kind: self.values}

    @property
    def kind(self) -> str:
        """Name of the field that is set."""
        return next(name for name in type(self).model_fields if getattr(self, name) is not None)

    @property
    def values(self) -> Any:
        """Value of that field."""
        return getattr(self, self.kind)

    @property
    def ends(self) -> list[Any]:
        """The values at its ends; for a list, all values."""
        if self.randint is not None:
            return [self.randint[0], self.randint[1] - 1]
        return list(self.values) if self.kind in ("choice", "grid") else list(self.values[:2])

    @property
    def inside(self) -> Any:
        """A value between its ends; for a list, the last value."""
        if self.kind in ("choice", "grid"):
            return self.values[-1]
        low, high = self.ends
        if self.randint is not None:
            return (low + high) // 2
        return low + (self.quniform[2] if self.quniform is not None else 0.382 * (high - low))

    def mapped(self, change: Callable[[Any], Any]) -> Domain:
        """Apply a change to the values of a list; ranges stay as they are."""
        if self.kind not in ("choice", "grid"):
            return self
        return self.model_copy(update={self.kind: [change(value) for value in self.values]})

    def nearest(self, value: Any) -> Any:
        """Clip a value to the limits, after rounding it to a step if there are steps. Lists leave it as it is."""
        if self.kind in ("choice", "grid"):
            return value
        if self.quniform is not None:
            value = round(value / self.quniform[2]) * self.quniform[2]
        low, high = self.ends
        return min(max(value, low), high)
