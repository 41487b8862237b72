"""Reinforcement, iteration by iteration: plan, roll out, reward, compare within groups, learn."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from omatg_ray.crystal.batch import Layout
from omatg_ray.rl.advantage import group_advantages, spread_within
from omatg_ray.rl.backend import TrainingBackend
from omatg_ray.rl.flow_matching import TrainingCrystals
from omatg_ray.rl.replay import Replay
from omatg_ray.rl.scoring import distances_of, gradient_of, mean_distance, rest_of, reward_metrics, rewards_of
from omatg_ray.rl.settings import MATCHING, REPLAY, AdvantageSettings, RolloutSettings
from omatg_ray.rl.signal import Signal
from omatg_ray.rl.work import WorkItem, plan_iteration


class Trainer:
    """The loop over iterations, independent of the backend that does the work.

    Iteration i is sampled with version max(0, i − k) of the weights, where k is `settings.max_staleness`: up to k
    iterations are in flight while the learner works on the one before. Ratios refer to the version that sampled, and
    iterations are learned from in order, so for every k a run has exactly one result.

    Args:
        settings: Sampling of an iteration.
        compositions: Atomic numbers of the training cells.
        advantage: Conversion of rewards to advantages.
        backend: Rolls out, scores and learns.
        seed: Seed of the run.
        total: Iterations of the run; none beyond them are sampled ahead.
        iteration: Iterations already done.
        by_policy: Whether the policy gradient is used.
        by_gradient: Whether the gradients of rewards are used, for the rewards that have one.
        training_crystals: Crystals whose flow is matched beside the rewards; None: none.
        replay: Keeps the best crystals known and found, whose flow is matched; None: none.
        epochs: Updates of an iteration, each of which matches the flow of other crystals.
    """

    def __init__(
        self,
        settings: RolloutSettings,
        compositions: Sequence[Sequence[int]],
        advantage: AdvantageSettings,
        backend: TrainingBackend,
        seed: int,
        total: int,
        iteration: int = 0,
        by_policy: bool = True,
        by_gradient: bool = False,
        training_crystals: TrainingCrystals | None = None,
        replay: Replay | None = None,
        epochs: int = 1,
    ) -> None:
        self.settings, self.compositions, self.advantage = settings, compositions, advantage
        self.backend, self.seed, self.total, self.iteration = backend, seed, total, iteration
        self.by_policy, self.by_gradient = by_policy, by_gradient
        self.training_crystals, self.replay, self.epochs = training_crystals, replay, epochs
        self._ahead: dict[int, list[WorkItem]] = {}

    def step(self) -> dict[str, float]:
        """Run one iteration. If every group is skipped (no spread, too few rewards), nothing is learned.

        Returns:
            Metrics: rewards, energies, shares of invalid and failed ones, the learner's, and the backend's timings.

        Raises:
            TrainingError: The loss is not finite, or more than 5 % of the trajectories or of the rewards failed.
            ClusterError: Actors cannot continue.
        """
        self._submit_ahead()
        items = self._ahead.pop(self.iteration)
        scored = self.backend.collect(self.iteration)
        rewards, distance = rewards_of(items, scored), distances_of(scored)
        advantages = gradient = None
        counted = rewards.isfinite() if self.by_gradient else torch.zeros_like(rewards, dtype=torch.bool)
        if self.by_policy:
            compared = rest_of(scored, rewards) if self.by_gradient else rewards
            advantages = group_advantages(compared, self.advantage, distance)
            if self.by_gradient:
                # Beside gradients, which have the size that the weights of the rewards give them, so have these.
                advantages = advantages.times(spread_within(compared))
            counted = counted | advantages.counted
        metrics = reward_metrics(rewards, advantages, [item.result for item in scored])
        if distance is not None:
            metrics["diversity"] = mean_distance(distance)
        rows = counted.flatten().nonzero().squeeze(1)
        if self.by_gradient:
            sizes = torch.tensor([len(species) for item in scored for species in item.compositions])
            gradient = gradient_of(scored).select(rows, Layout(sizes))
        advantage = None if advantages is None else advantages.values.flatten()[rows]
        examples = {}
        if self.replay is not None:
            self.replay.add(item.best for item in scored if item.best is not None)
            metrics |= {"replay_crystals": float(len(self.replay)), "replay_reward": self.replay.reward}
            if len(self.replay):
                examples[REPLAY] = [self.replay.examples(turn) for turn in self._turns()]
        if self.training_crystals is not None and (len(rows) or examples):
            examples[MATCHING] = [self.training_crystals.examples(turn) for turn in self._turns()]
        metrics |= self.backend.learn(self.iteration, Signal(rows, advantage, gradient, examples))
        self.iteration += 1
        return metrics | self.backend.timings()

    def _turns(self) -> range:
        """Return the numbers of this iteration's updates, counted over the run."""
        return range(self.iteration * self.epochs, (self.iteration + 1) * self.epochs)

    def _submit_ahead(self) -> None:
        """Submit this iteration, unless it is in flight, and those that may be sampled with weights available now."""
        staleness = self.settings.max_staleness
        for iteration in range(self.iteration, self.iteration + staleness + 1):
            if iteration in self._ahead or (iteration > self.iteration and iteration >= self.total):
                continue
            self._ahead[iteration] = plan_iteration(
                self.settings, self.compositions, iteration, self.seed, self.by_policy
            )
            self.backend.submit(self._ahead[iteration], version=max(0, iteration - staleness))
