"""Memory of an iteration of a large network on a CPU: updates by microbatch, rollouts by groups per item.

    python scripts/benchmarks/memory.py

The default is 16 groups × 64 structures of 20 atoms, 50 grid points, and a network of 12.4 M parameters. A whole
iteration of this takes hours on a CPU and is not run. Every row comes from a process of its own that holds what a run
holds: the network with its gradients and the moments of Adam, the frozen base, and the trajectories of the iteration in
full size, with made-up states. An update is one microbatch, forward and backward; a rollout is one Euler step of one
item. All others only repeat it. The potential of a reward is not included.

Columns: ordered pairs of atoms that go through the network together; MiB kept for the backward pass; the peak of
resident memory beyond that of the process before the network was built; the peak of the whole process, to which the
limit applies.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from apart import apart, peak, resident
from workload import NOISE, Size, objective

from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.crystal.fields import FIELDS, FieldName, Fields
from omatg_ray.flow.network import CSPNet
from omatg_ray.flow.settings import NetworkSettings, Precision
from omatg_ray.policy.drift import Velocity
from omatg_ray.policy.gaussian import noise_log_density
from omatg_ray.policy.policy import Policy, draw_noise
from omatg_ray.rl.learner import Learner
from omatg_ray.rl.rollout import Trajectory, components, rollout
from omatg_ray.rl.settings import LearnerSettings

CPU = torch.device("cpu")
VOLUME = 15.0
"""Å³ per atom."""


@dataclass(frozen=True)
class Setting:
    """Settings that all rows share.

    Attributes:
        size: Size of the iteration.
        network: Size of both networks.
        active: Fields that are reinforced.
        threads: Threads of PyTorch.
    """

    size: Size
    network: NetworkSettings
    active: tuple[FieldName, ...]
    threads: int = 1


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Attributes:
        stage: update or rollout.
        amount: `learner.microbatch_pairs` of an update, groups per item of a rollout.
        precision: Precision of the network.
        pairs: Ordered pairs of atoms in a call of the network.
        kept: MiB kept for the backward pass.
        beyond: Peak in MiB beyond the level before.
        whole: Peak of the process in MiB.
    """

    stage: Literal["update", "rollout"]
    amount: int
    precision: Precision
    pairs: int
    kept: float
    beyond: float
    whole: float

    @property
    def name(self) -> str:
        if self.stage == "update":
            return f"update, microbatch_pairs={self.amount}"
        return f"rollout, groups_per_item={self.amount}"

    def __str__(self) -> str:
        kept = f"{self.kept:.0f}" if self.stage == "update" else ""
        return f"{self.name:<34}{self.precision:>10}{self.pairs:>10}{kept:>9}{self.beyond:>9.0f}{self.whole:>9.0f}"


HEADER = f"{'one':<34}{'precision':>10}{'pairs':>10}{'kept':>9}{'beyond':>9}{'process':>9}"


def new_policy(setting: Setting) -> Policy:
    """Make an untrained policy, over an untrained base."""
    base = CSPNet(setting.network).requires_grad_(False)
    noise = {field: NOISE[field] for field in setting.active}
    return Policy(Velocity(), CSPNet(setting.network), base, setting.active, noise)


def made_up(size: Size, policy: Policy) -> Trajectory:
    """Make up trajectories of an iteration: random crystals that move by noise alone, as strong as in policies."""
    n, atoms = size.structures, size.structures * size.atoms
    side = (VOLUME * size.atoms) ** (1 / 3)
    x_0 = CrystalBatch(
        torch.randint(1, 90, (atoms,)),
        torch.rand(atoms, 3),
        side * (torch.eye(3) + 0.05 * torch.randn(n, 3, 3)),
        torch.full((n,), size.atoms),
    )
    times, displacement, log_prob = policy.times(size.steps), Fields(), Fields()
    for field, noise in draw_noise(x_0, size.steps, range(n), FIELDS).items():
        variance = (NOISE[field].sigma(times[:-1]).square() * times.diff()).view(-1, 1, 1)
        displacement[field] = (variance.sqrt() * components(noise)).view_as(noise)
        if field in policy.active:
            log_prob[field] = noise_log_density(components(noise), variance).sum(-1)
    return Trajectory(x_0, times, displacement, log_prob, {}, {}, precision=policy.precision)


def mebibytes(trajectory: Trajectory) -> float:
    """Return the size of the tensors of trajectories in MiB."""
    tensors = [trajectory.x_0.species, trajectory.x_0.pos, trajectory.x_0.cell]
    tensors += [*trajectory.displacement.values(), *trajectory.log_prob.values()]
    return sum(tensor.nbytes for tensor in tensors) / 2**20


def measure(setting: Setting, stage: Literal["update", "rollout"], amount: int, precision: Precision) -> Row:
    """Measure one row in this process, which should be a new one."""
    torch.set_num_threads(setting.threads)
    torch.manual_seed(0)
    before = resident()
    policy = new_policy(setting).at(precision)
    trajectory = made_up(setting.size, policy)
    pairs = amount if stage == "update" else LearnerSettings().microbatch_pairs
    learner = Learner(policy, objective(0.0), LearnerSettings(microbatch_pairs=pairs))
    # From the second step on, there are moments of Adam, and gradients are accumulated in place.
    for parameter in learner.parameters:
        parameter.grad = torch.zeros_like(parameter)
    learner.optimizer.step()
    kept = 0
    if stage == "update":
        _, kept, pairs = learner.trial(trajectory)
    else:
        x_0 = trajectory.x_0.select(range(amount * setting.size.members))
        rollout(policy, x_0, policy.times(2), draw_noise(x_0, 2, range(len(x_0)), policy.active))
        pairs = int(x_0.n_atoms.square().sum())
    return Row(stage, amount, precision, pairs, kept / 2**20, peak(CPU) - before, peak(CPU))


def largest(rows: Sequence[Row], limit: float) -> list[str]:
    """Describe, for each stage and precision, the largest row that stayed under a limit in GiB."""
    kinds = dict.fromkeys((row.stage, row.precision) for row in rows)
    lines = []
    for stage, precision in kinds:
        tried = [row for row in rows if (row.stage, row.precision) == (stage, precision)]
        fits = [row for row in tried if row.whole < limit * 1024]
        found = max(fits, key=lambda row: row.pairs).name if fits else f"{stage}: none"
        lines.append(f"largest tried under {limit:g} GiB in {precision}: {found}")
    return lines


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add: Any = parser.add_argument
    add("--microbatch-pairs", type=int, nargs="*", default=[4000, 16_000, 64_000, 128_000, 256_000])
    add("--groups-per-item", type=int, nargs="*", default=[1, 2, 4, 8, 16])
    add(
        "--precision",
        nargs="+",
        choices=get_args(Precision),
        default=get_args(Precision),
        help="precision of the networks",
    )
    add("--limit", type=float, default=8.0, help="GiB that a process may hold")
    add("--atoms", type=int, default=20, help="atoms per cell")
    add("--groups", type=int, default=16)
    add("--members", type=int, default=64, help="members of a group")
    add("--steps", type=int, default=50, help="grid points")
    add("--hidden", type=int, default=512, help="features per atom and message")
    add("--layers", type=int, default=6, help="message layers")
    add("--frequencies", type=int, default=128, help="harmonics of each distance")
    add("--time-features", type=int, default=256, help="size of the time embedding")
    add("--active", nargs="+", choices=FIELDS, default=list(FIELDS), help="fields that are reinforced")
    add("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    if max(options.groups_per_item, default=0) > options.groups:
        parser.error(f"--groups-per-item: at most the {options.groups} groups that there are")
    size = Size(options.atoms, options.groups, options.members, options.steps, epochs=1)
    network = NetworkSettings(
        hidden=options.hidden, layers=options.layers, frequencies=options.frequencies,
        time_features=options.time_features,
    )  # fmt: skip
    setting = Setting(size, network, tuple(options.active), options.threads)

    policy = new_policy(setting)
    parameters = sum(parameter.numel() for parameter in policy.network.parameters())
    pairs = size.structures * size.atoms**2 * (size.steps - 1)
    print(f"{size}: {pairs / 1e6:.1f} M ordered pairs of atoms; network of {parameters:,} parameters")
    print(f"trajectories: {mebibytes(made_up(size, policy)):.1f} MiB")
    print(HEADER)
    amounts = [("update", pairs) for pairs in options.microbatch_pairs]
    amounts += [("rollout", groups) for groups in options.groups_per_item]
    rows: list[Row] = []
    for row in apart(measure, ((setting, *amount, precision) for precision in options.precision for amount in amounts)):
        print(row, flush=True)
        rows.append(row)
    print("\n".join(largest(rows, options.limit)))


if __name__ == "__main__":
    main()
