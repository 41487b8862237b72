"""Learners that share an update, as one of them knows the others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from torch import Tensor


class ProcessGroup(Protocol):
    """The learners that train one policy together, which must make the same calls in the same order."""

    @property
    def size(self) -> int:
        """How many they are."""
        ...

    def exchange(self, said: Mapping[str, Any]) -> list[dict[str, Any]]:
        """What every learner says, in the order of their ranks; values as JSON has them."""
        ...

    def sum(self, values: Tensor) -> Tensor:
        """Sum over the learners, the same bits on all of them."""
        ...


class SingleProcess:
    """The process_group of a learner that has none."""

    size = 1

    def exchange(self, said: Mapping[str, Any]) -> list[dict[str, Any]]:
        return [dict(said)]

    def sum(self, values: Tensor) -> Tensor:
        return values
