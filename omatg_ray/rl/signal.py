"""What an iteration is learned from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from omatg_ray.crystal.batch import Layout
from omatg_ray.flow.examples import Examples
from omatg_ray.flow.process_group import share_of
from omatg_ray.reward.gradient import Gradient


@dataclass(frozen=True)
class Signal:
    """What an iteration is learned from, on the CPU.

    Attributes:
        counted: Indices (b,) of the structures to learn from, over all items.
        advantage: Their advantages (b,); None: there is no policy gradient.
        gradient: Gradients of their rewards; None: not learned from.
        examples: Examples of flow matching, by source (`rl.settings.MATCHING`, `REPLAY`), epoch by epoch.
    """

    counted: Tensor
    advantage: Tensor | None = None
    gradient: Gradient | None = None
    examples: Mapping[str, Sequence[Examples]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        """Whether there is anything to learn from."""
        return bool(len(self.counted)) or bool(self.examples)

    def share(self, counted: Tensor, positions: Tensor, layout: Layout, rank: int, size: int) -> Signal:
        """Return what one of several learners learns from.

        Args:
            counted: Indices of its structures, over the items that it gets.
            positions: Positions of these structures in `self.counted`.
            layout: Numbers of atoms of the structures of `self.counted`.
            rank: Its rank.
            size: Number of learners.
        """
        return Signal(
            counted,
            None if self.advantage is None else self.advantage[positions],
            None if self.gradient is None else self.gradient.select(positions, layout),
            {name: [of.select(share_of(len(of), rank, size)) for of in each] for name, each in self.examples.items()},
        )

    def examples_on(self, device: torch.device) -> dict[str, list[Examples]]:
        """Return the examples on a device."""
        return {name: [of.to(device) for of in each] for name, each in self.examples.items()}
