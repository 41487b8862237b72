"""Small networks of time for learned schedules."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


def time_mlp(hidden: int, layers: int, outputs: int = 1, inputs: int = 1) -> nn.Sequential:
    """Build Linear(inputs, h), SiLU, `layers` times [Linear(h, h), SiLU], Linear(h, outputs).

    It maps (..., inputs) to (..., outputs). With time as the only input, it has the architecture of OMatG's schedules,
    so their weights load.
    """
    parts: list[nn.Module] = [nn.Linear(inputs, hidden), nn.SiLU()]
    for _ in range(layers):
        parts += [nn.Linear(hidden, hidden), nn.SiLU()]
    return nn.Sequential(*parts, nn.Linear(hidden, outputs))


def at_times(network: Callable[[Tensor], Tensor], t: Tensor) -> Tensor:
    """Evaluate a network that maps (n, 1) to (n, 1) at times of any shape, once for each distinct time.

    A learner's block holds few times and many structures at each.
    """
    if t.numel() < 2:  # Nothing to gain, and finding distinct values waits for the device.
        return network(t.reshape(-1, 1)).view_as(t)
    times, index = torch.unique(t, return_inverse=True)
    return network(times[:, None])[:, 0][index]


def zero_output(layer: nn.Module) -> None:
    """Make a linear layer return zero for any input, while its weights can still learn."""
    assert isinstance(layer, nn.Linear)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
