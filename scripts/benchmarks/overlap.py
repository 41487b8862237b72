"""Gain of sampling ahead: seconds per iteration and idle shares at staleness 0, 1 and 2, with actors that only wait.

    python scripts/benchmarks/overlap.py

Two rollout actors, one reward actor and one learner; 4 items per iteration. The ideal at staleness 0 is two items per
rollout actor, then the reward of the last ones, then the learner; at staleness 1 it is the slowest role alone.
"""

from __future__ import annotations

import time

from waiting import Waits, idle, waiting_trainer

from omatg_ray.distributed.cluster import join_cluster
from omatg_ray.distributed.settings import RaySettings
from omatg_ray.rl.settings import RolloutSettings

ITERATIONS = 8
CASES = {
    "learner as long as rollouts": Waits(rollout=0.5, reward=0.25, learn=1.0),
    "reward of high latency": Waits(rollout=0.25, reward=0.5, learn=0.5),
    "learner short": Waits(rollout=0.5, reward=0.1, learn=0.2),
}


def main() -> None:
    """Measure and print."""
    with join_cluster(RaySettings()):
        print(f"{'':<30}{'staleness':>10}{'s/iteration':>13}   idle rollout, reward, learner")
        for name, waits in CASES.items():
            for staleness in (0, 1, 2):
                settings = RolloutSettings(groups=4, group_size=16, steps=10, max_staleness=staleness)
                with waiting_trainer(waits, 2, 1, settings, ITERATIONS) as trainer:
                    trainer.step()
                    start = time.perf_counter()
                    lines = [trainer.step() for _ in range(ITERATIONS - 1)]
                    seconds = (time.perf_counter() - start) / len(lines)
                shares = ", ".join(f"{idle(lines, role):.0%}" for role in ("rollout", "reward", "learner"))
                print(f"{name:<30}{staleness:>10}{seconds:>13.2f}   {shares}", flush=True)


if __name__ == "__main__":
    main()
