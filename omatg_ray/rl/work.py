"""Work items: self-contained descriptions of what an iteration samples.

An item's seeds derive from (run seed, iteration, group, member). Its result depends neither on the worker that runs it
nor on how often it was retried.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from omatg_ray.crystal.base import BaseDistribution
from omatg_ray.flow.settings import Precision
from omatg_ray.flow.species import draw_jumps
from omatg_ray.policy.policy import Policy, draw_noise
from omatg_ray.rl.rollout import Trajectory, rollout
from omatg_ray.rl.settings import RolloutSettings
from omatg_ray.seeding import generator, seed_of


@dataclass(frozen=True)
class WorkItem:
    """Groups to roll out together.

    Attributes:
        iteration: Iteration it belongs to.
        compositions: Atomic numbers of each group's cell; where species are generated, only their number counts.
        seeds: One seed per member, group by group; len(compositions) · group_size in all.
        steps: Grid points.
        shared_start: Whether the members of a group start from the x_0 of the first.
        precision: Precision of the networks.
        learn_from: Steps that are learned from; None: all.
        noise_elsewhere: Whether the other steps take noise too.
        noisy: Whether any step takes noise.
    """

    iteration: int
    compositions: tuple[tuple[int, ...], ...]
    seeds: tuple[int, ...]
    steps: int
    shared_start: bool = False
    precision: Precision = "float32"
    learn_from: tuple[int, ...] | None = None
    noise_elsewhere: bool = True
    noisy: bool = True

    @property
    def group_size(self) -> int:
        return len(self.seeds) // len(self.compositions)

    @property
    def start_seeds(self) -> list[int]:
        """Seed of every member's x_0."""
        if not self.shared_start:
            return list(self.seeds)
        return [seed for seed in self.seeds[:: self.group_size] for _ in range(self.group_size)]

    @property
    def species(self) -> list[tuple[int, ...]]:
        """Atomic numbers of every member's cell, group by group, as in `compositions`."""
        return [composition for composition in self.compositions for _ in range(self.group_size)]


def take_in_turn(n: int, iteration: int, count: int, seed: int, stage: str) -> list[int]:
    """Return which of n an iteration takes: count of them, every one once before any of them twice, in random orders.

    Args:
        n: Number to choose from.
        iteration: Number of the iteration, from 0.
        count: Taken by every iteration.
        seed: Seed of the run.
        stage: What they are taken for; every stage has orders of its own.
    """
    taken, orders = [], dict[int, list[int]]()
    for index in range(iteration * count, (iteration + 1) * count):
        visit, position = divmod(index, n)
        if visit not in orders:
            orders[visit] = torch.randperm(n, generator=generator(seed, stage, visit)).tolist()
        taken.append(orders[visit][position])
    return taken


def plan_iteration(
    settings: RolloutSettings, compositions: Sequence[Sequence[int]], iteration: int, seed: int, noisy: bool = True
) -> list[WorkItem]:
    """Plan the items of an iteration, visiting every composition once before any of them twice.

    Args:
        settings: Sampling settings, with a precision other than `auto`.
        compositions: Atomic numbers of every training cell.
        iteration: Number of the iteration, from 0.
        seed: Seed of the run.
        noisy: Whether trajectories take noise, which policy gradients need.
    """
    precision = settings.precision
    assert precision != "auto", "must be decided before work is planned (train/precision.py)"
    rows = take_in_turn(len(compositions), iteration, settings.groups, seed, "visit")
    chosen = [tuple(compositions[row]) for row in rows]
    turn, position = divmod(iteration, len(settings.turns))
    members, steps = range(settings.group_size), settings.turns[position]
    selection = settings.learn_from
    learn_from = None if selection is None else selection.of(steps - 1, turn, seed_of(seed, "learn_from", iteration))
    items = []
    for start in range(0, settings.groups, settings.groups_per_item):
        groups = range(start, min(start + settings.groups_per_item, settings.groups))
        seeds = tuple(seed_of(seed, "rollout", iteration, group, member) for group in groups for member in members)
        compositions_of = tuple(chosen[group] for group in groups)
        items.append(
            WorkItem(
                iteration,
                compositions_of,
                seeds,
                steps,
                settings.shared_start,
                precision,
                learn_from,
                noise_elsewhere=selection is None or selection.kind == "random",
                noisy=noisy,
            )
        )
    return items


def run_item(
    item: WorkItem, policy: Policy, base: BaseDistribution, with_base: bool, device: torch.device
) -> Trajectory:
    """Roll out an item: x_0 comes from the base distribution, noise and jumps from the members' seeds."""
    x_0 = base.sample(item.species, item.start_seeds).to(device)
    fields = policy.active if item.noisy else ()
    noise = draw_noise(x_0, item.steps, item.seeds, fields, policy.drift.per_structure)
    jumps = None
    if policy.species is not None:
        x_0 = policy.species.start(x_0, item.start_seeds, policy.base_network.settings.max_atomic_number)
        jumps = draw_jumps(x_0, item.steps, item.seeds)
    times = policy.times(item.steps)
    learn_from = item.learn_from
    if policy.acts_from:
        learn_from = tuple(range(policy.first_step(times), item.steps - 1))
    # Without noise there is no policy gradient, and so nothing that the base's outputs are recorded for.
    with_base = with_base and item.noisy
    return rollout(policy.at(item.precision), x_0, times, noise, with_base, jumps, learn_from, item.noise_elsewhere)
