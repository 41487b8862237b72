"""The precision of rollouts: bfloat16 where it shifts actions by little of their noise."""

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
    """Refuses bfloat16, if it is asked for, where it shifts actions by more than a small part of their noise.

    Measured here, on the device of this process, before anything is learned.

    Raises:
        ConfigError: By more than `MOST_SHIFT`.
    """
    if config.rollout.precision == BFLOAT16 and (objection := _too_coarse(config, parts)) is not None:
        raise ConfigError(
            f"rollout.precision: bfloat16 {objection}; set rollout.precision=float32, or take more noise (policy.noise)"
        )


def resolve_precision(
    config: Config, parts: RunComponents, folder: RunFolder | None = None, progress: bool = False
) -> Config:
    """The run with a precision in place of `auto`, which the description of its model notes.

    A policy that its folder knows goes on in the precision that it began in. Otherwise it is bfloat16 where this
    machine has it and it shifts actions by no more than `MOST_SHIFT` of their noise, and float32 elsewhere.

    Args:
        config: The run.
        parts: What it works with.
        folder: Where it is written, where it is.
        progress: Say what was decided.
    """
    precision = config.rollout.precision
    if precision == "auto":
        kept = None if folder is None or not folder.config_path.exists() else Config.load(folder.config_path)
        if kept is not None and kept.policy == config.resolved().policy:
            precision = kept.rollout.precision
        else:
            objection = _objection(config, parts)
            precision = BFLOAT16 if objection is None else "float32"
            if progress:
                print_line(f"rollout.precision: {precision}{'' if objection is None else f', as bfloat16 {objection}'}")
    parts.model.description.provenance["precision"] = precision
    rollout = config.rollout.model_copy(update={"precision": precision})
    return config.model_copy(update={"rollout": rollout})


def _objection(config: Config, parts: RunComponents) -> str | None:
    """What speaks against bfloat16 for the machines that this run works on, and for the run itself."""
    actors = config.ray
    if actors.rollout.workers and (actors.rollout.gpus or actors.learner.gpus):
        return "has to be named where actors have GPUs, which this process does not know"
    if not has_bfloat16(parts.model.device):
        return "is not what this machine multiplies in"
    return _too_coarse(config, parts)


def _too_coarse(config: Config, parts: RunComponents) -> str | None:
    """How bfloat16 shifts actions too far, for a sentence that begins with it; None where it does not."""
    policy, model, known = parts.model.policy(), parts.model, parts.compositions
    # The same crystals for all runs on these: what else they differ in decides nothing.
    places = torch.linspace(0, len(known) - 1, MEASURED).long().tolist()
    seeds = range(MEASURED)
    x_0 = model.description.base_distribution.sample([known[place] for place in places], seeds).to(model.device)
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
