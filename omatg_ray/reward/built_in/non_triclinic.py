"""Reward of 1 for a crystal that is not triclinic. All symmetry rewards share `reward.symprec`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from omatg_ray.reward import options

if TYPE_CHECKING:
    from omatg_ray.reward.protocol import Once, Reward


class Options(options.Options):
    """A space group above P-1."""

    def build(self, materials: options.Materials) -> Reward:
        return symmetry(materials)


def symmetry(materials: options.Materials) -> Once:
    """Return the reward that finds space groups, shared by all rewards that need them."""
    from omatg_ray.reward.protocol import Once
    from omatg_ray.reward.symmetry import NonTriclinic

    settings, shared = materials.settings, materials.shared
    if "symmetry" not in shared:
        shared["symmetry"] = Once(NonTriclinic(settings.symprec, workers=settings.workers, timeout=settings.timeout))
    return shared["symmetry"]
