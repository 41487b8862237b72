"""Seconds and memory to generate a crystal against its atoms: all pairs, nearest atoms, pooled messages.

    python scripts/benchmarks/large_cells.py --atoms 4 8 16 24 36 52 --crystals 16

Networks of one size with random weights, ten grid points, one thread, processor time. Each case runs in a process of
its own, whose memory is what it has above that of a single atom.
"""

from __future__ import annotations

import argparse
import time
from typing import NamedTuple

import torch
from apart import apart, peak

from omatg_ray.crystal.base import BaseDistribution
from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.flow.network import CSPNet
from omatg_ray.flow.settings import NetworkSettings, PathSettings
from omatg_ray.model.description import ModelDescription
from omatg_ray.model.flow_model import FlowModel
from omatg_ray.model.sampling import Sampling

NETWORKS = {
    "all pairs": {},
    "16 nearest": {"neighbors": 16},
    "pooled": {"pooled": True},
    "pooled, 16 nearest": {"pooled": True, "neighbors": 16},
}
POINTS, REPEATS = 10, 3


class Cost(NamedTuple):
    """Processor seconds and MiB of generating some crystals."""

    seconds: float
    memory: float


def model_of(network: NetworkSettings) -> FlowModel:
    """Return a model with random weights."""
    torch.manual_seed(0)
    crystals = CrystalBatch(torch.ones(2), torch.rand(2, 3), 4 * torch.eye(3).expand(2, 3, 3), torch.ones(2))
    description = ModelDescription(
        network=network,
        paths=PathSettings(),
        base_distribution=BaseDistribution.fit(crystals, "by_volume"),
        elements=["H"],
        sizes=[1],
    )
    return FlowModel(description, CSPNet(network))


def measure(changes: dict[str, object], hidden: int, atoms: int, crystals: int) -> Cost:
    """Generate crystals after a single atom, and return what they cost."""
    torch.set_num_threads(1)
    model = model_of(NetworkSettings.model_validate({"hidden": hidden, **changes}))
    model.generate([[1]], Sampling(POINTS), seed=0)
    before, seconds = peak(model.device), []
    for _ in range(REPEATS):
        start = time.process_time()
        model.generate([[1] * atoms] * crystals, Sampling(POINTS), seed=0)
        seconds.append(time.process_time() - start)
    return Cost(min(seconds), peak(model.device) - before)


def main() -> None:
    """Print milliseconds for a crystal, and MiB for all of a case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--atoms", type=int, nargs="+", default=[4, 8, 16, 24, 36, 52])
    parser.add_argument("--crystals", type=int, default=16)
    parser.add_argument("--hidden", type=int, default=128)
    options = parser.parse_args()
    print(f"| atoms | {' | '.join(NETWORKS)} |\n|{'---|' * (len(NETWORKS) + 1)}")
    for atoms in options.atoms:
        calls = [(changes, options.hidden, atoms, options.crystals) for changes in NETWORKS.values()]
        costs = apart(measure, calls)
        cells = [f"{1000 * cost.seconds / options.crystals:.1f} ms, {cost.memory:.0f} MiB" for cost in costs]
        print(f"| {atoms} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
