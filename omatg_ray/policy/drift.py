"""Drifts: the mean action per unit of time of a policy, as a function of the network's outputs at a state.

Each policy variant has one (`omatg_ray/model/variants`). A new one is a small class with the methods of `Drift`;
`docs/policies.md` shows how to add it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping

from torch import Tensor, nn

from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.crystal.fields import FieldName
from omatg_ray.flow.loss import DENOISERS
from omatg_ray.flow.network import Output
from omatg_ray.policy.noise import Noise
from omatg_ray.policy.schedule import Schedule

Outputs = Mapping[Output, Tensor]
"""Requested outputs of a network: positions (sum N, 3), lattices (B, 3, 3)."""

VELOCITY: dict[FieldName, Output] = {"pos": "pos_b", "cell": "cell_b"}


class Drift(ABC):
    """Mean action per unit of time.

    Attributes:
        per_structure: Whether an action is one number for each structure and field, which multiplies the base's
            displacement. Otherwise it is a displacement, positions (sum N, 3) or lattices (B, 3, 3).
        depends_on_noise: Whether σ is part of the drift, so that the KL's reference has the same σ.
    """

    per_structure = False
    depends_on_noise = False

    @abstractmethod
    def outputs(self, field: FieldName) -> tuple[Output, ...]:
        """Return the names of the network outputs that a field needs."""

    @abstractmethod
    def rate(
        self, field: FieldName, outputs: Outputs, t: Tensor, crystals: CrystalBatch, dt: Tensor | None = None
    ) -> Tensor:
        """Return the mean action per unit of time.

        Args:
            field: Field.
            outputs: At least those of `outputs(field)`, at the state `crystals`.
            t: One time for all structures () or one for each (B,).
            crystals: Only their layout and species are used.
            dt: Length of the Euler step from t, () or (B,); None where there is no such step.
        """

    def noiseless(self) -> Drift:
        """Return the drift where no noise is added: this one, unless it compensates for the noise."""
        return self

    def reference(self) -> Drift:
        """Return the drift of the KL's reference, for the base network's outputs: this one, unless it is trained."""
        return self

    def trained(self) -> list[nn.Parameter]:
        """Return the trained weights besides those of the network."""
        return []


def of_rows(values: Tensor, field: FieldName, crystals: CrystalBatch) -> Tensor:
    """Shape one value for all structures () or one for each (B,) so that it multiplies the values of a field."""
    values = values.expand(len(crystals))
    if field == "pos":
        return values.index_select(0, crystals.batch)[:, None]
    return values[:, None, None]


class Velocity(Drift):
    """Velocity b: actions are displacements."""

    def outputs(self, field: FieldName) -> tuple[Output, ...]:
        return (VELOCITY[field],)

    def rate(
        self, field: FieldName, outputs: Outputs, t: Tensor, crystals: CrystalBatch, dt: Tensor | None = None
    ) -> Tensor:
        return outputs[VELOCITY[field]]


class Score(Drift):
    """b − σ² / (2 γ) η: with noise σ, the drift of a stochastic process with the flow's distribution at all times.

    Args:
        noise: σ(t) of each field.
        gamma: γ(t) of each field, the weight of the noise in the interpolant (OMatG's sign: the score is −η / γ).
        schedule: Multiplies b alone by 1 + s(t), as OMatG does when it samples a base as a stochastic process.
    """

    depends_on_noise = True

    def __init__(
        self,
        noise: Mapping[FieldName, Noise],
        gamma: Mapping[FieldName, Callable[[Tensor], Tensor]],
        schedule: Schedule | None = None,
    ) -> None:
        self.noise, self.gamma = noise, gamma
        self.velocity = annealed_velocity(schedule)

    def outputs(self, field: FieldName) -> tuple[Output, ...]:
        return VELOCITY[field], DENOISERS[field]

    def rate(
        self, field: FieldName, outputs: Outputs, t: Tensor, crystals: CrystalBatch, dt: Tensor | None = None
    ) -> Tensor:
        weight = self.noise[field].sigma(t).square() / (2.0 * self.gamma[field](t))
        velocity = self.velocity.rate(field, outputs, t, crystals, dt)
        return velocity - of_rows(weight, field, crystals) * outputs[DENOISERS[field]]

    def noiseless(self) -> Drift:
        """Return the flow, which has the same distribution as the process with noise."""
        return self.velocity


class Annealed(Drift):
    """Another drift multiplied by 1 + s(t), with s frozen.

    Args:
        drift: The drift to multiply.
        schedule: The schedule s(t).
    """

    def __init__(self, drift: Drift, schedule: Schedule) -> None:
        self.drift, self.schedule = drift, schedule

    def outputs(self, field: FieldName) -> tuple[Output, ...]:
        return self.drift.outputs(field)

    def rate(
        self, field: FieldName, outputs: Outputs, t: Tensor, crystals: CrystalBatch, dt: Tensor | None = None
    ) -> Tensor:
        factor = of_rows(self.schedule.factor(field, t, crystals, dt), field, crystals)
        return factor * self.drift.rate(field, outputs, t, crystals, dt)

    def noiseless(self) -> Drift:
        return Annealed(self.drift.noiseless(), self.schedule)

    def reference(self) -> Drift:
        return Annealed(self.drift.reference(), self.schedule)

    def trained(self) -> list[nn.Parameter]:
        return self.drift.trained()


def annealed_velocity(schedule: Schedule | None) -> Drift:
    """Return the velocity drift, multiplied by 1 + s(t) if there is a schedule."""
    return Velocity() if schedule is None else Annealed(Velocity(), schedule)


class Scale(Drift):
    """1 + s(t) with a trained schedule s: an action is a number that multiplies the base's velocity (annealing).

    Args:
        schedule: The schedule s(t); None is the unannealed reference.
    """

    per_structure = True

    def __init__(self, schedule: Schedule | None) -> None:
        self.schedule = schedule

    def outputs(self, field: FieldName) -> tuple[Output, ...]:
        return ()

    def rate(
        self, field: FieldName, outputs: Outputs, t: Tensor, crystals: CrystalBatch, dt: Tensor | None = None
    ) -> Tensor:
        factor = t.new_ones(t.shape) if self.schedule is None else self.schedule.factor(field, t, crystals, dt)
        return factor.expand(len(crystals))

    def reference(self) -> Drift:
        return Scale(None)

    def trained(self) -> list[nn.Parameter]:
        return list(self.schedule.parameters()) if isinstance(self.schedule, nn.Module) else []
