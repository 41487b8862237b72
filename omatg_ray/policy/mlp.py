"""The small networks of time alone that learned schedules are made of."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


def time_mlp(hidden: int, layers: int, outputs: int = 1, inputs: int = 1) -> nn.Sequential:
    """Linear(inputs, h), SiLU, `layers` times Linear(h, h), SiLU, Linear(h, outputs): (..., inputs) to (..., outputs).

    With times as its one input, it is the architecture of OMatG's schedules, so that their weights load.
    """
    parts: list[nn.Module] = [nn.Linear(inputs, hidden), nn.SiLU()]
    for _ in range(layers):
        parts += [nn.Linear(hidden, hidden), nn.SiLU()]
    return nn.Sequential(*parts, nn.Linear(hidden, outputs))


def at_times(network: Callable[[Tensor], Tensor], t: Tensor) -> Tensor:
    """What a network that maps (n, 1) to (n, 1) gives at times of any shape, asked for each distinct one once.

    A learner's block holds few times and many structures at each.
    """
    if t.numel() < 2:  # Nothing to gain, and finding distinct values waits for the device.
        return network(t.reshape(-1, 1)).view_as(t)
    times, place = torch.unique(t, return_inverse=True)
    return network(times[:, None])[:, 0][place]


def zero_output(layer: nn.Module) -> None:
    """Makes a linear layer give zero, whatever its input, while its weights can still learn."""
    assert isinstance(layer, nn.Linear)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
