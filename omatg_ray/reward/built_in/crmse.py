"""Reward for a small distance to a known polymorph of the composition."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from omatg_ray.reward import options
from omatg_ray.run.location_keys import LocalFile

if TYPE_CHECKING:
    from omatg_ray.reward.protocol import Reward


class Options(options.Options):
    """Matching with known polymorphs."""

    references: LocalFile | None = Field(None, description="data set of known polymorphs; null: the training split")
    ltol: float = Field(0.3, gt=0, description="StructureMatcher's fractional tolerance of the cell lengths")
    stol: float = Field(0.5, gt=0, description="StructureMatcher's tolerance of the sites; also the RMSE of no match")
    angle_tol: float = Field(10.0, gt=0, description="StructureMatcher's tolerance of the cell angles in degrees")

    needs_known = True
    needs_references = True

    def build(self, materials: options.Materials) -> Reward:
        from omatg_ray.crystal.read import read_dataset
        from omatg_ray.reward.crmse import PolymorphMatch
        from omatg_ray.reward.matching import MatchSettings

        known, settings = materials.known.crystals, materials.settings
        references = known if self.references is None else read_dataset(self.references).crystals
        tolerances = MatchSettings(self.ltol, self.stol, self.angle_tol)
        reward = PolymorphMatch(references, tolerances, workers=settings.workers, timeout=settings.timeout)
        reward.require(known)
        return reward
