"""Reward for a volume per atom close to a target, with the keys of the density."""

from __future__ import annotations

from typing import ClassVar

from omatg_ray.reward.built_in import density


class Options(density.Options):
    """Volume in Å³ per atom."""

    quantity: ClassVar = "volume"
