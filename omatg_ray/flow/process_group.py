"""Groups of processes that train one network together, for pretraining and learners alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Protocol

import torch
import torch.distributed as dist
from torch import Tensor


class ProcessGroup(Protocol):
    """Processes that train one network. All of them must make the same calls in the same order."""

    @property
    def rank(self) -> int:
        """Return the index of this process, from 0."""
        ...

    @property
    def size(self) -> int:
        """Return the number of processes."""
        ...

    def exchange(self, said: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return the messages of all processes, in rank order; values are of JSON's types."""
        ...

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum over all processes, bitwise the same on each."""
        ...


class SingleProcess:
    """Group of a process that trains alone."""

    rank: Final = 0
    size: Final = 1

    def exchange(self, said: Mapping[str, Any]) -> list[dict[str, Any]]:
        return [dict(said)]

    def sum(self, values: Tensor) -> Tensor:
        return values


class DefaultProcessGroup:
    """Default process group of torch.distributed, which must be initialised."""

    def __init__(self) -> None:
        self.rank, self.size = dist.get_rank(), dist.get_world_size()

    def exchange(self, said: Mapping[str, Any]) -> list[dict[str, Any]]:
        messages: list[dict[str, Any]] = [{} for _ in range(self.size)]
        dist.all_gather_object(messages, dict(said))
        return messages

    def sum(self, values: Tensor) -> Tensor:
        total = values.clone()
        dist.all_reduce(total)
        return total


def share_of(n: int, rank: int, size: int) -> Tensor:
    """Return the rows, of n, that a process computes. Each row is in exactly one share; a share may be empty."""
    return torch.arange(n).tensor_split(size)[rank]
