"""What an iteration samples: work items that say everything about themselves.

An item's seeds derive from (run seed, iteration, group, member). Which worker runs it, and how often it was retried,
never changes what it gives.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from pydantic import Field, field_validator, model_validator

from omatg_ray.crystal.base import BaseDistribution
from omatg_ray.flow.network import Precision
from omatg_ray.flow.species import draw_jumps
from omatg_ray.policy.policy import Policy, draw_noise
from omatg_ray.rl.trajectory import Trajectory, rollout
from omatg_ray.seeding import generator, seed_of
from omatg_ray.settings import Settings


class LearnFrom(Settings):
    """Learning from some of the Euler steps of an iteration; a number alone is that of the steps."""

    steps: int = Field(ge=1, description="Euler steps of an iteration that are learned from")
    kind: Literal["window", "random"] = Field(
        "window",
        description="window: consecutive steps, which alone take noise, and which move on from iteration to iteration "
        "(MixGRPO, arXiv 2507.21802) · random: drawn anew for every iteration, all steps take noise",
    )

    @model_validator(mode="before")
    @classmethod
    def _steps_alone(cls, values: Any) -> Any:
        # True and False are numbers to Python.
        return {"steps": values} if type(values) is int else values

    def windows(self, n_steps: int) -> int:
        """Iterations until a window has been everywhere on trajectories of so many steps; 1 where there are none."""
        return 1 if self.kind == "random" else -(-n_steps // self.steps)

    def of(self, n_steps: int, turn: int, seed: int) -> tuple[int, ...]:
        """The steps of an iteration, increasing.

        Args:
            n_steps: Euler steps of its trajectories.
            turn: Rounds of all numbers of grid points before it.
            seed: What random steps are drawn with.
        """
        if self.kind == "random":
            return tuple(sorted(torch.randperm(n_steps, generator=generator(seed))[: self.steps].tolist()))
        windows = self.windows(n_steps)
        # Evenly spaced, so that they overlap as little as they can where they do not fit exactly.
        start = turn % windows * (n_steps - self.steps) // max(windows - 1, 1)
        return tuple(range(start, start + self.steps))


class RolloutSettings(Settings):
    """What one iteration samples."""

    groups: int = Field(16, ge=1, description="compositions per iteration")
    group_size: int = Field(64, ge=2, description="trajectories per composition, compared with each other")
    steps: int | list[int] = Field(
        50,
        description="grid points of the time grid; one Euler step fewer. Several numbers take turns, iteration by "
        "iteration (validation.steps: those of validations, by default the first)",
    )
    shared_start: bool = Field(False, description="all trajectories of a group start from the same x_0")
    groups_per_item: int = Field(1, ge=1, description="groups that one rollout call integrates together")
    max_staleness: int = Field(
        0,
        ge=0,
        description="iterations that may be sampled ahead, with weights older by as many, while actors learn; 0: "
        "on-policy",
    )
    learn_from: LearnFrom | None = Field(
        None, description="Euler steps that are learned from: {steps: 3, kind: window or random}; null: all"
    )
    precision: Literal["float32", "bfloat16", "auto"] = Field(
        "float32",
        description="of the networks in rollouts and in learning from them: float32, or bfloat16 for matrix products "
        "and messages (weights, residuals and heads stay float32), about twice as fast on hardware that has it, and "
        "refused where it shifts actions by more than a tenth of their noise; auto: bfloat16 where this machine has it "
        "and it is not refused, else float32. Validations are in float32",
    )

    @model_validator(mode="after")
    def _no_more_steps_than_there_are(self) -> RolloutSettings:
        fewest = min(self.turns) - 1
        if self.learn_from is not None and self.learn_from.steps > fewest:
            raise ValueError(
                f"learn_from.steps = {self.learn_from.steps}: trajectories over {fewest + 1} grid points have {fewest} "
                "Euler steps; take fewer, or learn_from=null for all"
            )
        return self

    @field_validator("steps", mode="plain")
    @classmethod
    def _one_or_several(cls, steps: object) -> int | list[int]:
        several = steps if isinstance(steps, list) else [steps]
        if not several or not all(type(points) is int and points >= 2 for points in several):
            raise ValueError(f"a whole number of at least 2 grid points, or a list of such, not {steps!r}")
        return steps  # type: ignore[return-value]

    @property
    def turns(self) -> list[int]:
        """Grid points of the iterations, which take turns."""
        return [self.steps] if isinstance(self.steps, int) else self.steps

    @property
    def period(self) -> int:
        """Iterations after which the numbers of grid points and the windows are the same again."""
        some = self.learn_from
        windows = [1 if some is None else some.windows(points - 1) for points in self.turns]
        return len(self.turns) * math.lcm(*windows)


@dataclass(frozen=True)
class WorkItem:
    """Groups to roll out together.

    Attributes:
        iteration: Iteration it belongs to.
        compositions: Atomic numbers of each group's cell; where species are generated, only how many they are counts.
        seeds: One seed per member, group by group; len(compositions) · group_size of them.
        steps: Grid points.
        shared_start: The members of a group start from the x_0 of the first.
        precision: In which the networks are evaluated.
        learn_from: Steps that are learned from; None: all.
        noise_elsewhere: Whether the others take noise, too.
    """

    iteration: int
    compositions: tuple[tuple[int, ...], ...]
    seeds: tuple[int, ...]
    steps: int
    shared_start: bool = False
    precision: Precision = "float32"
    learn_from: tuple[int, ...] | None = None
    noise_elsewhere: bool = True

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


def plan_iteration(
    settings: RolloutSettings, compositions: Sequence[Sequence[int]], iteration: int, seed: int
) -> list[WorkItem]:
    """The items of an iteration (from 0): compositions in an order that visits each once before any twice.

    Args:
        settings: With a precision that is decided.
        compositions: Atomic numbers of every training cell.
        seed: Seed of the run.
    """
    precision = settings.precision
    assert precision != "auto", "decided before work is planned (commands/prepare.py)"
    chosen, orders = [], {}
    for group in range(settings.groups):
        visit, place = divmod(iteration * settings.groups + group, len(compositions))
        if visit not in orders:
            orders[visit] = torch.randperm(len(compositions), generator=generator(seed, "visit", visit))
        chosen.append(tuple(compositions[int(orders[visit][place])]))
    turn, place = divmod(iteration, len(settings.turns))
    members, steps = range(settings.group_size), settings.turns[place]
    some = settings.learn_from
    learn_from = None if some is None else some.of(steps - 1, turn, seed_of(seed, "learn_from", iteration))
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
                noise_elsewhere=some is None or some.kind == "random",
            )
        )
    return items


def run_item(
    item: WorkItem,
    policy: Policy,
    base: BaseDistribution,
    with_base: bool,
    device: torch.device,
    version: int,
) -> Trajectory:
    """Rolls out an item: x_0 from the base distribution, noise and jumps from the members' seeds."""
    x_0 = base.sample(item.species, item.start_seeds).to(device)
    noise = draw_noise(x_0, item.steps, item.seeds, policy.active, policy.drift.per_structure)
    jumps = None
    if policy.species is not None:
        x_0 = policy.species.start(x_0, item.start_seeds, policy.base_network.settings.max_atomic_number)
        jumps = draw_jumps(x_0, item.steps, item.seeds)
    times = policy.times(item.steps)
    return rollout(
        policy.at(item.precision), x_0, times, noise, with_base, version, jumps, item.learn_from, item.noise_elsewhere
    )
