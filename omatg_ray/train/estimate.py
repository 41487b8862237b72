"""`--dry-run` of train and pretrain: what a run would do, with time and memory extrapolated from a short trial."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from omatg_ray.config import Config
from omatg_ray.crystal.split import Split
from omatg_ray.evaluate.backend import local_backend
from omatg_ray.evaluate.evaluator import Evaluator
from omatg_ray.flow.activations import saved_bytes
from omatg_ray.flow.pretrain import Pretrainer
from omatg_ray.flow.settings import NetworkSettings
from omatg_ray.model.flow_model import FlowModel
from omatg_ray.model.sampling import Sampling
from omatg_ray.policy.policy import Policy
from omatg_ray.policy.schedule import describe as describe_schedule
from omatg_ray.rl.rollout import Trajectory
from omatg_ray.rl.scoring import score_item
from omatg_ray.rl.settings import MATCHING, REPLAY
from omatg_ray.rl.work import plan_iteration
from omatg_ray.run.text import counted
from omatg_ray.train.backend import local_training
from omatg_ray.train.components import RunComponents
from omatg_ray.train.start import take_start, warn_of_warmup

# Grid points of the trial rollout: two Euler steps are timed, after one that warms up.
TRIAL_STEPS = 3
TRIAL_CRYSTALS = 8


def estimate(config: Config, parts: RunComponents) -> tuple[dict[str, float], dict[str, int]]:
    """Time a short rollout of one item, its rewards and one microbatch, and scale them up.

    Changes nothing.

    Returns:
        Seconds per iteration by stage, and bytes: those that one microbatch keeps for its backward pass, those of an
        iteration's trajectories, and those of networks, gradients and optimizer.
    """
    # A trajectory of the few steps of a trial may end before a policy acts.
    training = local_training(config, replace(parts, model=_acting_at_once(parts.model)))
    learner = training.learner
    items = plan_iteration(config.rollout, parts.compositions, 0, config.seed, config.by_policy)
    item = max(items, key=lambda item: sum(len(c) for c in item.compositions))

    def trial(steps: int, learn_from: tuple[int, ...] | None = None) -> tuple[Trajectory, float]:
        start = time.perf_counter()
        sampled = training.rollout(replace(item, steps=steps, learn_from=learn_from))
        return sampled, time.perf_counter() - start

    trial(2)
    trajectory, elapsed = trial(TRIAL_STEPS)
    turns, policy = config.rollout.turns, parts.model.policy()
    n_steps, n_items = sum(turns) / len(turns) - 1, len(items)
    some = config.rollout.learn_from
    n_acting = sum(points - 1 - policy.first_step(policy.times(points)) for points in turns) / len(turns)
    n_learned = n_acting if some is None else some.transitions
    a_step = elapsed / (TRIAL_STEPS - 1)
    # Steps that are not learned from record nothing, and so may not need the base network.
    a_plain_step = a_step if some is None else max(trial(TRIAL_STEPS, (0,))[1] - a_step, 0.0)
    rollout = (a_step * n_learned + a_plain_step * (n_steps - n_learned)) * n_items

    by = config.objective.reward_gradient
    references = parts.split.train.crystals.select(torch.arange(min(8, len(parts.split.train))))
    with closing(parts.reward) as scorer:
        # As groups of one: what compares members takes hardly any time.
        score_item(references, scorer, 1, config.objective, parts.scorers.energy)
        start = time.perf_counter()
        score_item(references.select(range(len(references))), scorer, 1, config.objective, parts.scorers.energy)
    n_structures = config.rollout.groups * config.rollout.group_size
    reward = (time.perf_counter() - start) / len(references) * n_structures

    pairs = sum(len(c) ** 2 for i in items for c in i.compositions) * config.rollout.group_size
    # What is learned from: a trial of each way, the pairs of all its network calls and of the largest possible one.
    tried = [(learner.trial(trajectory), pairs * n_learned, pairs * n_learned)] if config.by_policy else []
    if by is not None:
        replayed = learner.trial(trajectory, by_policy=False)
        tried.append((replayed, pairs * min(by.transitions, n_acting), pairs))
    for source, settings in ((MATCHING, config.objective.flow_matching), (REPLAY, config.objective.replay)):
        if settings is None:
            continue
        # Those of a replay are not there yet, and are as large as these.
        examples = parts.take_training_crystals(settings.crystals, config.seed).examples(0)
        matched = sum(size * size for size in examples.state.layout.sizes)
        tried.append((learner.trial_of_matching(source, examples.to(parts.model.device)), matched, matched))
    learn = sum(t.seconds / t.pairs * computed for t, computed, _ in tried) * config.learner.epochs
    saved = max(t.memory * min(config.learner.microbatch_pairs, most) / t.pairs for t, _, most in tried)

    def bytes_of_a_step(*recorded: Mapping[Any, Tensor]) -> int:
        return sum(values[0].nbytes for tensors in recorded for values in tensors.values())

    moved = bytes_of_a_step(trajectory.displacement)
    recorded = bytes_of_a_step(trajectory.log_prob, trajectory.action, trajectory.base_outputs)
    longest = max(turns) - 1
    trajectories = n_items * (moved * longest + recorded * (longest if some is None else some.transitions))
    base, learned = (
        sum(p.nbytes for p in module.parameters()) for module in (parts.model.base_network, parts.model.learned)
    )
    # Trained weights also have a gradient and two Adam moments.
    weights = base + 4 * learned
    return (
        {"rollout": rollout, "reward": reward, "learn": learn},
        {"activations": int(saved), "trajectories": trajectories, "weights and optimizer": weights},
    )


def _acting_at_once(model: FlowModel) -> FlowModel:
    description = model.description.model_copy(update={"acts_from": 0.0})
    return FlowModel(description, model.base_network, model.learned)


def estimate_evaluation(config: Config, parts: RunComponents, n: int) -> float:
    """Return the seconds in which n crystals of the test split are generated, matched and weighed, from a few of them.

    Changes nothing.
    """
    test = parts.split.test
    with local_backend(0, config.validation.match_timeout, parts.scorers.energy) as backend:
        evaluate = Evaluator(test, backend.evaluate, config.seed, TRIAL_CRYSTALS, config.validation.chunk_pairs)
        evaluate(parts.model, Sampling(2))
        tried = evaluate(parts.model, Sampling(TRIAL_STEPS))
    chosen, sizes = evaluate.references.crystals.n_atoms, test.crystals.n_atoms
    a_step = tried.generation_seconds / (TRIAL_STEPS - 1) / float(chosen.square().sum())
    generating = a_step * (config.validated_steps - 1) * float(sizes.square().double().mean())
    return n * (generating + (tried.seconds - tried.generation_seconds) / len(chosen))


def describe(config: Config, parts: RunComponents) -> str:
    """Describe a reinforcement run, with its estimate. Changes nothing."""
    n_val, n_test = (
        min(len(split), len(split) if limit is None else limit)
        for split, limit in ((parts.split.val, config.validation.limit), (parts.split.test, config.test.limit))
    )
    n_validations = 1 + math.ceil(config.iterations / config.validation.every)
    a_thousand = estimate_evaluation(config, parts, 1000) / 1000
    # The final test compares the base with the best checkpoint, also with the policy's noise if it learned with noise.
    tested = 3 if config.by_policy else 2
    validating, testing = n_validations * n_val * a_thousand, tested * n_test * a_thousand
    seconds, memory = estimate(config, parts)
    rollout, split = config.rollout, parts.split
    policy = parts.model.policy()
    networks = [
        *(["policy"] if policy.heads else []),
        *(["base"] if _needs_base(config, policy) else []),
    ]
    iteration = sum(seconds.values())
    learned = f"{config.learner.epochs} PPO epochs" if config.by_policy else f"{config.learner.epochs} epochs"
    return "\n".join(
        [
            f"reinforce   {config.base} by {_rewards(config)}",
            f"data        {len(split.train)} training, {len(split.val)} validation, {len(split.test)} test crystals",
            *([f"sampled     {counted(len(parts.compositions), 'cell')}"] if config.compositions else []),
            f"per iteration  {rollout.groups} groups x {rollout.group_size} trajectories x {_steps(rollout.turns)} "
            f"steps{_learned_from(config)} ({' and '.join(networks)} network), {learned}",
            f"active      {', '.join(config.policy.active)}{_gate(parts)} in {rollout.precision} "
            f"on {where(config, parts)}",
            *([f"annealing   {_schedule(config, parts)}"] if parts.model.schedule is not None else []),
            f"time        about {iteration:.1f} s an iteration "
            f"({', '.join(f'{stage} {each:.1f}' for stage, each in seconds.items())}); {config.iterations} iterations: "
            f"{_minutes(iteration * config.iterations)}",
            f"            plus about {_minutes(validating)} for {counted(n_validations, 'validation')} of "
            f"{counted(n_val, 'crystal')}, and "
            + (f"{_minutes(testing)} for the test ({tested} x {counted(n_test, 'crystal')})" if n_test else "no test"),
            f"            in all about {_minutes(iteration * config.iterations + validating + testing)}",
            f"memory      about {sum(memory.values()) / 2**20:.0f} MiB beyond what is loaded "
            f"({', '.join(f'{what} {each / 2**20:.0f}' for what, each in memory.items())})",
            f"run folder  {config.run} (nothing written yet)",
        ]
    )


def _needs_base(config: Config, policy: Policy) -> bool:
    by = config.objective.reward_gradient
    recorded = config.by_policy and config.objective.needs_base(policy)
    return recorded or policy.asks_base or policy.acts_from > 0 or bool(by is not None and by.distance)


def _gate(parts: RunComponents) -> str:
    gate = parts.model.description.acts_from
    return f" from t = {gate:g} on" if gate else ""


def _schedule(config: Config, parts: RunComponents) -> str:
    """Describe the schedule that multiplies the velocity."""
    if parts.model.variant.learns_schedule:
        return "learned by this run"
    if config.policy.schedule_from is not None:
        return f"learned, frozen, from {config.policy.schedule_from}"
    described = describe_schedule(parts.model.schedule) or {}
    return ", ".join(f"{key} {value}" for key, value in described.items())


def _minutes(seconds: float) -> str:
    """Return a duration in minutes; a short one with a decimal."""
    return f"{seconds / 60:.0f} min" if seconds >= 600 else f"{seconds / 60:.1f} min"


def _steps(turns: list[int]) -> str:
    return " / ".join(str(points - 1) for points in turns)


def _learned_from(config: Config) -> str:
    some, by = config.rollout.learn_from, config.objective.reward_gradient
    matching, replay = config.objective.flow_matching, config.objective.replay
    beside = "" if matching is None else f", and matching the flow of {counted(matching.crystals, 'training crystal')}"
    if replay is not None:
        which = "known and found" if replay.known else "found"
        relaxed = f", relaxed in {counted(replay.relax, 'step')}" if replay.relax else ""
        beside += f", and matching the flow of {replay.crystals} of the best crystals {which}{relaxed}"
    by_gradient = [] if by is None else [f"the reward's gradient through the last {by.transitions}"]
    by_policy = [f"{some.transitions} ({some.kind})"] if some is not None and config.by_policy else []
    return (f", learning from {' and '.join([*by_policy, *by_gradient])}" if by_policy or by_gradient else "") + beside


def _rewards(config: Config) -> str:
    """Describe the rewards and their potential."""
    weights = [f"{weight:g} x {name}" for name, weight in config.reward.weighted.items()]
    potential = config.reward.potential
    return " + ".join(weights) + ("" if potential is None else f" with {potential}")


def where(config: Config, parts: RunComponents) -> str:
    """Describe where the run computes. The estimate itself is always for this process alone."""
    shares = config.ray
    if not shares.rollout.workers:
        return str(parts.model.device)
    roles = {"learner": shares.learner, "rollout": shares.rollout, "reward": shares.reward}
    actors = [f"{share.workers} x {role} ({share.cpus:g} CPU, {share.gpus:g} GPU)" for role, share in roles.items()]
    return f"Ray: {', '.join(actors)}; the times below are those of one process on this machine"


def _pairs(n_atoms: torch.Tensor, network: NetworkSettings) -> int:
    """Return the ordered pairs of atoms that exchange messages; of nearest ones, about as many as there are."""
    heard = n_atoms if network.neighbors is None else n_atoms.clamp_max(network.neighbors + 1)
    return int((n_atoms * heard).sum())


def describe_pretraining(config: Config, split: Split, device: torch.device) -> str:
    """Describe a pretraining run, from two epochs on one of its batches. Changes nothing."""
    config, start = take_start(config)
    settings, train = config.pretrain, split.train.crystals
    warn_of_warmup(settings, len(train))
    rows = torch.randperm(len(train), generator=torch.Generator().manual_seed(config.seed))[: settings.batch_size]
    batch = train.select(rows)
    trainer = Pretrainer(settings, batch, batch, start.base_for(train, settings), config.seed, device)
    with saved_bytes() as saved:
        trainer.run_epoch()
    began = time.perf_counter()
    trainer.run_epoch()
    seconds = time.perf_counter() - began
    pairs, batch_pairs = (_pairs(crystals.n_atoms, settings.network) for crystals in (train, batch))
    largest = _pairs(train.n_atoms.sort(descending=True).values[: len(batch)], settings.network)
    epoch, steps = seconds * pairs / batch_pairs, math.ceil(len(train) / len(batch))
    activations = sum(saved.values()) / batch_pairs * largest
    # Weights, their average, gradients and two AdamW moments.
    weights = 5 * sum(p.nbytes for p in trainer.network.parameters())
    sizes, workers = split.train.sizes, config.ray.pretrain.workers
    where = f"{workers} Ray Train workers; the times below are those of this process" if workers else str(device)
    return "\n".join(
        [
            f"pretrain    {sum(p.numel() for p in trainer.network.parameters()) / 1e6:.2f} M parameters on {where}"
            + (f", which start from {settings.start}" if settings.start else ""),
            f"data        {len(split.train)} training, {len(split.val)} validation, {len(split.test)} test crystals of "
            f"{len(split.train.elements)} elements, {min(sizes)} to {max(sizes)} atoms",
            f"time        about {epoch:.3g} s an epoch of {steps} steps; {settings.epochs} epochs: "
            f"{epoch * settings.epochs / 60:.0f} min, plus a validation every {settings.validate_every} epochs",
            f"memory      about {activations / 2**20:.0f} MiB of activations for the batch of the largest cells, and "
            f"{weights / 2**20:.0f} MiB of weights, average and optimizer",
            f"run folder  {config.run} (nothing written yet)",
        ]
    )
