"""Reward of 1 for a crystal that is neither triclinic nor has a centre of inversion."""

from __future__ import annotations

from typing import TYPE_CHECKING

from omatg_ray.reward import options
from omatg_ray.reward.built_in.non_triclinic import symmetry

if TYPE_CHECKING:
    from omatg_ray.reward.protocol import Reward


class Options(options.Options):
    """A space group above P-1 without a centre of inversion."""

    def build(self, materials: options.Materials) -> Reward:
        from omatg_ray.reward.symmetry import NonCentrosymmetric

        return NonCentrosymmetric(symmetry(materials))
