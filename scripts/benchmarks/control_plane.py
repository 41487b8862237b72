"""What the control plane costs: iterations of actors that only wait, against the time that they wait.

    python scripts/benchmarks/control_plane.py --workers 1 4 16 32

Every rollout actor gets two items an iteration; one reward actor for four of them. Then the seconds that an iteration
takes longer with weights of 12 million parameters, and what the first would be with 1,000 actors: each item costs the
controller the seconds measured here per item, whoever made it, one after another.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from waiting import Waits, waiting_trainer

from omatg_ray.distributed.cluster import joined
from omatg_ray.distributed.settings import RaySettings
from omatg_ray.rl.work import RolloutSettings

ITERATIONS = 5
ITEMS_EACH = 2
WAITS = Waits(rollout=1.0, reward=0.25, learn=0.5)
LARGE = 12_000_000


def ideal(waits: Waits, rollouts: int, rewards: int) -> float:
    """Seconds of an iteration if nothing but waiting took time: rewards of a wave run under the next rollouts."""
    waves = -(-rollouts // rewards)
    return ITEMS_EACH * waits.rollout + waves * waits.reward + waits.learn


def seconds_per_iteration(waits: Waits, rollouts: int, rewards: int) -> float:
    """Mean over iterations after a first one."""
    settings = RolloutSettings(groups=ITEMS_EACH * rollouts, group_size=16, steps=10)
    with waiting_trainer(waits, rollouts, rewards, settings, ITERATIONS) as trainer:
        trainer.step()
        start = time.perf_counter()
        for _ in range(ITERATIONS - 1):
            trainer.step()
        return (time.perf_counter() - start) / (ITERATIONS - 1)


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 4, 16, 32], help="rollout actors")
    options = parser.parse_args()
    with joined(RaySettings()):
        columns = f"{'ideal':>8}{'measured':>10}{'efficiency':>12}{'ms per item':>13}{'12 M weights':>14}"
        print(f"{'rollout + reward actors':<26}{columns}")
        points = []
        for n in options.workers:
            rewards = max(1, n // 4)
            best, found = ideal(WAITS, n, rewards), seconds_per_iteration(WAITS, n, rewards)
            heavy = Waits(0.0, 0.0, 0.0, weights=LARGE)
            light = Waits(0.0, 0.0, 0.0, weights=1)
            weights = seconds_per_iteration(heavy, n, rewards) - seconds_per_iteration(light, n, rewards)
            points.append((ITEMS_EACH * n, found - best))
            each = 1000 * (found - best) / (ITEMS_EACH * n)
            figures = f"{best:>8.2f}{found:>10.2f}{best / found:>12.1%}{each:>13.2f}{weights:>12.2f} s"
            print(f"{f'{n} + {rewards}':<26}{figures}", flush=True)
        if len(points) > 1:
            items, over = np.array(points).T
            slope, fixed = np.polyfit(items, over, 1)
            total = fixed + slope * ITEMS_EACH * 1000
            best = ideal(WAITS, 1000, 250)
            print(
                f"fit: {1000 * fixed:.0f} ms + {1000 * slope:.2f} ms an item; 1,000 actors, {ITEMS_EACH} items each: "
                f"{total:.1f} s over {best:.2f} s, efficiency {best / (best + total):.0%}"
            )


if __name__ == "__main__":
    main()
