"""`Variant`: a kind of policy, what it trains and how it moves. Each kind is a file in `omatg_ray/model/variants`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from torch import nn

    from omatg_ray.model.description import ModelDescription
    from omatg_ray.model.flow_model import FlowModel
    from omatg_ray.policy.drift import Drift
    from omatg_ray.policy.policy import Policy
    from omatg_ray.policy.schedule import Schedule


def copy_of_base(description: ModelDescription) -> nn.Module:
    """Build a network of the base's architecture; training starts from the base's weights."""
    from omatg_ray.flow.network import CSPNet

    return CSPNet(description.network)


class Variant(ABC):
    """Kind of policy.

    Its file is imported when a configuration names it, so the top of the file should not import PyTorch.

    Attributes:
        learns: Modules that it trains, by name, each built from the model's description. `policy` is a network that
            drives the active fields. Learned noise and a learned schedule are added if the description has them.
        learns_schedule: Whether it trains the schedule of the base's velocity. Frozen fields then follow the base
            without it, and a trained model is compared with the base without it.
        stochastic: Whether it follows the stochastic process of a base with a denoiser: the noise is part of its
            drift, and the denoiser is trained.
    """

    learns: ClassVar[Mapping[str, Callable[[ModelDescription], nn.Module]]] = {"policy": copy_of_base}
    learns_schedule: ClassVar[bool] = False
    stochastic: ClassVar[bool] = False

    @abstractmethod
    def drift(self, model: FlowModel, schedule: Schedule | None) -> Drift:
        """Return the mean action per unit of time.

        Args:
            model: Provides the modules (`learned`) and the noise (`noise`).
            schedule: Schedule of the velocity, if there is one.

        Raises:
            ModelError: The base lacks what the drift needs.
        """

    def policy(self, model: FlowModel, schedule: Schedule | None) -> Policy:
        """Return the policy of a model; frozen fields follow the base with the same schedule, unless it is learned.

        Raises:
            ModelError: As `drift`.
        """
        from omatg_ray.policy.policy import Policy

        description, drift = model.description, self.drift(model, schedule)
        return Policy(
            drift,
            model.network,
            model.base_network,
            description.active,
            model.noise,
            None if self.learns_schedule else schedule,
            description.paths.species,
            description.acts_from,
        )

    def check(self, policy: Policy, steps: int) -> None:  # noqa: B027
        """Refuse a policy that cannot be trained on this number of grid points.

        Raises:
            ConfigError: The policy cannot be trained; says why.
        """

    def start(self, start: FlowModel, best: FlowModel) -> FlowModel:
        """Return the model to compare a trained one with: the one it started from, with the same schedule.

        A frozen schedule is no merit of the reinforcement, so the base gets it too. A schedule that was learned is.
        """
        return start if self.learns_schedule else start.annealed_as(best)
