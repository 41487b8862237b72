"""Assembly of a reinforcement run from its configuration."""

from __future__ import annotations

import math
import warnings
from typing import Any

import torch

from omatg_ray.config import Config
from omatg_ray.errors import ConfigError, ModelError
from omatg_ray.model.checks import refuse_untrained, unseen_elements, warn_unfamiliar
from omatg_ray.model.description import ModelDescription
from omatg_ray.model.flow_model import FlowModel, new_modules
from omatg_ray.model.schedule import learned_schedule
from omatg_ray.model.variants import variant
from omatg_ray.policy.policy import Policy
from omatg_ray.policy.schedule import LearnedSchedule, require_straight_paths
from omatg_ray.policy.settings import LearnedScheduleSettings
from omatg_ray.reward.build import Scorers, build_scorers, fingerprint
from omatg_ray.reward.potential import load_potential
from omatg_ray.rl.settings import AdvantageSettings, ObjectiveSettings
from omatg_ray.run.location import absolute_name, as_base
from omatg_ray.run.versions import versions
from omatg_ray.train.cells import asked_cells, digest
from omatg_ray.train.components import RunComponents
from omatg_ray.train.device import driver_device, set_threads
from omatg_ray.train.early import refuse_unnamed
from omatg_ray.train.precision import refuse_coarse
from omatg_ray.train.record import tracking_of
from omatg_ray.train.splits import base_run_data, load_splits
from omatg_ray.train.unknown import (
    known_to,
    refuse_unmatchable,
    refuse_unranked,
    refuse_without_references,
    require_known,
)


def build_run(config: Config, progress: bool = False) -> RunComponents:
    """Load the base, the crystals and the potential, and refuse early what could not run. Writes nothing.

    Raises:
        ConfigError: `base`, `reward.potential` or the crystals are not named; a package of `tracking` is not installed;
            the base acts on fields that the new policy would freeze; it generates species and the reward needs known
            compositions; or bfloat16 is asked for and too coarse.
        ModelError: The base cannot be read.
        DataError: The crystals cannot be read; or a bundled file is missing or damaged.
        PotentialError: The potential cannot be loaded or does not know an element of the crystals.
        RewardError: References of a reward are missing, or a custom reward does not work.
    """
    refuse_unnamed(config)
    assert config.base is not None
    warn_idle(config)
    warn_without_effect(config)
    tracking_of(config)
    set_threads(config.threads)
    device = driver_device(config.device, config.ray)
    start = FlowModel.load(as_base(config.base), device)
    refuse_unmatchable(config.reward, start, config.base)
    if start.generates_species and config.advantage.diversity_weight:
        raise ConfigError(
            f"advantage.diversity_weight: {config.base} generates species, and crystals of several compositions cannot "
            "be compared; set it to 0"
        )
    for name in ("flow_matching", "replay"):
        if getattr(config.objective, name) is None:
            continue
        if start.generates_species:
            raise ConfigError(
                f"objective.{name}: {config.base} generates species, which this does not train; set it to null"
            )
        try:
            start.description.paths.refuse_untrainable()
        except ValueError as error:
            raise ConfigError(f"objective.{name}: the flow of {config.base} is not trained here: {error}") from error
    data = config.data
    if data.file is None and data.train is None:
        data = base_run_data(config.base) or data
    potential = None if config.reward.potential is None else load_potential(config.reward.potential, device)
    known = known_to(potential, start, config.base) if config.data.drop_unknown else None
    split = load_splits(data, progress, known)
    cells = split.train.crystals.atomic_numbers
    if config.compositions is not None:
        refuse_without_references(config, start)
        cells = asked_cells(config.compositions, config.seed)
    sampled, sizes = frozenset(z for cell in cells for z in cell), frozenset(map(len, cells))
    replay = config.objective.replay
    if config.objective.flow_matching is not None or (replay is not None and replay.known):
        sampled, sizes = sampled | split.train.elements, sizes | split.train.sizes
    elements = sampled | split.train.elements | split.val.elements | split.test.elements
    if potential is not None:
        if config.compositions is not None:
            potential.require_elements(z for cell in cells for z in cell)
        require_known(potential, elements)
    scorers = build_scorers(config.reward, split.train, (split.val, split.test), device, potential)
    if scorers.energy is not None and scorers.second_fingerprint == scorers.energy.potential.fingerprint:
        warnings.warn(
            f"reward.second_potential: {config.reward.second_potential} has the weights of reward.potential and "
            "will always agree with it; name an independent one",
            stacklevel=2,
        )
    warn_unfamiliar(start, sampled, sizes)
    start.network.require(elements)
    model = policy_model(start, config, scorers, sampled)
    if config.compositions is not None:
        model.description.provenance["compositions"] = digest(cells)
    parts = RunComponents(start, model, split, scorers, cells)
    refuse_unranked(config, start, split.val)
    refuse_coarse(config, parts)
    parts.known_energies(config)  # refuses a column that is not there
    return parts


def policy_model(
    start: FlowModel, config: Config, scorers: Scorers | None = None, elements: frozenset[int] = frozenset()
) -> FlowModel:
    """Return the model that training updates in place: copies of the start's learned modules over its frozen base.

    Args:
        start: The model to reinforce.
        config: The run.
        scorers: The potentials, whose weights are recorded in the description; None records none.
        elements: Atomic numbers that the model is trained on, and knows from then on.

    Raises:
        ConfigError: The start was reinforced on other fields, by another kind of policy or to act from another time on,
            or the schedule to anneal with cannot be read; or the policy never acts on a time grid.
        ModelError: The base has no denoiser for a score policy, or the variant has a module that nothing trains.
    """
    scorers = Scorers(None, None) if scorers is None else scorers
    acts_on, policy = start.description.active, config.policy
    if acts_on and set(acts_on) != set(policy.active):
        # A dropped field would fall back to the base; an added one would differ from it before any update.
        raise ConfigError(
            f"policy.active: {config.base} was reinforced on {', '.join(acts_on)}; name exactly these fields to "
            "continue from it, or start from its base"
        )
    if acts_on and start.description.variant != policy.variant:
        raise ConfigError(
            f"policy.variant: {config.base} was reinforced as a {start.description.variant} policy; continue with that "
            "variant, or start from its base"
        )
    acts_from = start.description.acts_from if policy.acts_from is None else policy.acts_from
    if acts_on and start.description.acts_from != acts_from:
        # Until the first update, the reinforced network would act where it never learned, or not where it did.
        raise ConfigError(
            f"policy.acts_from: {config.base} was reinforced to act from {start.description.acts_from:g} on; leave the "
            "key out to continue with that, or start from its base"
        )
    if acts_from and config.rollout.learn_from is not None:
        raise ConfigError(
            f"rollout.learn_from: the policy acts from t = {acts_from:g} on (policy.acts_from), which says what steps "
            "are learned from; set it to null"
        )
    named = None
    if policy.schedule_from is not None:
        try:
            named = learned_schedule(policy.schedule_from)
        except (ConfigError, ModelError) as error:
            raise ConfigError(f"policy.schedule_from: {error}") from error
    schedule: Any = start.description.schedule if policy.fixed_schedule is None else policy.fixed_schedule
    if variant(policy.variant).learns_schedule and not acts_on:
        if schedule is not None:
            warnings.warn("the base's own schedule is not used: an annealing policy learns one", stacklevel=2)
        schedule = LearnedScheduleSettings(**policy.learned_schedule.model_dump(), fields=policy.active)
    elif named is not None:
        schedule = named.settings
    try:
        require_straight_paths(policy.fixed_schedule, start.description.paths)
    except ModelError as error:
        raise ConfigError(f"policy.fixed_schedule: {error}") from error
    description = start.description.model_copy(
        update={
            "variant": policy.variant,
            "active": list(policy.active),
            "noise": {field: policy.noise[field] for field in policy.active},
            "schedule": schedule,
            "acts_from": acts_from,
            "recovery": {},
            "elements": [*start.description.elements, *unseen_elements(start, elements)],
            "potential": config.resolved().reward.potential,
            "provenance": {
                "command": "train",
                "base": None if config.base is None else absolute_name(config.base),
                "base_provenance": start.description.provenance,
                "seed": config.seed,
                "steps": config.rollout.steps,
                "potential_fingerprint": None if scorers.energy is None else scorers.energy.potential.fingerprint,
                "second_fingerprint": scorers.second_fingerprint,
                "reward_files": fingerprint(config.reward),
                "versions": versions(),
            },
        }
    )
    description = ModelDescription.model_validate(description.model_dump())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        learned = new_modules(description)
    if "policy" in learned:
        learned["policy"].load_state_dict(start.network.state_dict())
    for name in variant(policy.variant).learns.keys() & start.learned.keys() - {"policy"}:
        learned[name].load_state_dict(start.learned[name].state_dict())
    source = start.schedule if named is None else named
    if "schedule" in learned and isinstance(source, LearnedSchedule):
        learned["schedule"].load_state_dict(source.state_dict())
    if "noise" in start.learned and description.noise == start.description.noise:
        learned["noise"].load_state_dict(start.learned["noise"].state_dict())
    model = FlowModel(description, start.base_network, learned.requires_grad_(False).to(start.device))
    refuse_untrained(model)
    for steps in config.rollout.turns:
        model.variant.check(model.policy(), steps)
    for steps in (*config.rollout.turns, config.validated_steps):
        _require_action(model.policy(), steps)
    _warn_of_late_action(config, model.policy())
    return model


def warn_without_effect(config: Config) -> None:
    """Warn of keys of policy gradients in a run without them."""
    if config.by_policy:
        return
    default = Config()
    of_policy = {"rollout": ("learn_from", "shared_start"), "advantage": AdvantageSettings.model_fields}
    others = ("reward_gradient", "flow_matching", "replay", "policy_weight")
    of_policy["objective"] = tuple(name for name in ObjectiveSettings.model_fields if name not in others)
    if config.objective.replay is not None:
        of_policy["rollout"] = ("learn_from",)
    changed = [
        f"{section}.{name}"
        for section, names in of_policy.items()
        for name in names
        if getattr(getattr(config, section), name) != getattr(getattr(default, section), name)
    ]
    if changed:
        warnings.warn(
            f"{', '.join(changed)}: without effect, since this run has no policy gradient (objective.reward_gradient "
            "and objective.replay are what it learns from)",
            stacklevel=2,
        )


def _require_action(policy: Policy, steps: int) -> None:
    """Check that the policy acts in at least one step.

    Raises:
        ConfigError: Its first time to act lies beyond the last step.
    """
    times = policy.times(steps)
    if policy.first_step(times) == steps - 1:
        raise ConfigError(
            f"policy.acts_from = {policy.acts_from:g}: the last of {steps - 1} steps begins at t = {times[-2]:.3f}, so "
            "the policy would never act; lower it, or take more grid points (rollout.steps, validation.steps)"
        )


def _warn_of_late_action(config: Config, policy: Policy) -> None:
    """Warn if fewer steps than asked for are differentiated, because the policy does not act in the others."""
    by, points = config.objective.reward_gradient, min(config.rollout.turns)
    acts_in = points - 1 - policy.first_step(policy.times(points))
    if by is not None and by.transitions > acts_in:
        warnings.warn(
            f"objective.reward_gradient.transitions = {by.transitions}: of {points - 1} steps the policy acts in the "
            f"last {acts_in} (policy.acts_from), and only these are differentiated",
            stacklevel=2,
        )


def warn_idle(config: Config) -> None:
    """Warn of rollout workers that never have anything to do."""
    rollout, workers = config.rollout, config.ray.rollout.workers
    items = math.ceil(rollout.groups / rollout.groups_per_item)
    if items < workers:
        advice = "lower rollout.groups_per_item" if rollout.groups_per_item > 1 else "raise rollout.groups"
        warnings.warn(
            f"{workers - items} of {workers} rollout workers have nothing to do: an iteration has {items} items of up "
            f"to {rollout.groups_per_item} groups; {advice}, or use fewer workers",
            stacklevel=2,
        )
