"""Cost of every stage of an iteration, alone: against atoms, members of a group and steps. One table.

    python scripts/benchmarks/stages.py --atoms 5 20 --members 16 64 --steps 50 10

The first value of each option makes the reference case; the others are tried one at a time. Every row comes from a
process of its own: seconds of the fastest of several calls, microseconds per structure and network evaluation, and the
memory that the stage adds. The last columns are the roof: the rate of matrix products of the stage (GFLOP/s), the rate
of the same products, in the same precision, with nothing around them, and the share of the stage's time that they would
take.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, get_args

import torch
from apart import apart, peak, resident
from products import CLOCKS, Product, fastest, flops, products, seconds_alone
from workload import Size, learner, plan, reinforced

from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.crystal.fields import FIELDS, FieldName, Fields
from omatg_ray.crystal.validity import check_validity
from omatg_ray.flow.settings import Precision
from omatg_ray.model.flow_model import FlowModel
from omatg_ray.policy.policy import draw_noise
from omatg_ray.reward.energy import MatGLEnergy
from omatg_ray.reward.graph import graph_chunks
from omatg_ray.reward.potential import CPU_CHUNK_EDGES, DEVICE_CHUNK_EDGES, load_module, node_types
from omatg_ray.reward.tensornet_sum import sum_in_memory_order
from omatg_ray.rl.rollout import Trajectory, rollout
from omatg_ray.rl.work import WorkItem
from omatg_ray.run.location import PROTOTYPES

# Crystals for the reward need not be well integrated.
FEW_STEPS = 10


@dataclass(frozen=True)
class Setting:
    """Settings that all rows share.

    Attributes:
        model: Base model.
        potential: MatGL potential.
        active: Fields that are reinforced.
        kl: Weight of the KL divergence.
        device: Device of all stages.
        threads: Threads of PyTorch, on the CPU.
        repeats: Number of calls; the fastest counts.
        clock: See `CLOCKS`.
    """

    model: str = PROTOTYPES
    potential: str = PROTOTYPES
    active: tuple[FieldName, ...] = ("pos",)
    kl: float = 0.0
    device: str = "cpu"
    threads: int = 1
    repeats: int = 3
    clock: str = "wall"


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Attributes:
        stage: Name of the stage.
        size: Case.
        seconds: Seconds of the fastest call.
        evaluations: Structures times network evaluations; structures alone if there is no network.
        memory: Peak of memory in MiB beyond the level before.
        flops: Operations of its matrix products.
        alone: Seconds of these products by themselves.
    """

    stage: str
    size: Size
    seconds: float
    evaluations: int
    memory: float
    flops: int
    alone: float

    def __str__(self) -> str:
        size, rate = self.size, self.flops / 1e9
        line = f"{self.stage:<22}{size.atoms:>6}{size.structures:>11}{size.steps:>7}{size.precision:>10}"
        line += f"{self.seconds:>10.4f}{1e6 * self.seconds / self.evaluations:>10.1f}{self.memory:>9.0f}"
        if not self.flops:
            return line
        return line + f"{rate / self.seconds:>10.1f}{rate / self.alone:>8.1f}{self.alone / self.seconds:>8.0%}"


HEADER = (
    f"{'stage':<22}{'atoms':>6}{'structures':>11}{'points':>7}{'precision':>10}{'seconds':>10}{'µs each':>10}"
    f"{'MiB':>9}{'GFLOP/s':>10}{'alone':>8}{'share':>8}"
)


class Case:
    """Inputs of the stages of a case, made on request.

    Args:
        setting: Settings that all rows share.
        size: Case.
    """

    def __init__(self, setting: Setting, size: Size) -> None:
        self.setting, self.size, self.device = setting, size, torch.device(setting.device)
        self.model = reinforced(FlowModel.load(setting.model), setting.active).to(self.device)
        self.learner = learner(self.model, setting.kl, 1)

    def item(self, steps: int) -> WorkItem:
        return plan(self.size, 0, steps=steps)[0]

    def start(self, item: WorkItem) -> tuple[CrystalBatch, Fields]:
        """Draw x_0 and noise."""
        x_0 = self.model.description.base_distribution.sample(item.species, item.start_seeds).to(self.device)
        return x_0, draw_noise(x_0, item.steps, item.seeds, self.setting.active)

    def rolled(self, x_0: CrystalBatch, noise: Fields, steps: int) -> Trajectory:
        policy = self.learner.policy.at(self.size.precision)
        with_base = self.learner.objective.needs_base(policy)
        return rollout(policy, x_0, policy.times(steps), noise, with_base)

    def crystals(self) -> CrystalBatch:
        """Generate crystals."""
        return self.rolled(*self.start(self.item(FEW_STEPS)), FEW_STEPS).final()


def _network(case: Case) -> Callable[[], object]:
    (x_0, _), t, network = case.start(case.item(2)), torch.tensor(0.5, device=case.device), case.model.network

    def forward() -> object:
        with torch.no_grad():
            return network(x_0, t, case.size.precision).pos_b

    return forward


def _network_backward(case: Case) -> Callable[[], object]:
    (x_0, _), t, network = case.start(case.item(2)), torch.tensor(0.5, device=case.device), case.model.network

    def both() -> None:
        network.zero_grad(set_to_none=True)
        network(x_0, t, case.size.precision).pos_b.square().mean().backward()

    return both


def _start(case: Case) -> Callable[[], object]:
    item = case.item(case.size.steps)
    return lambda: case.start(item)


def _rollout(case: Case) -> Callable[[], object]:
    x_0, noise = case.start(case.item(case.size.steps))
    return lambda: case.rolled(x_0, noise, case.size.steps)


def _update(case: Case) -> Callable[[], object]:
    trajectory = case.rolled(*case.start(case.item(case.size.steps)), case.size.steps)
    advantage = torch.linspace(-1.0, 1.0, len(trajectory), dtype=torch.float64)
    return lambda: case.learner.update(trajectory, advantage)


def _reward(case: Case) -> Callable[[], object]:
    crystals, reward = case.crystals(), MatGLEnergy(case.setting.potential, device=case.device)
    return lambda: reward(crystals)


def _energies(case: Case, ours: bool) -> Callable[[], object]:
    """Prepare the potential alone, on ready graphs; neighbours are summed in this package's way or in MatGL's."""
    crystals, module = case.crystals().to("cpu"), load_module(case.setting.potential).eval().requires_grad_(False)
    module.calc_forces = module.calc_stresses = False
    module.to(case.device)
    if ours:
        sum_in_memory_order(module)
    crystals = crystals.select(check_validity(crystals).valid)
    edges = CPU_CHUNK_EDGES if case.device.type == "cpu" else DEVICE_CHUNK_EDGES
    network: Any = module.model
    types, cutoff = node_types(network.element_types), float(network.cutoff)
    graphs = [
        (graph.to(case.device), cell.to(case.device)) for graph, cell in graph_chunks(crystals, types, cutoff, edges)
    ]

    def energies() -> None:
        with torch.no_grad():
            for graph, cell in graphs:
                module(graph, cell)

    return energies


@dataclass(frozen=True)
class Stage:
    """A stage.

    Attributes:
        prepare: Returns the call to time.
        stepwise: Whether the stage goes through all steps.
    """

    prepare: Callable[[Case], Callable[[], object]]
    stepwise: bool = False


STAGES = {
    "network": Stage(_network),
    "network, backward too": Stage(_network_backward),
    "x_0 and noise": Stage(_start),
    "rollout": Stage(_rollout, stepwise=True),
    "update, one epoch": Stage(_update, stepwise=True),
    "reward": Stage(_reward),
    "energies, graphs given": Stage(partial(_energies, ours=True)),
    "energies by MatGL": Stage(partial(_energies, ours=False)),
}


def measure(stage: str, setting: Setting, size: Size) -> Row:
    """Measure one row in this process."""
    torch.set_num_threads(setting.threads)
    torch.manual_seed(0)
    case = Case(setting, size)
    function = STAGES[stage].prepare(case)
    before = resident()
    function()
    memory = peak(case.device) - before
    seconds = fastest(function, setting.repeats, case.device, setting.clock)
    found = products(function)
    evaluations = size.structures * (size.steps - 1 if STAGES[stage].stepwise else 1)
    alone = seconds_alone(found, case.device, setting.clock)
    return Row(stage, size, seconds, evaluations, max(memory, 0.0), flops(found), alone)


def cases(options: argparse.Namespace) -> list[Size]:
    """Return the reference case, and those that differ from it in one option."""
    names = ("atoms", "groups", "members", "steps", "precision")
    first = Size(epochs=1, **{name: getattr(options, name)[0] for name in names})
    found = [first]
    for name in names:
        found += [replace(first, **{name: value}) for value in getattr(options, name)[1:]]
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=PROTOTYPES, help="base model")
    parser.add_argument("--potential", default=PROTOTYPES, help="MatGL potential")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument("--atoms", type=int, nargs="+", default=[5, 20], help="atoms per cell")
    parser.add_argument("--groups", type=int, nargs="+", default=[8])
    parser.add_argument("--members", type=int, nargs="+", default=[16, 64], help="members of a group")
    parser.add_argument("--steps", type=int, nargs="+", default=[50, 10], help="grid points")
    parser.add_argument(
        "--precision", nargs="+", choices=get_args(Precision), default=["float32"], help="precision of the networks"
    )
    parser.add_argument("--active", nargs="+", choices=FIELDS, default=["pos"], help="fields that are reinforced")
    parser.add_argument("--kl", type=float, default=0.0, help="weight of the KL divergence to the base")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="processor: for one busy core, with one thread")
    options = parser.parse_args(arguments)
    setting = Setting(
        options.model, options.potential, tuple(options.active), options.kl, options.device, options.threads,
        options.repeats, options.clock,
    )  # fmt: skip
    torch.set_num_threads(options.threads)
    rates = []
    for precision in options.precision:
        plain = Counter({Product(1, 1024, 1024, 1024, getattr(torch, precision)): 1})
        rate = flops(plain) / seconds_alone(plain, torch.device(options.device), options.clock) / 1e9
        rates.append(f"{rate:.1f} GFLOP/s in {precision}")
    print(f"{options.device}, threads: {options.threads}; a product of 1024 × 1024 matrices: {', '.join(rates)}")
    print(HEADER)
    for row in apart(measure, ((stage, setting, size) for size in cases(options) for stage in options.stages)):
        print(row, flush=True)


if __name__ == "__main__":
    main()
