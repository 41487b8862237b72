"""This implementation against the official one (OMatG-IRL, package `omg`): the same work in one run, one table.

    python scripts/benchmarks/peer.py --peer OMATG --atoms 5 20

OMATG is a checkout of https://github.com/FERMat-ML/OMatG whose requirements are installed. Both sides start from the
same weights, reinforce the velocity with the same settings, and get their rewards from the same MatGL potential,
energies only. In the official reward it replaces MACE, one structure after the other, as that reward works on a CPU.

First both roll out from the same x_0 with the same random numbers and learn from it: final crystals, densities,
rewards, losses and gradient norms must agree, and so must the numbers of network evaluations and of optimizer steps.
Then both run their own iterations in turns and print mean rewards; seconds are medians, with the fastest in brackets.
`--precision bfloat16` puts our rollouts and learning into bfloat16 for these iterations; the comparison before is
always in float32, and so is the official side.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any, get_args

import torch
from official import INVALID_ENERGY, Official, OfficialMissing, import_official
from products import CLOCKS
from torch import Tensor, nn
from workload import PLAIN, Iterations, Size, Timed, learner, plan, reinforced

from omatg_ray.crystal.base import BaseDistribution
from omatg_ray.crystal.fields import FIELDS, FieldName
from omatg_ray.flow.settings import Precision
from omatg_ray.model.flow_model import FlowModel
from omatg_ray.omatg.export import export_omatg
from omatg_ray.omatg.lattices import informed_cell
from omatg_ray.policy.policy import draw_noise
from omatg_ray.reward.energy import MatGLEnergy
from omatg_ray.reward.potential import load_module, load_potential
from omatg_ray.rl.advantage import group_advantages
from omatg_ray.rl.rollout import rollout
from omatg_ray.rl.scoring import score_item
from omatg_ray.run.location import PROTOTYPES

# The official package has lattice distributions for a few data sets only.
LATTICES = "mp_20"


class Disagreement(Exception):
    """The two sides do not do the same work."""


class Counting:
    """Counter of network calls, and of structures in all of them."""

    def __init__(self) -> None:
        self.calls = Counter[str]()
        self.evaluations = Counter[str]()

    def __str__(self) -> str:
        return ", ".join(f"{name} {count} in {self.calls[name]} calls" for name, count in self.evaluations.items())

    @contextmanager
    def of(self, **networks: nn.Module) -> Iterator[None]:
        """Count inside this context; networks are named by their role."""

        def hook(name: str, crystals: Any) -> None:
            self.calls[name] += 1
            self.evaluations[name] += len(crystals.n_atoms)

        handles = [
            network.register_forward_pre_hook(lambda _, inputs, name=name: hook(name, inputs[0]))
            for name, network in networks.items()
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def calculator(potential: str) -> object:
    """Return MatGL's own ASE calculator, energies only."""
    from matgl.ext.ase import PESCalculator

    module = load_module(potential).eval().requires_grad_(False)
    module.calc_forces = module.calc_stresses = False
    return PESCalculator(module, stress_unit="eV/A3")


def plain_reward(potential: str) -> MatGLEnergy:
    """Return our energy reward under the published rules: no cap, no own images, no repulsion."""
    return MatGLEnergy(
        load_potential(potential), invalid_energy=INVALID_ENERGY, cap=False, own_images=False, repulsion=False
    )


class Sides:
    """Both implementations, fresh and with the same weights.

    Args:
        base: Base model.
        exported: Folder of the same model for the official side.
        options: Options of the command.
        size: Size of an iteration.
    """

    def __init__(self, base: FlowModel, exported: Path, options: argparse.Namespace, size: Size) -> None:
        self.size, self.options = size, options
        model = reinforced(base, options.active)
        learns = learner(model, options.kl, size.epochs)
        self.ours = Iterations(model, learns, plain_reward(options.potential), options.clock)
        self.official = Official(
            exported, calculator(options.potential), size, options.active, options.kl, options.clock
        )

    def check(self) -> list[str]:
        """Compare trajectories and an update on both sides, which must be in float32.

        Returns:
            Lines on what was compared.

        Raises:
            Disagreement: The two sides differ.
        """
        size, model, policy = self.size, self.ours.model, self.ours.learner.policy
        (item,) = plan(size, 0, seed=1)
        x_0 = model.description.base_distribution.sample(item.species, item.start_seeds)
        noise = draw_noise(x_0, size.steps, item.seeds, policy.active)
        # One epoch at a time: means over epochs would hide the first one.
        learns = learner(model, self.options.kl, epochs=1)
        ours, theirs = Counting(), Counting()
        with ours.of(policy=model.network, base=model.base_network):
            mine = rollout(policy, x_0, policy.times(size.steps), noise, learns.objective.needs_base(policy))
            reward = score_item(mine.final(), self.ours.reward).result.reward
            advantage = group_advantages(reward.view(size.groups, size.members), PLAIN).values.flatten()
            epochs = [learns.update(mine, advantage) for _ in range(size.epochs)]
        network, base = self.official.networks
        with theirs.of(policy=network, base=base):
            other = self.official.replayed(x_0, noise)
            losses, norms = self.official.learn(other)
        lines = [f"network evaluations of a structure: ours {ours}, official {theirs}"]
        taken = [_steps_taken(optimizer) for optimizer in (learns.optimizer, self.official.optimizer)]
        lines.append(f"optimizer steps: ours {taken[0]}, official {taken[1]}")
        lines.append(f"Euler steps: ours {mine.n_steps}, official {len(other.sampled_actions)}; structures: ours "
                     f"{len(mine)}, official {len(other.rewards)}")  # fmt: skip
        if not (
            ours.evaluations["policy"] == theirs.evaluations["policy"]
            and taken[0] == taken[1]
            and mine.n_steps == len(other.sampled_actions)
            and len(mine) == len(other.rewards)
        ):
            raise Disagreement("; ".join(lines))
        lines += self._compared(mine.states(), mine.log_prob, reward, other)
        lines += [
            _close("loss of the last epoch", epochs[-1]["loss"], losses[-1], 1e-3),
            _close("gradient norm of the first epoch", epochs[0]["grad_norm"], norms[0], 1e-3),
        ]
        return lines

    def _compared(
        self, states: tuple[Tensor, Tensor], log_prob: dict[FieldName, Tensor], reward: Tensor, other: Any
    ) -> list[str]:
        final = other.states[-1]
        wrapped = (states[0][-1] - final.pos + 0.5) % 1.0 - 0.5
        found = {
            "final positions (modulo 1)": (float(wrapped.abs().max()), 1e-3),
            "final lattices (Å)": (float((states[1][-1] - final.cell).abs().max()), 1e-3),
        }
        for field in self.options.active:
            theirs = torch.stack([self.official.of(one, field) for one in other.old_log_probs])
            found[f"log-densities of {field}"] = float((log_prob[field] - theirs).abs().max()), 1e-3
        difference = (reward - other.rewards).abs()
        # Crystals at the limit of validity may fall on either side.
        found["rewards (eV/atom), 98th percentile"] = float(difference.quantile(0.98)), 2e-3
        lines = [f"{name}: differ by {value:.1e} at most" for name, (value, _) in found.items()]
        if any(not value <= bound for value, bound in found.values()):
            raise Disagreement("; ".join(lines))
        return lines


def _steps_taken(optimizer: torch.optim.Optimizer) -> int:
    return max((int(state["step"]) for state in optimizer.state.values()), default=0)


def _close(name: str, ours: float, theirs: float, relative: float) -> str:
    line = f"{name}: ours {ours:.6g}, official {theirs:.6g}"
    if not abs(ours - theirs) <= relative * abs(theirs) + 2e-5:
        raise Disagreement(line)
    return line


def timed(sides: Sides, iterations: int, groups_per_item: int) -> tuple[list[Timed], list[Timed]]:
    """Run iterations of both sides in turns, over the same compositions."""
    ours, theirs = list[Timed](), list[Timed]()
    for iteration in range(iterations):
        items = plan(sides.size, iteration, groups_per_item=groups_per_item)
        ours.append(sides.ours.iterate(items))
        theirs.append(sides.official.iterate([cell for item in items for cell in item.compositions]))
        print(
            f"iteration {iteration + 1:>3}  mean reward: ours {ours[-1].reward_mean:>8.3f}, official "
            f"{theirs[-1].reward_mean:>8.3f}; seconds: ours {ours[-1].iteration:.2f}, official "
            f"{theirs[-1].iteration:.2f}",
            flush=True,
        )
    return ours, theirs


def table(ours: Sequence[Timed], theirs: Sequence[Timed]) -> None:
    """Print seconds of every stage and their ratio."""
    print(f"{'stage':<12}{'ours (s)':>18}{'official (s)':>18}{'ratio':>8}{'best':>8}")
    for stage in ("rollout", "reward", "learn", "iteration"):
        columns = [[getattr(one, stage) for one in side] for side in (ours, theirs)]
        cells = "".join(f"{f'{median(seconds):.3f} ({min(seconds):.3f})':>18}" for seconds in columns)
        ratios = [float(of(columns[1]) / of(columns[0])) for of in (median, min)]
        print(f"{stage:<12}{cells}{ratios[0]:>8.2f}{ratios[1]:>8.2f}", flush=True)


def main() -> None:
    """Compare, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", type=Path, required=True, help="checkout of the official implementation")
    parser.add_argument("--model", default=PROTOTYPES, help="base model")
    parser.add_argument("--potential", default=PROTOTYPES, help="MatGL potential")
    parser.add_argument("--atoms", type=int, nargs="+", default=[5, 20], help="atoms per cell")
    parser.add_argument("--groups", type=int, default=8)
    parser.add_argument("--members", type=int, default=16)
    parser.add_argument("--steps", type=int, default=50, help="grid points")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--active", nargs="+", choices=FIELDS, default=["pos"], help="fields that are reinforced")
    parser.add_argument("--kl", type=float, default=0.0, help="weight of the KL divergence to the base")
    parser.add_argument(
        "--precision",
        choices=get_args(Precision),
        default="float32",
        help="precision of our networks in the timed iterations; both sides are compared in float32",
    )
    parser.add_argument("--iterations", type=int, default=4, help="iterations of each side; the first is not timed")
    parser.add_argument("--groups-per-item", type=int, help="groups that our side rolls out together; default: all")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="processor: for one busy core, with one thread")
    options = parser.parse_args()
    if options.iterations < 2:
        parser.error("--iterations: at least 2, as the first is not timed")
    torch.set_num_threads(options.threads)
    warnings.filterwarnings("ignore", category=FutureWarning)
    try:
        import_official(options.peer)
    except OfficialMissing as missing:
        sys.exit(f"error: {missing}")

    base = FlowModel.load(options.model)
    cell = informed_cell(LATTICES)
    base.description = base.description.model_copy(update={"base_distribution": BaseDistribution(cell=cell)})
    with tempfile.TemporaryDirectory() as folder:
        export_omatg(base, Path(folder), options.steps)
        for atoms in options.atoms:
            size = Size(atoms, options.groups, options.members, options.steps, options.epochs, options.precision)
            print(
                f"\n{size}; reinforced: {', '.join(options.active)}; KL weight {options.kl:g}; "
                f"our iterations in {options.precision}",
                flush=True,
            )
            try:
                for line in Sides(base, Path(folder), options, replace(size, precision="float32")).check():
                    print(f"  {line}", flush=True)
            except Disagreement as found:
                sys.exit(f"error: not the same work: {found}")
            sides = Sides(base, Path(folder), options, size)
            ours, theirs = timed(sides, options.iterations, options.groups_per_item or options.groups)
            table(ours[1:], theirs[1:])


if __name__ == "__main__":
    main()
