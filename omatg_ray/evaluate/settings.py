"""Settings of evaluations."""

from __future__ import annotations

from pydantic import Field

from omatg_ray.settings import Settings

BLOCK = 256
"""Crystals generated, matched and weighed together, unless the caller says otherwise.

Sums depend on it in their last bits, so that the number of workers has no part in it.
"""


class TriedSettings(Settings):
    """What is tried for hand-made schedules."""

    pos: list[float] = Field([0.0, 1.0, 2.0, 5.0, 10.0], min_length=1, description="slopes for positions")
    cell: list[float] = Field([0.0, 1.0, 2.0, 5.0], min_length=1, description="slopes for lattices")
    power: list[float] = Field([0.5, 0.75, 1.0, 1.5, 2.0], min_length=1, description="powers of unequal steps")


BEST = "best hand-made"


def ways_of(name: str, count: int) -> list[str]:
    """What the versions of a learned schedule are called."""
    return [name] if count == 1 else [f"{name} {number}" for number in range(count)]
