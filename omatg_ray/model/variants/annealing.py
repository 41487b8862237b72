"""Trains the schedule s(t) in (1 + s(t)) · velocity of the frozen base."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from omatg_ray.model.variant import Variant

if TYPE_CHECKING:
    from omatg_ray.model.flow_model import FlowModel
    from omatg_ray.policy.drift import Drift
    from omatg_ray.policy.policy import Policy
    from omatg_ray.policy.schedule import Schedule


class AnnealingVariant(Variant):
    """Variant that trains s(t) in (1 + s(t)) · velocity."""

    learns: ClassVar = {}
    learns_schedule = True

    def drift(self, model: FlowModel, schedule: Schedule | None) -> Drift:
        from omatg_ray.policy.drift import Scale

        return Scale(schedule)

    def policy(self, model: FlowModel, schedule: Schedule | None) -> Policy:
        """Return the policy of a model; frozen fields follow the base without the schedule."""
        from omatg_ray.policy.policy import Policy

        description, base = model.description, model.base_network
        drift, species = self.drift(model, schedule), description.paths.species
        return Policy(drift, base, base, description.active, model.noise, species=species)

    def start(self, start: FlowModel, best: FlowModel) -> FlowModel:
        """Return the base without the schedule, since the schedule is what was learned."""
        return start


VARIANT = AnnealingVariant()
