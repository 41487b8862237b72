"""Processes that train one network together, as one of them knows the others; pretraining and learners alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Protocol

import torch
import torch.distributed as dist
from torch import Tensor


class ProcessGroup(Protocol):
    """The processes that train one network. All of them must make the same calls in the same order."""

    @property
    def rank(self) -> int:
        """Which of them this one is, from 0."""
        ...

    @property
    def size(self) -> int:
        """How many they are."""
        ...

    def exchange(self, said: Mapping[str, Any]) -> list[dict[str, Any]]:
        """What each of them says, in the order of their ranks; values as JSON has them."""
        ...

    def sum(self, values: Tensor) -> Tensor:
        """Sum over them, the same bits on all."""
        ...


class SingleProcess:
    """The group of a process that trains alone."""

    rank: Final = 0
    size: Final = 1

    def exchange(self, said: Mapping[str, Any]) -> list[dict[str, Any]]:
        return [dict(said)]

    def sum(self, values: Tensor) -> Tensor:
        return values


class DefaultProcessGroup:
    """The default process group of torch.distributed, which must be set up."""

    def __init__(self) -> None:
        self.rank, self.size = dist.get_rank(), dist.get_world_size()

    def exchange(self, said: Mapping[str, Any]) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = [{} for _ in range(self.size)]
        dist.all_gather_object(found, dict(said))
        return found

    def sum(self, values: Tensor) -> Tensor:
        total = values.clone()
        dist.all_reduce(total)
        return total


def share_of(n: int, rank: int, size: int) -> Tensor:
    """Which of n rows a process computes; every row is in the share of one of them, and a share may be empty."""
    return torch.arange(n).tensor_split(size)[rank]
