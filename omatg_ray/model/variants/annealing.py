"""The schedule that multiplies the frozen base's velocity is trained."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from omatg_ray.model.variant import Variant

if TYPE_CHECKING:
    from omatg_ray.model.flow_model import FlowModel
    from omatg_ray.policy.drift import Drift
    from omatg_ray.policy.policy import Policy
    from omatg_ray.policy.schedule import Schedule


class AnnealingVariant(Variant):
    """Trains s(t) in (1 + s(t)) · velocity."""

    learns: ClassVar = {}
    learns_schedule = True

    def drift(self, model: FlowModel, schedule: Schedule | None) -> Drift:
        from omatg_ray.policy.drift import Scale

        return Scale(schedule)

    def policy(self, model: FlowModel, schedule: Schedule | None) -> Policy:
        """Frozen fields follow the base as it is."""
        from omatg_ray.policy.policy import Policy

        what, base = model.description, model.base_network
        return Policy(self.drift(model, schedule), base, base, what.active, model.noise, species=what.paths.species)

    def start(self, start: FlowModel, best: FlowModel) -> FlowModel:
        """The base without the schedule, which is what was learned."""
        return start


VARIANT = AnnealingVariant()
