"""`Variant`: what a kind of policy trains, and how it moves. Each kind is a file in `omatg_ray/model/variants`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from torch import nn

    from omatg_ray.model.flow_model import FlowModel, ModelDescription
    from omatg_ray.policy.drift import Drift
    from omatg_ray.policy.policy import Policy
    from omatg_ray.policy.schedule import Schedule


def copy_of_base(description: ModelDescription) -> nn.Module:
    """A network of the base's architecture; training starts from the base's weights."""
    from omatg_ray.flow.network import CSPNet

    return CSPNet(description.network)


class Variant(ABC):
    """A kind of policy.

    Its file is read when a configuration names it: what stands at the top of the file should not import PyTorch.

    Attributes:
        learns: The modules that it trains, by name, each made from the model's description. `policy` is a network that
            drives the active fields. Learned noise and a learned schedule come on top, where the description has them.
        learns_schedule: Whether it trains the annealing schedule of the base's velocity.
        stochastic: Whether it follows the stochastic process of a base with a denoiser: the noise is part of its
            drift, and the denoiser is trained.
    """

    learns: ClassVar[Mapping[str, Callable[[ModelDescription], nn.Module]]] = {"policy": copy_of_base}
    learns_schedule: ClassVar[bool] = False
    stochastic: ClassVar[bool] = False

    @abstractmethod
    def drift(self, model: FlowModel, schedule: Schedule | None) -> Drift:
        """The mean action per unit of time.

        Args:
            model: Has the modules (`learned`) and the noise (`noise`).
            schedule: Schedule of the velocity, if there is one.

        Raises:
            ModelError: The base lacks what the drift needs.
        """

    def policy(self, model: FlowModel, schedule: Schedule | None) -> Policy:
        """The policy of a model; frozen fields follow the base, annealed alike."""
        from omatg_ray.policy.policy import Policy

        what, drift = model.description, self.drift(model, schedule)
        return Policy(drift, model.network, model.base_network, what.active, model.noise, schedule, what.paths.species)

    def check(self, policy: Policy, steps: int) -> None:  # noqa: B027
        """Refuses to train a policy that cannot be trained on so many grid points.

        Raises:
            ConfigError: Says why.
        """

    def start(self, start: FlowModel, best: FlowModel) -> FlowModel:
        """What a trained model is compared with: the model it started from, annealed alike.

        A frozen annealing is no merit of the reinforcement: the base has it, too.
        """
        return start.annealed_as(best)
