"""Which of several processes that train one network this one is, and what they tell each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """One of `size` data-parallel processes; by itself, one of one, which needs no process group.

    The others are met in the default process group of torch.distributed, which must be set up. Its calls wait for all
    ranks, so that all must make the same calls in the same order.
    """

    rank: int = 0
    size: int = 1

    @classmethod
    def of_group(cls) -> Ranks:
        """This process in the default process group."""
        return cls(dist.get_rank(), dist.get_world_size())

    def share(self, n: int) -> Tensor:
        """Which of n rows this rank computes; every row is in the share of one rank, and a share may be empty."""
        return torch.arange(n).tensor_split(self.size)[self.rank]

    def sum(self, values: Tensor) -> Tensor:
        """Sum over the ranks, the same on all of them."""
        if self.size > 1:
            values = values.clone()
            dist.all_reduce(values)
        return values

    def from_first(self, value: T) -> T:
        """What rank 0 gave, an object that can be pickled; what the others give is not looked at."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]


ALONE = Ranks()
