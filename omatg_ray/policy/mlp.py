"""The small networks of time alone that learned schedules are made of."""

from __future__ import annotations

from torch import nn


def time_mlp(hidden: int, layers: int, outputs: int = 1) -> nn.Sequential:
    """Linear(1, h), SiLU, `layers` times Linear(h, h), SiLU, then Linear(h, outputs): times (..., 1) to (..., outputs).

    The architecture is that of OMatG's schedules, so that their weights load.
    """
    parts: list[nn.Module] = [nn.Linear(1, hidden), nn.SiLU()]
    for _ in range(layers):
        parts += [nn.Linear(hidden, hidden), nn.SiLU()]
    return nn.Sequential(*parts, nn.Linear(hidden, outputs))


def zero_output(layer: nn.Module) -> None:
    """Makes a linear layer give zero, whatever its input, while its weights can still learn."""
    assert isinstance(layer, nn.Linear)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
