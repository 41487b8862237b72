"""The precision of rollouts: bfloat16 if its error in the actions is small compared to their noise."""

from __future__ import annotations

import torch

from omatg_ray.config import Config
from omatg_ray.errors import ConfigError
from omatg_ray.flow.settings import Precision
from omatg_ray.policy.precision import has_bfloat16, shifts
from omatg_ray.run.folder import RunFolder
from omatg_ray.run.progress import print_line
from omatg_ray.train.components import RunComponents

MOST_SHIFT = 0.1
"""Largest shift of actions by a lower precision, in units of their standard deviation: adds 1 % to their variance."""
BFLOAT16: Precision = "bfloat16"
MEASURED = 32
"""Trajectories on which a lower precision is measured."""


def refuse_coarse(config: Config, parts: RunComponents) -> None:
    """Refuse bfloat16, if it is asked for, when it shifts actions by more than a small part of their noise.

    The shift is measured on the device of this process, before training.

    Raises:
        ConfigError: The shift exceeds `MOST_SHIFT`.
    """
    if config.rollout.precision == BFLOAT16 and (objection := _too_coarse(config, parts)) is not None:
        raise ConfigError(
            f"rollout.precision: bfloat16 {objection}; set rollout.precision=float32, or take more noise (policy.noise)"
        )


def resolve_precision(
    config: Config, parts: RunComponents, folder: RunFolder | None = None, progress: bool = False
) -> Config:
    """Return the run with `auto` replaced by a precision, and record it in the model's description.

    A run that continues with the same policy keeps its precision. Otherwise the precision is bfloat16 if this machine
    supports it and it shifts actions by no more than `MOST_SHIFT` of their noise, else float32.

    Args:
        config: The run.
        parts: Its components.
        folder: Run folder, if there is one.
        progress: Print the decision.
    """
    precision = config.rollout.precision
    if precision == "auto":
        earlier = None if folder is None or not folder.config_path.exists() else Config.load(folder.config_path)
        if earlier is not None and earlier.policy == config.resolved().policy:
            precision = earlier.rollout.precision
        else:
            objection = _objection(config, parts)
            precision = BFLOAT16 if objection is None else "float32"
            if progress:
                print_line(f"rollout.precision: {precision}{'' if objection is None else f', as bfloat16 {objection}'}")
    parts.model.description.provenance["precision"] = precision
    rollout = config.rollout.model_copy(update={"precision": precision})
    return config.model_copy(update={"rollout": rollout})


def _objection(config: Config, parts: RunComponents) -> str | None:
    """Return why this run, or the machines it uses, rule out bfloat16; None if nothing does."""
    actors = config.ray
    if actors.rollout.workers and (actors.rollout.gpus or actors.learner.gpus):
        return "must be named explicitly if actors have GPUs, because this process cannot check them"
    if not has_bfloat16(parts.model.device):
        return "is not supported by this machine"
    return _too_coarse(config, parts)


def _too_coarse(config: Config, parts: RunComponents) -> str | None:
    """Return how bfloat16 shifts actions too far, as the predicate of a sentence; None if it does not."""
    policy, model, known = parts.model.policy(), parts.model, parts.compositions
    # All runs on the same crystals are measured on the same ones, so that nothing else influences the choice.
    rows = torch.linspace(0, len(known) - 1, MEASURED).long().tolist()
    seeds = range(MEASURED)
    x_0 = model.description.base_distribution.sample([known[row] for row in rows], seeds).to(model.device)
    if policy.species is not None:
        x_0 = policy.species.start(x_0, seeds, policy.base_network.settings.max_atomic_number)
    for steps in sorted(set(config.rollout.turns)):
        for field, shift in shifts(policy, BFLOAT16, x_0, steps, seeds).items():
            if not shift.rms <= MOST_SHIFT:
                return (
                    f"shifts actions of {field} by {shift.rms:.2g} of their noise on average (limit {MOST_SHIFT:g}; "
                    f"worst {shift.worst:.2g} at t = {shift.t:.2g})"
                )
    return None
