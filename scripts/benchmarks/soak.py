"""A run whose actors are killed at random all the time; then the same run in one process, undisturbed.

    python scripts/benchmarks/soak.py --minutes 30 --every 20 --out runs/soak

Reinforces the bundled model in small iterations on three simulated nodes. Every now and then one of its processes
(rollout, reward or learner) is killed (SIGKILL). Prints at the end: iterations, kills, iterations with repeated work,
memory of this process and of the object store over time, and whether weights and metrics equal those of the undisturbed
run bit for bit. Exit code 1 if they do not.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import ray
import torch
from ray._private import internal_api
from ray.cluster_utils import Cluster
from safetensors.torch import load_file

from omatg_ray.commands.train import train
from omatg_ray.config import Config
from omatg_ray.run.interrupt import Interrupted
from omatg_ray.run.metrics import read_metrics

CONFIG = Path(__file__).parents[2] / "configs" / "bundled_velocity.yaml"
SMALL = [
    "rollout={groups: 4, group_size: 8, steps: 8}", "validation={every: 100000, limit: 8}", "checkpoint.every=20",
    "threads=1", "workers=1",
]  # fmt: skip
ACTORS = ["ray.rollout.workers=3", "ray.reward.workers=2", "ray.strategy=spread"]
# Metrics that depend on the clock or on failures.
OTHERWISE = ("time_", "idle_", "startup_", "replaced_", "retried_")


class Killer(threading.Thread):
    """A thread that kills a process of the run now and then, records memory, and finally interrupts the run."""

    def __init__(self, run: Path, address: str, minutes: float, every: float) -> None:
        super().__init__(daemon=True)
        self.run_folder, self.address, self.end, self.every = run, address, time.monotonic() + 60 * minutes, every
        self.kills: list[str] = []
        self.memory: list[tuple[float, float, float]] = []

    def run(self) -> None:
        """Kill and record until the time is over."""
        chance, following = random.Random(0), time.monotonic() + self.every
        begun = time.monotonic()
        while time.monotonic() < self.end:
            time.sleep(1.0)
            if len(self.memory) < (time.monotonic() - begun) / 10:
                self.memory.append((time.monotonic() - begun, self._resident(), self._stored()))
            if time.monotonic() >= following and (self.run_folder / "actors.json").exists():
                actor = chance.choice(json.loads((self.run_folder / "actors.json").read_text()))
                try:
                    os.kill(actor["pid"], signal.SIGKILL)
                    self.kills.append(actor["role"])
                except ProcessLookupError:
                    pass  # already replaced; the file is updated after the iteration
                following = time.monotonic() + self.every * chance.uniform(0.5, 1.5)
        os.kill(os.getpid(), signal.SIGINT)

    @staticmethod
    def _resident() -> float:
        return psutil.Process().memory_info().rss / 2**20

    def _stored(self) -> float:
        state = internal_api.get_state_from_address(self.address)
        used: float = internal_api.get_memory_info_reply(state).store_stats.object_store_bytes_used / 2**20
        return used


def lines(run: Path, until: int) -> list[dict[str, Any]]:
    """Return the metrics of the first iterations, without those that may differ."""
    kept = [line for line in read_metrics(run / "metrics.jsonl") if line["kind"] == "train" and line["step"] <= until]
    return [{name: value for name, value in line.items() if not name.startswith(OTHERWISE)} for line in kept]


def weights(run: Path, iteration: int) -> dict[str, torch.Tensor]:
    """Read all tensors of a checkpoint."""
    folder = run / "checkpoints" / f"iteration_{iteration:06d}"
    return load_file(folder / "weights.safetensors") | load_file(folder / "learner.safetensors")


def main() -> None:
    """Run, kill and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--every", type=float, default=20.0, help="seconds between kills, on average")
    parser.add_argument("--out", type=Path, required=True, help="new folder")
    options = parser.parse_args()
    torch.set_num_threads(1)
    disturbed, undisturbed = options.out / "disturbed", options.out / "undisturbed"

    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 4, "include_dashboard": False})
    for _ in range(2):
        nodes.add_node(num_cpus=4)
    ray.init(address=nodes.address, log_to_driver=False)
    killer = Killer(disturbed, nodes.address, options.minutes, options.every)
    killer.start()
    try:
        train(Config.load(CONFIG, [*SMALL, *ACTORS, f"run={disturbed}", "iterations=1000000"]))
    except Interrupted as stopped:
        print(stopped)
    ray.shutdown()
    nodes.shutdown()

    logged = [line for line in read_metrics(disturbed / "metrics.jsonl") if line["kind"] == "train"]
    count = int(logged[-1]["step"])
    replaced = {
        role: sum(line.get(f"replaced_{role}", 0) for line in logged) for role in ("rollout", "reward", "learner")
    }
    repeated = sum(any(line.get(f"replaced_{role}") for role in replaced) for line in logged)
    print(
        f"{count} iterations, {len(killer.kills)} kills; replaced: {replaced}; work repeated in {repeated} iterations"
    )
    quarter = max(1, len(killer.memory) // 4)
    for name, column in (("this process", 1), ("object store", 2)):
        first = [row[column] for row in killer.memory[quarter : 2 * quarter]]
        last = [row[column] for row in killer.memory[-quarter:]]
        means = [sum(values) / len(values) for values in (first, last)]
        print(f"{name}: {means[0]:.0f} MiB in the second quarter, {means[1]:.0f} in the last")

    train(Config.load(CONFIG, [*SMALL, f"run={undisturbed}", f"iterations={count}"]))
    ours, theirs = weights(disturbed, count), weights(undisturbed, count)
    same = ours.keys() == theirs.keys() and all(torch.equal(value, theirs[name]) for name, value in ours.items())
    complete = [line["step"] for line in logged] == list(range(1, count + 1))
    agree = lines(disturbed, count) == lines(undisturbed, count)
    print(f"every iteration logged once: {complete}; weights and optimizer equal: {same}; metrics equal: {agree}")
    sys.exit(0 if same and complete and agree else 1)


if __name__ == "__main__":
    main()
