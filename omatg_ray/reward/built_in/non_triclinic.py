"""1 for a crystal that is not triclinic; `reward.symprec` belongs to all rewards of symmetry."""

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
    """What finds space groups, once for all rewards that ask for them."""
    from omatg_ray.reward.protocol import Once
    from omatg_ray.reward.symmetry import NonTriclinic

    if "symmetry" not in materials.shared:
        settings = materials.settings
        found = NonTriclinic(settings.symprec, workers=settings.workers, timeout=settings.timeout)
        materials.shared["symmetry"] = Once(found)
    return materials.shared["symmetry"]
