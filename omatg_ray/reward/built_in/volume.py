"""Reward for a volume per atom close to a target."""

from __future__ import annotations

from typing import TYPE_CHECKING

from omatg_ray.reward.built_in.density import TargetOptions
from omatg_ray.reward.options import Materials

if TYPE_CHECKING:
    from omatg_ray.reward.protocol import Reward


class Options(TargetOptions):
    """Volume in Å³ per atom."""

    def build(self, materials: Materials) -> Reward:
        from omatg_ray.reward.target import TargetVolume

        assert self.target is not None
        return TargetVolume(self.target, self.scale)
