"""Trains the velocity."""

from __future__ import annotations

from typing import TYPE_CHECKING

from omatg_ray.model.variant import Variant

if TYPE_CHECKING:
    from omatg_ray.model.flow_model import FlowModel
    from omatg_ray.policy.drift import Drift
    from omatg_ray.policy.schedule import Schedule


class VelocityVariant(Variant):
    """Variant that trains the velocity b."""

    def drift(self, model: FlowModel, schedule: Schedule | None) -> Drift:
        from omatg_ray.policy.drift import annealed_velocity

        return annealed_velocity(schedule)


VARIANT = VelocityVariant()
