"""Trains the schedule s(t) in (1 + s(t)) · velocity of the frozen base."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from omatg_ray.model.variant import Variant

if TYPE_CHECKING:
    from omatg_ray.model.flow_model import FlowModel
    from omatg_ray.policy.drift import Drift
    from omatg_ray.policy.schedule import Schedule


class AnnealingVariant(Variant):
    """Variant that trains s(t) in (1 + s(t)) · velocity."""

    learns: ClassVar = {}
    learns_schedule = True

    def drift(self, model: FlowModel, schedule: Schedule | None) -> Drift:
        from omatg_ray.policy.drift import Scale

        return Scale(schedule)


VARIANT = AnnealingVariant()
