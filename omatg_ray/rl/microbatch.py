"""Microbatches: blocks of structures and steps of bounded size, which a learner computes one by one."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.rl.rollout import Trajectory

Cut = tuple[slice, slice]
"""Consecutive structures at consecutive steps."""


@dataclass(frozen=True)
class Microbatch:
    """Structures of `trajectory` at a span of the steps learned from, as one batch for the network.

    Attributes:
        trajectory: The structures.
        steps: The span, among the steps learned from.
        crystals: States before these steps, step by step.
        advantage: Advantages of the structures.
        weight: Weight of one structure at one step in the mean over all learners.
    """

    trajectory: Trajectory
    steps: slice
    crystals: CrystalBatch
    advantage: Tensor
    weight: float


class Part:
    """The part of an iteration that one learner learns from.

    Args:
        trajectory: Its structures.
        advantage: Their advantages (B,).
        total: Number of structures of all learners.
    """

    def __init__(self, trajectory: Trajectory, advantage: Tensor, total: int) -> None:
        self.trajectory, self._advantage, self._total = trajectory, advantage, total
        # States before the steps learned from.
        self._pos, self._cell = (trajectory.of_learned(values) for values in trajectory.states())
        self._shared: tuple[slice, Trajectory, slice, Tensor] | None = None
        self._tiled: CrystalBatch | None = None

    def cuts(self, limit: int) -> list[Cut]:
        """Cut structures × steps into blocks of at most `limit` ordered pairs of atoms, at least one of each."""
        sizes, n_steps = self.trajectory.x_0.layout.sizes, self.trajectory.n_learned
        pairs = list(accumulate((size * size for size in sizes), initial=0))
        blocks, start = list[Cut](), 0
        while start < len(sizes):
            stop = max(start + 1, bisect_right(pairs, pairs[start] + limit) - 1)
            each = max(1, limit // (pairs[stop] - pairs[start]))
            for first in range(0, n_steps, each):
                blocks.append((slice(start, stop), slice(first, min(first + each, n_steps))))
            start = stop
        return blocks

    def forget(self) -> None:
        """Release the tensors that microbatches of the same structures share."""
        self._shared = self._tiled = None

    def microbatch(self, cut: Cut) -> Microbatch:
        """Build a microbatch. Microbatches of the same structures share what does not differ between steps."""
        whole, (structures, steps) = self.trajectory, cut
        if self._shared is None or self._shared[0] != structures:
            self.forget()
            rows = torch.arange(structures.start, structures.stop)
            selected = whole if len(rows) == len(whole) else whole.select(rows)
            atoms = slice(*whole.x_0.ptr[[structures.start, structures.stop]].tolist())
            self._shared = structures, selected, atoms, self._advantage[structures].to(self._pos)
        _, part, atoms, advantage = self._shared
        if self._tiled is None or len(self._tiled) != (steps.stop - steps.start) * len(part):
            self._tiled = part.x_0.tile(steps.stop - steps.start)
        pos, cell = self._pos[steps, atoms].flatten(0, 1), self._cell[steps, structures].flatten(0, 1)
        species = None if part.species is None else part.of_learned(part.species)[steps].flatten()
        crystals = self._tiled.replace(pos, cell, species)
        return Microbatch(part, steps, crystals, advantage, 1.0 / (whole.n_learned * self._total))
