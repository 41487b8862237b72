"""Cost of the control plane: iterations of actors that only wait, against the time that they wait.

    python scripts/benchmarks/control_plane.py --workers 1 4 16 32

Every rollout actor gets two items per iteration; there is one reward actor per four rollout actors. The table has the
seconds of an iteration, the ideal, the controller's own processor time per item, the prediction of a simulation with
that time, and the seconds that weights of 12 million parameters add. In the simulation, actors wait exactly and one
controller serves one message after another; it then predicts 100 and 1,000 actors on machines of their own.
"""

from __future__ import annotations

import argparse
import heapq
import time
from collections import deque

from waiting import Waits, waiting_trainer

from omatg_ray.distributed.cluster import join_cluster
from omatg_ray.distributed.settings import RaySettings
from omatg_ray.rl.settings import RolloutSettings

ITERATIONS = 5
ITEMS_EACH = 2
WAITS = Waits(rollout=1.0, reward=0.25, learn=0.5)
LARGE = 12_000_000


def ideal(waits: Waits, rollouts: int, rewards: int) -> float:
    """Return the seconds of an iteration if only waiting took time: rewards of a wave overlap the next rollouts."""
    waves = -(-rollouts // rewards)
    return ITEMS_EACH * waits.rollout + waves * waits.reward + waits.learn


def simulated(waits: Waits, rollouts: int, rewards: int, cost: float) -> float:
    """Simulate the seconds of an iteration in which each item costs the controller `cost` s, one message at a time.

    Half of it goes into handling a finished rollout (fetching it, its reward, the next rollout), half into a finished
    reward. Rollouts start together with the iteration, and the learner starts when all rewards are there.
    """
    left, waiting, idle = ITEMS_EACH * rollouts, deque[float](), rewards
    events = [(waits.rollout, "rollout") for _ in range(rollouts)]
    left -= rollouts
    free = done = 0.0
    while events:
        at, what = heapq.heappop(events)
        free = done = max(at, free) + cost / 2
        if what == "reward":
            idle += 1
        else:
            waiting.append(done)
            if left:
                left -= 1
                heapq.heappush(events, (done + waits.rollout, "rollout"))
        while waiting and idle:
            waiting.popleft()
            idle -= 1
            heapq.heappush(events, (done + waits.reward, "reward"))
    return done + waits.learn


def seconds_per_iteration(waits: Waits, rollouts: int, rewards: int) -> tuple[float, float]:
    """Measure the seconds of an iteration and the controller's processor time per item: means after a first one."""
    settings = RolloutSettings(groups=ITEMS_EACH * rollouts, group_size=16, steps=10)
    with waiting_trainer(waits, rollouts, rewards, settings, ITERATIONS) as trainer:
        trainer.step()
        start, spent = time.perf_counter(), time.process_time()
        for _ in range(ITERATIONS - 1):
            trainer.step()
        seconds, cpu = time.perf_counter() - start, time.process_time() - spent
        return seconds / (ITERATIONS - 1), cpu / (ITERATIONS - 1) / (ITEMS_EACH * rollouts)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 4, 16, 32], help="rollout actors")
    options = parser.parse_args()
    with join_cluster(RaySettings()):
        columns = f"{'ideal':>8}{'measured':>10}{'efficiency':>12}{'CPU ms per item':>17}{'simulated':>11}"
        print(f"{'rollout + reward actors':<26}{columns}{'12 M weights':>14}")
        costs = []
        for n in options.workers:
            rewards = max(1, n // 4)
            best, (found, cost) = ideal(WAITS, n, rewards), seconds_per_iteration(WAITS, n, rewards)
            heavy, light = (
                seconds_per_iteration(Waits(0.0, 0.0, 0.0, weights=count), n, rewards)[0] for count in (LARGE, 1)
            )
            costs.append(cost)
            figures = f"{best:>8.2f}{found:>10.2f}{best / found:>12.1%}{1000 * cost:>17.2f}"
            figures += f"{simulated(WAITS, n, rewards, cost):>11.2f}{heavy - light:>12.2f} s"
            print(f"{f'{n} + {rewards}':<26}{figures}", flush=True)
    cost = costs[-1]
    print(f"simulated with {1000 * cost:.2f} ms an item, that is at most {1 / cost:,.0f} items a second:")
    for n in (100, 1000):
        best, found = ideal(WAITS, n, n // 4), simulated(WAITS, n, n // 4, cost)
        print(f"{f'{n} + {n // 4}':<26}{best:>8.2f}{found:>10.2f}{best / found:>12.1%}")


if __name__ == "__main__":
    main()
