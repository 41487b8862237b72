"""Microbatches: blocks of structures and steps of bounded size, which a learner computes one by one."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.model.sampling import chunks_by_pairs
from omatg_ray.reward.gradient import Gradient
from omatg_ray.rl.rollout import Trajectory

Cut = tuple[slice, slice]
"""Consecutive structures at consecutive steps."""


def spans_by_pairs(sizes: Sequence[int], limit: int) -> list[slice]:
    """Cut structures of some numbers of atoms into spans of at most `limit` ordered pairs of atoms, or one."""
    return [slice(chunk[0], chunk[-1] + 1) for chunk in chunks_by_pairs(sizes, limit)]


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
        advantage: Their advantages (B,); None: there is no policy gradient.
        total: Number of structures of all learners.
        gradient: Gradients of their rewards; None: they are not learned from.
    """

    def __init__(
        self, trajectory: Trajectory, advantage: Tensor | None, total: int, gradient: Gradient | None = None
    ) -> None:
        self.trajectory, self._total, self._gradient = trajectory, total, gradient
        self._advantage = torch.zeros(len(trajectory)) if advantage is None else advantage
        self._by_policy, states = advantage is not None, trajectory.states()
        # Only a replay needs those of all steps.
        self._states = states if gradient is not None else None
        # States before the steps learned from.
        self._pos, self._cell = (trajectory.of_learned(values) for values in states)
        self._shared: tuple[slice, Trajectory, slice, Tensor] | None = None
        self._tiled: CrystalBatch | None = None

    def cuts(self, limit: int) -> list[Cut]:
        """Cut structures × steps into blocks of at most `limit` ordered pairs of atoms, at least one of each."""
        if not self._by_policy:
            return []
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

    def spans(self, limit: int) -> list[slice]:
        """Cut the structures with reward gradients into spans of at most `limit` ordered pairs of atoms, or one."""
        if self._gradient is None:
            return []
        return spans_by_pairs(self.trajectory.x_0.layout.sizes, limit)

    def replay(self, span: slice) -> tuple[Trajectory, tuple[Tensor, Tensor], Gradient, float]:
        """Return the trajectories of a span, their states, the gradients of their rewards, and the weight of each."""
        assert self._gradient is not None
        assert self._states is not None
        x_0, rows = self.trajectory.x_0, torch.arange(span.start, span.stop)
        atoms = slice(*x_0.ptr[[span.start, span.stop]].tolist())
        pos, cell = self._states
        gradient = self._gradient.select(rows, x_0.layout)
        return self.trajectory.select(rows), (pos[:, atoms], cell[:, span]), gradient, 1.0 / self._total

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
