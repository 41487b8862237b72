"""How a model generates: time grid, schedule, noise and solver."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, get_args

from omatg_ray.errors import ModelError
from omatg_ray.policy.hand_made import StepSizes
from omatg_ray.policy.ode import AdaptiveMethod, Method
from omatg_ray.policy.schedule import LearnedSchedule, Schedule
from omatg_ray.policy.settings import NoiseMode

if TYPE_CHECKING:
    from omatg_ray.model.flow_model import FlowModel

Solver = Method
EULER: Final = "euler"


@dataclass(frozen=True)
class Sampling:
    """How a model generates crystals.

    Attributes:
        steps: Grid points; steps − 1 Euler steps.
        schedule: Schedule of the velocity, in place of the model's own, which None keeps.
        noise: Without noise, or with that of the policy; for a base model, that of its own stochastic process, if its
            interpolant has one.
        solver: Euler steps, or a method of torchdiffeq; those take no noise, and adaptive ones only the ends of the
            time grid.
    """

    steps: int = 50
    schedule: Schedule | None = None
    noise: NoiseMode = "none"
    solver: Solver = EULER

    def schedule_of(self, model: FlowModel) -> Schedule | None:
        """The schedule that a model generates with."""
        return model.schedule if self.schedule is None else self.schedule

    def check(self, model: FlowModel) -> None:
        """Refuses what a solver cannot do.

        Raises:
            ModelError: Noise, species to generate, or a schedule of Euler steps are asked of another solver.
        """
        if self.solver == EULER:
            return
        if self.noise != "none":
            raise ModelError(f"solver {self.solver}: noise takes Euler steps; leave out the noise, or the solver")
        schedule = self.schedule_of(model)
        if isinstance(schedule, LearnedSchedule) and "steps" in schedule.settings.features:
            raise ModelError(
                f"solver {self.solver}: the schedule depends on the length of Euler steps; leave the solver out"
            )
        if self.solver in get_args(AdaptiveMethod) and isinstance(schedule, StepSizes):
            raise ModelError(
                f"solver {self.solver} chooses its own steps; leave the schedule of steps out, or the solver"
            )
        if model.generates_species:
            raise ModelError(
                f"solver {self.solver}: the model generates species, which takes Euler steps; leave it out"
            )


DEFAULT: Final = Sampling()
"""50 grid points, Euler steps, the model's own schedule, no noise."""
