"""The velocity is trained."""

from __future__ import annotations

from typing import TYPE_CHECKING

from omatg_ray.model.variant import Variant

if TYPE_CHECKING:
    from omatg_ray.model.flow_model import FlowModel
    from omatg_ray.policy.annealing import Annealing
    from omatg_ray.policy.drift import Drift


class VelocityVariant(Variant):
    """Trains the velocity b."""

    def drift(self, model: FlowModel, annealing: Annealing | None) -> Drift:
        from omatg_ray.policy.drift import annealed_velocity

        return annealed_velocity(annealing)


VARIANT = VelocityVariant()
