"""Time saved by each shortcut in an iteration of a configuration: seconds per stage, one table.

    python scripts/benchmarks/shortcuts.py --clock processor rollout.group_size=16

Words at the end override keys of the configuration. The run uses this process alone, in one thread unless a word says
otherwise. Every shortcut starts from the same weights, over the same crystals; they iterate in turns, and the first
iterations are not counted. Seconds are medians; the ratio is that of the iteration to the one without any shortcut.
How well an iteration learns is another question: a shortcut pays if it learns more per second.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from statistics import median

from products import CLOCKS
from workload import Iterations, Timed

from omatg_ray.config import Config
from omatg_ray.errors import OmatgRayError
from omatg_ray.rl.learner import Learner
from omatg_ray.rl.work import plan_iteration
from omatg_ray.train.build import build_run, policy_model
from omatg_ray.train.components import RunComponents
from omatg_ray.train.precision import refuse_coarse, resolve_precision

PLAIN = "plain"
CONFIG = Path(__file__).parents[2] / "configs" / "bundled_velocity.yaml"


def ways(count: int) -> dict[str, list[str]]:
    """Return the overrides of each shortcut; `count` is the number of steps to learn from, where it applies."""
    window = f"{{transitions: {count}, kind: window}}"
    settings = {
        PLAIN: ("float32", "null"),
        "bfloat16": ("bfloat16", "null"),
        f"window of {count}": ("float32", window),
        f"{count} random steps": ("float32", f"{{transitions: {count}, kind: random}}"),
        f"window of {count}, bfloat16": ("bfloat16", window),
    }
    return {
        name: [f"rollout.precision={precision}", f"rollout.learn_from={learn_from}"]
        for name, (precision, learn_from) in settings.items()
    }


class Way:
    """A run of the configuration in this process, from its start.

    Args:
        config: Configuration with the shortcut.
        parts: Result of `build_run` for the same run without it.
        clock: See `CLOCKS`.

    Raises:
        ConfigError: A precision of the shortcut is too low for the run.
    """

    def __init__(self, config: Config, parts: RunComponents, clock: str) -> None:
        self.model = model = policy_model(parts.start, config, parts.scorers, parts.split.train.elements)
        own = replace(parts, model=model)
        refuse_coarse(config, own)
        self._config, self._compositions = resolve_precision(config, own), parts.compositions
        learner = Learner(model.policy(), config.objective, config.learner)
        self._iterations = Iterations(model, learner, parts.reward, clock, config.advantage, distances=True)

    def iterate(self, iteration: int) -> Timed:
        """Do one iteration (from 0); call them in order."""
        rollout, seed = self._config.rollout, self._config.seed
        return self._iterations.iterate(plan_iteration(rollout, self._compositions, iteration, seed))


def timed(runs: dict[str, Way], iterations: int) -> dict[str, list[Timed]]:
    """Time iterations of all runs, in turns."""
    found: dict[str, list[Timed]] = {name: [] for name in runs}
    for iteration in range(iterations):
        for name, way in runs.items():
            found[name].append(way.iterate(iteration))
        seconds = ", ".join(f"{seen[-1].iteration:.2f}" for seen in found.values())
        print(f"iteration {iteration + 1}: {seconds} s", flush=True)
    return found


def table(found: dict[str, list[Timed]]) -> None:
    """Print medians, and the ratios to the plain run."""
    stages = ("rollout", "reward", "learn", "iteration")
    print(f"{'way':<36}{''.join(f'{stage:>11}' for stage in stages)}{'ratio':>8}")
    plain = median(one.iteration for one in found[PLAIN])
    for name, seen in found.items():
        seconds = [median(getattr(one, stage) for one in seen) for stage in stages]
        print(f"{name:<36}{''.join(f'{value:>11.3f}' for value in seconds)}{seconds[-1] / plain:>8.2f}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--config", default=str(CONFIG), help="YAML file of a run; default: configs/bundled_velocity.yaml"
    )
    parser.add_argument("--learn-from", type=int, help="Euler steps to learn from; default: a third of all")
    parser.add_argument("--iterations", type=int, default=4, help="iterations of each run; the first is not timed")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="processor: for one busy core, with one thread")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="keys of the configuration")
    options = parser.parse_intermixed_args(arguments)
    if options.iterations < 2:
        parser.error("--iterations: at least 2, as the first is not timed")
    words = ["threads=1", "ray.rollout.workers=0", *options.overrides]
    try:
        steps = min(Config.load(options.config, words).rollout.turns) - 1
        configs = {
            name: Config.load(options.config, [*words, *shortcut])
            for name, shortcut in ways(options.learn_from or -(-steps // 3)).items()
        }
        parts = build_run(configs[PLAIN])
        with closing(parts.reward):
            runs = {name: Way(config, parts, options.clock) for name, config in configs.items()}
            found = timed(runs, options.iterations)
    except OmatgRayError as error:
        sys.exit(f"error: {error}")
    table({name: seen[1:] for name, seen in found.items()})


if __name__ == "__main__":
    main()
