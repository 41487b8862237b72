"""Reward of minus the energy per atom. All energy rewards share the potential, `invalid_energy` and `relax_steps`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from omatg_ray.reward import options

if TYPE_CHECKING:
    from omatg_ray.reward.protocol import Reward


class Options(options.Options):
    """Minus the energy per atom."""

    needs_potential = True
    has_gradient = True

    def build(self, materials: options.Materials) -> Reward:
        return materials.energy
