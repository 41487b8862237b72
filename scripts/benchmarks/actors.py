"""An iteration of reinforcement in one process and on actors: seconds per stage, and idle shares of actors.

    python scripts/benchmarks/actors.py runs/base POTENTIAL

Runs `configs/perov5_velocity.yaml` with items of one group. Medians over iterations, without the first one.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import mean, median

from omatg_ray.config import Config
from omatg_ray.rl.trainer import Trainer
from omatg_ray.train.backend import run_backend
from omatg_ray.train.build import build_run

CONFIG = Path(__file__).parents[2] / "configs" / "perov5_velocity.yaml"
SHARES = [f"ray.{role}.cpus=0.25" for role in ("rollout", "reward", "learner")]
CASES = {
    "one process, 1 thread": ["threads=1"],
    "one process, 2 threads": ["threads=2"],
    "1 + 1 actors, learner 1 thread": ["threads=1", "ray.rollout.workers=1", *SHARES],
    "2 + 1 actors, learner 2 threads": ["threads=1", "ray.rollout.workers=2", "ray.learner.threads=2", *SHARES],
    "3 + 2 actors, learner 1 thread": ["threads=1", "ray.rollout.workers=3", "ray.reward.workers=2", *SHARES],
}
STAGES = ("rollout", "reward", "learn", "weights")


def measure(words: list[str], iterations: int) -> list[dict[str, float]]:
    """Return the metrics of some iterations after a first one."""
    config = Config.load(CONFIG, words)
    parts = build_run(config)
    with run_backend(config, parts, progress=False) as backend:
        trainer = Trainer(
            config.rollout, parts.compositions, config.advantage, backend.train, config.seed, config.iterations
        )
        return [trainer.step() for _ in range(iterations + 1)][1:]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", help="model or run folder")
    parser.add_argument("potential", help="MatGL potential")
    parser.add_argument("--iterations", type=int, default=5, help="iterations to measure (default 5)")
    options = parser.parse_args()
    words = [f"base={options.base}", f"reward.potential={options.potential}", "rollout.groups_per_item=1"]

    print(f"{'seconds':<34}{''.join(f'{stage:>9}' for stage in STAGES)}{'in all':>9}   idle rollout, reward, learner")
    for name, more in CASES.items():
        found = measure(words + more, options.iterations)
        seconds = [median(metrics.get(f"time_{stage}", 0.0) for metrics in found) for stage in STAGES]
        idle = []
        for role in ("rollout", "reward", "learner"):
            shares = [
                mean(v for k, v in m.items() if k.startswith(f"idle_{role}")) for m in found if "idle_learner_0" in m
            ]
            idle += [f"{median(shares):.0%}"] if shares else []
        total = sum(seconds)
        print(f"{name:<34}{''.join(f'{s:>9.2f}' for s in seconds)}{total:>9.2f}   {', '.join(idle)}", flush=True)


if __name__ == "__main__":
    main()
