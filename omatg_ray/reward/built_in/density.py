"""Reward for a density close to a target."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from omatg_ray.reward import options

if TYPE_CHECKING:
    from omatg_ray.reward.protocol import Reward


class Options(options.Options):
    """Density in g/cm³."""

    # Closeness to a target: -d / (1 + d) with d = |x - target| / scale.
    target: float | None = Field(None, gt=0, description="target value; required if the reward has a weight")
    scale: float = Field(1.0, gt=0, description="distance from the target at which the reward is -1/2")

    has_gradient = True
    quantity: ClassVar = "density"

    def missing(self) -> str | None:
        return "target" if self.target is None else None

    def build(self, materials: options.Materials) -> Reward:
        from omatg_ray.reward.target import Target

        assert self.target is not None
        return Target(self.quantity, self.target, self.scale)
