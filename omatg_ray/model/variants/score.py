"""Trains velocity and denoiser of a base pretrained with γ.

The policy follows the stochastic process of that base.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from omatg_ray.errors import ConfigError
from omatg_ray.model.variant import Variant

if TYPE_CHECKING:
    from omatg_ray.model.flow_model import FlowModel
    from omatg_ray.policy.drift import Drift
    from omatg_ray.policy.policy import Policy
    from omatg_ray.policy.schedule import Schedule

MOST_SCORE = 1000.0
"""Largest σ² dt / (2 γ) of a step. Square-root γ with square-root noise, which trains well, reaches a few hundred."""


class ScoreVariant(Variant):
    """Variant that trains b and η in the drift b − σ² / (2 γ) η."""

    stochastic = True

    def drift(self, model: FlowModel, schedule: Schedule | None) -> Drift:
        from omatg_ray.policy.drift import Score

        return Score(model.noise, {field: model.gamma(field) for field in model.description.active}, schedule)

    def check(self, policy: Policy, steps: int) -> None:
        """Refuse steps that are far too large: the first or last ones, where γ is nearly 0.

        Raises:
            ConfigError: σ² dt / (2 γ), by which a step multiplies the denoiser, exceeds `MOST_SCORE` somewhere.
        """
        from omatg_ray.policy.drift import Score

        assert isinstance(policy.drift, Score)
        times = policy.times(steps)
        for field in policy.active:
            sigma = policy.noise[field].sigma(times[:-1]).detach()
            weight = sigma.square() * times.diff() / (2.0 * policy.drift.gamma[field](times[:-1]))
            worst = int(weight.argmax())
            if not float(weight[worst]) <= MOST_SCORE:
                raise ConfigError(
                    f"policy.noise.{field}: the step of a score policy at t = {float(times[worst]):.3g} multiplies the "
                    f"denoiser by σ² dt / (2 γ) = {float(weight[worst]):.3g}, since γ is nearly 0 there "
                    f"(at most {MOST_SCORE:g}); use less noise, e.g. kind=constant, or a base with γ of kind sqrt"
                )


VARIANT = ScoreVariant()
