"""Options for generating with a model: time grid, schedule, noise and solver."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Final, get_args

from omatg_ray.errors import ModelError
from omatg_ray.policy.hand_made import HandMadeSchedule, StepSizes
from omatg_ray.policy.settings import NoiseMode

if TYPE_CHECKING:
    from torch import Tensor

    from omatg_ray.model.flow_model import FlowModel
    from omatg_ray.policy.ode import Method as Solver
    from omatg_ray.policy.schedule import Schedule

EULER: Final = "euler"
UNGUIDED: Final = (1.0,)
"""Guidance of a model that generates as it was trained."""


@dataclass(frozen=True)
class Sampling:
    """Options for generating crystals with a model.

    Attributes:
        steps: Grid points; steps − 1 Euler steps.
        schedule: Schedule of the velocity; None keeps the model's own.
        noise: "none", or "policy" for the policy's noise. For a base model the latter is the noise of its own
            stochastic process, if its interpolant has one.
        solver: "euler", or another method of torchdiffeq. Other methods take no noise, and adaptive ones use only the
            ends of the time grid.
        guidance: Weights w of the reinforced network (`Policy.guided`), in which crystals take turns; (1,) is the model
            as it was trained, (0,) its base.
    """

    steps: int = 50
    schedule: Schedule | None = None
    noise: NoiseMode = "none"
    solver: Solver = EULER
    guidance: tuple[float, ...] = UNGUIDED

    def __post_init__(self) -> None:
        weights = tuple(map(float, self.guidance))
        if not weights or not all(map(math.isfinite, weights)):
            raise ModelError(f"guidance: give one or more finite weights, not {self.guidance!r}")
        object.__setattr__(self, "guidance", weights)

    def weights(self, turns: Sequence[int]) -> Tensor:
        """Return the weights of guidance of crystals with these turns (B,), float32."""
        import torch

        return torch.tensor([self.guidance[turn % len(self.guidance)] for turn in turns])

    def schedule_of(self, model: FlowModel) -> Schedule | None:
        """Return the schedule that a model generates with."""
        return model.schedule if self.schedule is None else self.schedule

    def check(self, model: FlowModel) -> None:
        """Refuse options that the solver does not support.

        Raises:
            ModelError: Noise, generated species, or a schedule of Euler steps are combined with another solver; a model
                without a reinforced network is to be guided; or as `require_straight_paths`.
        """
        from omatg_ray.policy.schedule import require_straight_paths

        schedule, reason = self.schedule_of(model), None
        require_straight_paths(schedule, model.description.paths)
        if self.guidance != UNGUIDED and "policy" not in model.learned:
            kind = "its schedule alone was learned" if model.description.active else "it is a base model"
            raise ModelError(
                f"guidance: it strengthens or weakens what reinforcement changed in a network, and {kind}; leave it "
                "out (the base of a reinforced model is that model with guidance 0)"
            )
        if self.solver == EULER:
            return
        from omatg_ray.policy.ode import AdaptiveMethod

        if self.noise != "none":
            reason = ": noise needs Euler steps; leave out the noise or the solver"
        elif schedule is not None and schedule.depends_on_step:
            why = "by its limit" if isinstance(schedule, HandMadeSchedule) else "as it was learned"
            reason = f": the schedule depends on the length of Euler steps, {why}; leave out one of the two"
        elif self.solver in get_args(AdaptiveMethod) and isinstance(schedule, StepSizes):
            reason = " chooses its own steps; leave out the schedule of steps or the solver"
        elif model.generates_species:
            reason = ": the model generates species, which needs Euler steps; leave out the solver"
        if reason is not None:
            raise ModelError(f"solver {self.solver}{reason}")


DEFAULT: Final = Sampling()
"""50 grid points, Euler steps, the model's own schedule, no noise."""


def in_short(guidance: Iterable[float]) -> str:
    """Return weights of guidance as they are given to commands: (2.0, 2.0, -1.0) is '2:2,-1'."""
    runs = ((weight, len(list(same))) for weight, same in groupby(guidance))
    return ",".join(f"{weight:g}:{n}" if n > 1 else f"{weight:g}" for weight, n in runs)


def chunks_by_pairs(sizes: Sequence[int], limit: int) -> list[list[int]]:
    """Split the indices of structures into consecutive chunks of at most `limit` ordered pairs of atoms each.

    A chunk holds at least one structure.
    """
    chunks: list[list[int]] = []
    used = 0
    for index, size in enumerate(sizes):
        if not chunks or used + size * size > limit:
            chunks.append([])
            used = 0
        chunks[-1].append(index)
        used += size * size
    return chunks
