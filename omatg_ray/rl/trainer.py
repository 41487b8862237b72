"""One iteration of reinforcement: plan, roll out, reward, compare within groups, learn."""

from __future__ import annotations

from collections.abc import Sequence

from omatg_ray.rl.advantage import AdvantageSettings, group_advantages
from omatg_ray.rl.crew import Crew
from omatg_ray.rl.judge import distances_of, mean_distance, reward_metrics, rewards_of
from omatg_ray.rl.work import RolloutSettings, plan_iteration


class Trainer:
    """Runs iterations, whoever does the work.

    Args:
        settings: What an iteration samples.
        compositions: Atomic numbers of the training cells.
        advantage: From rewards to advantages.
        crew: Rolls out, judges and learns.
        seed: Seed of the run.
        iteration: Iterations that are done already.
    """

    def __init__(
        self,
        settings: RolloutSettings,
        compositions: Sequence[Sequence[int]],
        advantage: AdvantageSettings,
        crew: Crew,
        seed: int,
        iteration: int = 0,
    ) -> None:
        self.settings, self.compositions, self.advantage = settings, compositions, advantage
        self.crew, self.seed, self.iteration = crew, seed, iteration

    def step(self) -> dict[str, float]:
        """One iteration. Where every group is skipped (no spread, too few rewards) nothing is learned.

        Returns:
            Its metrics: rewards, energies, shares of invalid and failed, the learner's, and the crew's timings.

        Raises:
            TrainingError: The loss is not finite, or more than 5 % of the trajectories or of the rewards failed.
            ClusterError: A crew of actors lost one of them.
        """
        items = plan_iteration(self.settings, self.compositions, self.iteration, self.seed)
        samples = self.crew.sample(items, version=self.iteration)
        rewards = rewards_of(items, samples.judged)
        distance = distances_of(samples.judged)
        advantages = group_advantages(rewards, self.advantage, distance)
        metrics = reward_metrics(rewards, advantages, [judged.result for judged in samples.judged])
        if distance is not None:
            metrics["diversity"] = mean_distance(distance)
        counted = advantages.counted.flatten().nonzero().squeeze(1)
        if len(counted):
            metrics |= self.crew.learn(samples.trajectories, counted, advantages.values.flatten()[counted])
        self.iteration += 1
        return metrics | self.crew.timings()
