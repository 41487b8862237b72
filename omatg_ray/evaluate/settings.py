"""Settings of evaluations."""

from __future__ import annotations

from pydantic import Field

from omatg_ray.settings import Settings

BLOCK = 256
"""Crystals generated, matched and weighed together, unless the caller says otherwise.

The last bits of sums depend on it, so it does not depend on the number of workers.
"""


class TriedSettings(Settings):
    """Values to try for hand-made schedules."""

    pos: list[float] = Field([0.0, 1.0, 2.0, 5.0, 10.0], min_length=1, description="slopes for positions")
    cell: list[float] = Field([0.0, 1.0, 2.0, 5.0], min_length=1, description="slopes for lattices")
    power: list[float] = Field([0.5, 0.75, 1.0, 1.5, 2.0], min_length=1, description="powers of unequal steps")


BEST = "best hand-made"


def ways_of(name: str, count: int) -> list[str]:
    """Return the names of the versions of a learned schedule."""
    return [name] if count == 1 else [f"{name} {number}" for number in range(count)]
