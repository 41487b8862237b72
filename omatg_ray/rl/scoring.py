"""Scoring of an item's trajectories, and the limit on missing rewards."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from omatg_ray.crystal.batch import CrystalBatch, Layout
from omatg_ray.errors import TrainingError
from omatg_ray.reward.energy import MatGLEnergy
from omatg_ray.reward.gradient import Gradient
from omatg_ray.reward.protocol import REWARD, Reward, RewardResult, reward_of_known
from omatg_ray.reward.settings import SECOND
from omatg_ray.rl.advantage import Advantages, spread_within
from omatg_ray.rl.divergence import CORRELATION, SHIFT, rank_correlation
from omatg_ray.rl.replay import Best, best_of
from omatg_ray.rl.settings import ObjectiveSettings
from omatg_ray.rl.work import WorkItem

# Occasional failures of a reward are left out; a reward that fails more often than this is broken. The same holds for
# trajectories that overflow.
MAX_FAILED_SHARE = 0.05
NAMED_STRUCTURES = 10


@dataclass(frozen=True)
class ScoredItem:
    """The final crystals of an item, scored.

    Attributes:
        finite: Whether positions and lattice are finite (B,), on the CPU.
        result: Rewards and values; the reward is NaN where it failed and where the crystal is not finite.
        compositions: Atomic numbers of every crystal.
        distance: Distances between the members of every group (groups, members, members); None if not requested.
        best: The best members of every group, for the replay; None if not requested.
    """

    finite: Tensor
    result: RewardResult
    compositions: Sequence[tuple[int, ...]]
    distance: Tensor | None = None
    best: Best | None = None


def score_item(
    crystals: CrystalBatch,
    reward: Reward,
    members: int = 1,
    objective: ObjectiveSettings | None = None,
    energy: MatGLEnergy | None = None,
) -> ScoredItem:
    """Score the final crystals of an item.

    A trajectory that overflowed gets no reward, whatever the reward returns: its loss would be NaN. Where species are
    generated, a crystal with an element that the reward does not know is not scored and gets none either.

    Args:
        crystals: B crystals.
        reward: Scores each crystal by itself.
        members: Size of the item's groups, within which crystals are compared (`group_distances`).
        objective: Says whether the gradient of the reward is needed, of which a trajectory that overflowed has none,
            and what is kept for the replay; None: neither.
        energy: Relaxes what is kept for the replay.
    """
    with_gradient = objective is not None and objective.reward_gradient is not None
    replay = None if objective is None else objective.replay
    finite = crystals.layout.sum((~crystals.pos.isfinite()).sum(-1)).eq(0) & crystals.cell.flatten(1).isfinite().all(-1)
    finite = finite.cpu()
    compositions = list(map(tuple, crystals.atomic_numbers))
    result = reward_of_known(reward, crystals, with_gradient)
    gradients = {
        name: each.times(finite.double(), crystals.layout) for name, each in result.gradients.items() if name == REWARD
    }
    distance = None
    if members > 1:
        from omatg_ray.reward.fingerprint import group_distances

        distance = group_distances(crystals, members)
    scored = replace(result, reward=result.reward.where(finite, math.nan), gradients=gradients)
    best = None if replay is None else best_of(crystals, scored.reward, members, replay, reward, energy)
    return ScoredItem(finite, scored, compositions, distance, best)


def rewards_of(items: Sequence[WorkItem], scored: Sequence[ScoredItem]) -> Tensor:
    """Return the rewards (groups, members) of an iteration; NaN where a reward failed.

    Raises:
        TrainingError: More than 5 % of the trajectories or of the rewards failed; names the compositions.
    """
    _refuse_failures("trajectories are not finite", items, scored, [item.finite for item in scored])
    rewards = [item.result.reward for item in scored]
    _refuse_failures("rewards failed", items, scored, [reward.isfinite() for reward in rewards])
    return torch.cat(rewards).view(-1, items[0].group_size)


def gradient_of(scored: Sequence[ScoredItem]) -> Gradient:
    """Return the gradients of the rewards of an iteration; 0 where there is none."""
    layouts = [Layout(torch.tensor([len(species) for species in item.compositions])) for item in scored]
    return Gradient.cat(
        [
            item.result.gradients.get(REWARD) or Gradient.zeros(layout)
            for item, layout in zip(scored, layouts, strict=True)
        ]
    )


def rest_of(scored: Sequence[ScoredItem], like: Tensor) -> Tensor:
    """Return the rewards without the parts that are learned from by their gradient, in the shape of `like`."""
    rest = [item.result.reward if item.result.rest is None else item.result.rest for item in scored]
    return torch.cat(rest).view_as(like).where(like.isfinite(), math.nan)


def distances_of(scored: Sequence[ScoredItem]) -> Tensor | None:
    """Return the distances (groups, members, members) of an iteration; None if they were not requested."""
    distances = [item.distance for item in scored if item.distance is not None]
    return torch.cat(distances) if distances else None


def mean_distance(distance: Tensor) -> float:
    """Return the mean distance between different members, over all groups of (groups, members, members)."""
    different = ~torch.eye(distance.shape[1], dtype=torch.bool)
    return _mean(distance[:, different])


def _refuse_failures(
    what: str, items: Sequence[WorkItem], scored: Sequence[ScoredItem], good: Sequence[Tensor]
) -> None:
    failed = [
        composition
        for item, flags in zip(scored, good, strict=True)
        for composition, ok in zip(item.compositions, flags.tolist(), strict=True)
        if not ok
    ]
    total = sum(len(item.seeds) for item in items)
    if len(failed) > MAX_FAILED_SHARE * total:
        names = formulas(sorted(set(failed)))
        more = ", ..." if len(names) > NAMED_STRUCTURES else ""
        raise TrainingError(
            f"{len(failed)} of {total} {what} in iteration {items[0].iteration + 1} ({MAX_FAILED_SHARE:.0%} allowed): "
            f"{', '.join(names[:NAMED_STRUCTURES])}{more}"
        )


def formulas(compositions: Sequence[Sequence[int]]) -> list[str]:
    """Return the formulas of cells given by their atomic numbers."""
    return CrystalBatch(
        torch.tensor([z for composition in compositions for z in composition]),
        torch.zeros(sum(map(len, compositions)), 3),
        torch.eye(3).repeat(len(compositions), 1, 1),
        torch.tensor([len(composition) for composition in compositions]),
    ).formulas()


def reward_metrics(rewards: Tensor, advantages: Advantages | None, results: Sequence[RewardResult]) -> dict[str, float]:
    """Summarise an iteration's rewards (groups, members) and the values behind them; NaN where there are none.

    Without advantages, nothing is said of groups. `reward_std` is the mean standard deviation within groups, of all
    rewards where groups have one member.

    Every value appears as `reward_<name>_mean`, except energies and validity, which have names of their own. With a
    second potential, `second_rank_correlation` and `second_shift` say how well the two agree (`DivergenceWatch`).
    """
    # Groups of one have no spread of their own.
    compared = rewards if rewards.shape[1] > 1 else rewards.T
    spreads = spread_within(compared)[compared.isfinite().any(1)]
    metrics = {
        "reward_mean": _mean(rewards),
        "reward_std": _mean(spreads),
        "failed_share": float((~rewards.isfinite()).sum()) / rewards.numel(),
    }
    if advantages is not None:
        metrics["groups_skipped"] = float(advantages.skipped_groups)
    values = columns(results)
    if (valid := values.pop("valid", None)) is not None:
        metrics["invalid_share"] = 1.0 - _mean(valid)
    if (energy := values.pop("energy_per_atom", None)) is not None:
        metrics |= {"energy_mean": _mean(energy), "energy_median": float(energy.nanmedian())}
    metrics |= {f"reward_{name}_mean": _mean(column) for name, column in values.items()}
    if f"{SECOND}.difference" in values:
        second, difference = (values[f"{SECOND}.{name}"] for name in ("energy_per_atom", "difference"))
        groups = ((second - difference).view(rewards.shape), second.view(rewards.shape))
        metrics |= {CORRELATION: rank_correlation(*groups), SHIFT: _mean(values[f"{SECOND}.shift"])}
    return metrics


def columns(results: Sequence[RewardResult]) -> dict[str, Tensor]:
    """Collect the values of all structures by name; NaN where a result lacks one that others have."""
    names = dict.fromkeys(name for result in results for name in result.values)
    return {
        name: torch.cat([r.values.get(name, torch.full_like(r.reward, math.nan)) for r in results]) for name in names
    }


def _mean(values: Tensor) -> float:
    """Return the mean of the finite values, NaN if there are none."""
    finite = values[values.isfinite()]
    return float(finite.mean()) if len(finite) else math.nan
