"""A search of many formulas on a cluster of several nodes whose actors only wait: how long they have nothing to do.

    python scripts/benchmarks/search.py
    python scripts/benchmarks/search.py --formulas 200 --rewards 32 --generate 0.3 --relax 2 --learn 3

Everything but the seconds that actors and the sampler wait is real: Ray, the traffic, the rounds, the archive with its
fingerprints. The formulas work in two shifts, as always, and then in one, so that actors wait while the sampler learns.
The table has the seconds of a round of all formulas, the ideal (what the reward actors have to wait, shared out), and
the share of the time in which reward actors were idle.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, cast

import ray
import torch
from ray.cluster_utils import Cluster

from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.distributed.actor_set import ActorSet
from omatg_ray.distributed.evaluation_backend import RayEvaluationBackend
from omatg_ray.distributed.event_loop import EventLoop
from omatg_ray.distributed.failures import Timed
from omatg_ray.distributed.worker_group import WorkerGroup
from omatg_ray.evaluate.backend import Assessed, Block, Relaxation, Spent
from omatg_ray.model.flow_model import FlowModel
from omatg_ray.model.sampling import Sampling
from omatg_ray.run.versions import software
from omatg_ray.search.loop import BLOCK, SearchLoop, Work
from omatg_ray.search.sampler import FixedSampler
from omatg_ray.seeding import generator

NODES = 4


@dataclass(frozen=True)
class Waits:
    """Seconds of a block in a rollout actor and in a reward actor, and of the sampler after a round of a shift."""

    generate: float
    relax: float
    learn: float


class WaitingActor:
    """An actor that can play both roles."""

    def __init__(self, waits: Waits) -> None:
        self.waits = waits

    def info(self) -> Timed:
        about = {"pid": os.getpid(), "node_id": ray.get_runtime_context().get_node_id(), "software": software()}
        return Timed(about, 0.0)

    def generate(self, block: Block, *_: Any) -> tuple[CrystalBatch, Timed]:
        start = time.perf_counter()
        time.sleep(self.waits.generate)
        sizes = torch.tensor([len(numbers) for numbers in block.species])
        rng = generator(block.seed, "crystals", *block.indices)
        pos = torch.rand(int(sizes.sum()), 3, generator=rng, dtype=torch.float64)
        atoms = torch.tensor([number for numbers in block.species for number in numbers])
        cells = 6.0 * torch.eye(3, dtype=torch.float64).repeat(len(sizes), 1, 1)
        seconds = time.perf_counter() - start
        return CrystalBatch(atoms, pos, cells, sizes), Timed(Spent(seconds, seconds), seconds)

    def assess(self, crystals: CrystalBatch, *_: Any) -> Timed:
        start = time.perf_counter()
        time.sleep(self.waits.relax)
        energy = crystals.pos[:, 0][crystals.n_atoms.cumsum(0) - 1]
        steps = torch.full_like(energy, 100.0)
        after = Relaxation(crystals, energy, None, steps, steps > 0, 0.0)
        return Timed(Assessed(energy, None, relaxed=after), time.perf_counter() - start)


class WaitingSampler(FixedSampler):
    """A sampler whose learning is a wait."""

    def __init__(self, seconds: float) -> None:
        super().__init__(cast(FlowModel, torch.nn.Linear(1000, 1000)), 0)
        self.seconds = seconds

    def learn(self) -> None:
        time.sleep(self.seconds)


def measure(
    waits: Waits, formulas: int, batch: int, actors: dict[str, int], rounds: int, shifts: int
) -> Sequence[float]:
    """Return the seconds of a round of all formulas, and the idle share of the reward actors."""
    loop = EventLoop()

    def hire(_: int) -> Any:
        return ray.remote(WaitingActor).options(num_cpus=1).remote(waits)

    pools = {role: WorkerGroup(role, loop, hire, count) for role, count in actors.items()}
    try:
        for role, pool in pools.items():
            pool.wait_for(actors[role])
        cells = {f"Na{n + 1}Cl": [[11] * (n % 20 + 1) + [17]] for n in range(formulas)}
        work = Work(Sampling(10), relax=100, batch=batch)
        search = SearchLoop(cells, WaitingSampler(waits.learn), work, shifts=shifts)
        turns = search.run(RayEvaluationBackend(ActorSet(loop, pools, None, {}), None))
        next(turns)  # the first round has nothing to learn from
        pools["reward"].take_busy()
        begin = time.perf_counter()
        for _ in islice(turns, shifts * rounds):
            pass
        elapsed = time.perf_counter() - begin
        busy = pools["reward"].take_busy().values()
        return elapsed / rounds, 1.0 - sum(busy) / len(busy) / elapsed
    finally:
        for pool in pools.values():
            pool.close()


def main() -> None:
    """Measure two shifts and one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--formulas", type=int, default=200)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rollouts", type=int, default=8)
    parser.add_argument("--rewards", type=int, default=32)
    parser.add_argument("--generate", type=float, default=0.3)
    parser.add_argument("--relax", type=float, default=2.0)
    parser.add_argument("--learn", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    waits = Waits(arguments.generate, arguments.relax, arguments.learn)
    actors = {"rollout": arguments.rollouts, "reward": arguments.rewards}
    cores = -(-sum(actors.values()) // NODES)
    ideal = arguments.formulas * -(-arguments.batch // BLOCK) * waits.relax / arguments.rewards
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": cores})
    try:
        for _ in range(NODES - 1):
            cluster.add_node(num_cpus=cores)
        cluster.wait_for_nodes()
        ray.init(address=cluster.address, log_to_driver=False)
        print(f"{arguments.formulas} formulas, {actors['reward']} reward actors on {NODES} nodes, ideal {ideal:.1f} s")
        for shifts in (2, 1):
            seconds, idle = measure(waits, arguments.formulas, arguments.batch, actors, arguments.rounds, shifts)
            print(f"shifts: {shifts}, a round of all formulas {seconds:.1f} s, reward actors idle {idle:.3f}")
    finally:
        ray.shutdown()
        cluster.shutdown()


if __name__ == "__main__":
    main()
