"""One iteration of reinforcement: plan, roll out, reward, compare within groups, learn."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

import torch
from torch import Tensor

from omatg_ray.crystal.base import BaseDistribution
from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.errors import TrainingError
from omatg_ray.reward.protocol import Reward, RewardResult
from omatg_ray.rl.advantage import Advantages, AdvantageSettings, group_advantages
from omatg_ray.rl.learner import Learner
from omatg_ray.rl.trajectory import Trajectory
from omatg_ray.rl.work import RolloutSettings, plan_iteration, run_item

# A reward that fails now and then is left out; one that fails more often than this is broken. The same holds for
# trajectories that overflow.
MAX_FAILED_SHARE = 0.05
NAMED_STRUCTURES = 10


class Trainer:
    """Runs iterations in this process.

    Args:
        settings: What an iteration samples.
        compositions: Atomic numbers of the training cells.
        base: Distribution of x_0.
        reward: Judges the generated crystals.
        learner: Owns the policy and updates it.
        advantage: From rewards to advantages.
        seed: Seed of the run.
        device: Where rollouts run.
    """

    def __init__(
        self,
        settings: RolloutSettings,
        compositions: Sequence[Sequence[int]],
        base: BaseDistribution,
        reward: Reward,
        learner: Learner,
        advantage: AdvantageSettings,
        seed: int,
        device: torch.device,
    ) -> None:
        self.settings, self.compositions, self.base = settings, compositions, base
        self.reward, self.learner, self.advantage = reward, learner, advantage
        self.seed, self.device = seed, device
        self.iteration = 0

    def step(self) -> dict[str, float]:
        """One iteration. Where every group is skipped (no spread, too few rewards) nothing is learned.

        Returns:
            Its metrics: rewards, energies, shares of invalid and failed, the learner's, and seconds per stage.

        Raises:
            TrainingError: The loss is not finite, or more than 5 % of the trajectories or of the rewards failed.
        """
        clock = _Clock(self.device)
        items = plan_iteration(self.settings, self.compositions, self.iteration, self.seed)
        trajectories = [
            run_item(
                item, self.learner.policy, self.base, self.settings.steps, self.learner.needs_base, self.device,
                self.iteration,
            )
            for item in items
        ]  # fmt: skip
        clock.lap("time_rollout")
        crystals = [trajectory.final() for trajectory in trajectories]
        finite = [_finite(batch) for batch in crystals]
        self._refuse_failures("trajectories are not finite", crystals, finite)
        results = [self.reward(batch) for batch in crystals]
        # A trajectory that overflowed has no reward, whatever the reward says: its loss would be NaN.
        scores = [result.reward.where(ok.cpu(), math.nan) for result, ok in zip(results, finite, strict=True)]
        self._refuse_failures("rewards failed", crystals, [score.isfinite() for score in scores])
        clock.lap("time_reward")
        rewards = torch.cat(scores).view(-1, self.settings.group_size)
        advantages = group_advantages(rewards, self.advantage)
        metrics = reward_metrics(rewards, advantages, results)
        counted = advantages.counted.flatten().nonzero().squeeze(1)
        if len(counted):
            trajectory = Trajectory.cat(trajectories).select(counted)
            metrics |= self.learner.update(trajectory, advantages.values.flatten()[counted])
        clock.lap("time_learn")
        self.iteration += 1
        return metrics | clock.laps

    def _refuse_failures(self, what: str, crystals: Sequence[CrystalBatch], good: Sequence[Tensor]) -> None:
        """Stops the run where more structures failed than may, naming them."""
        failed = [name for batch, ok in zip(crystals, good, strict=True) for name in batch.select(~ok).formulas()]
        total = sum(len(batch) for batch in crystals)
        if len(failed) > MAX_FAILED_SHARE * total:
            names = sorted(set(failed))
            more = ", ..." if len(names) > NAMED_STRUCTURES else ""
            raise TrainingError(
                f"{len(failed)} of {total} {what} in iteration {self.iteration + 1} ({MAX_FAILED_SHARE:.0%} may): "
                f"{', '.join(names[:NAMED_STRUCTURES])}{more}"
            )


def reward_metrics(rewards: Tensor, advantages: Advantages, results: Sequence[RewardResult]) -> dict[str, float]:
    """Summary of an iteration's rewards (groups, members) and of the energies behind them; NaN where there are none."""
    spreads = [group[group.isfinite()].std(unbiased=False) for group in rewards if group.isfinite().any()]
    metrics = {
        "reward_mean": _mean(rewards),
        "reward_std": _mean(torch.tensor(spreads, dtype=torch.float64)),
        "failed_share": advantages.failed / rewards.numel(),
        "groups_skipped": float(advantages.skipped_groups),
    }
    if all("energy_per_atom" in result.values for result in results):
        energy = torch.cat([result.values["energy_per_atom"] for result in results])
        valid = torch.cat([result.values["valid"] for result in results])
        metrics |= {
            "energy_mean": _mean(energy),
            "energy_median": float(energy.nanmedian()),
            "invalid_share": 1.0 - _mean(valid),
        }
    return metrics


def _mean(values: Tensor) -> float:
    """Mean of the finite values, NaN where there is none."""
    finite = values[values.isfinite()]
    return float(finite.mean()) if len(finite) else math.nan


def _finite(crystals: CrystalBatch) -> Tensor:
    """Structures (B,) whose positions and lattice are finite."""
    return crystals.layout.sum((~crystals.pos.isfinite()).sum(-1)).eq(0) & crystals.cell.flatten(1).isfinite().all(-1)


class _Clock:
    """Seconds of consecutive stages; waits for the device, which works behind the program's back."""

    def __init__(self, device: torch.device) -> None:
        self.laps: dict[str, float] = {}
        self._device = device
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        now = time.perf_counter()
        self.laps[name] = now - self._last
        self._last = now
