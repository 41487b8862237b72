#!/usr/bin/env python
"""Train a small TensorNet on the energies, forces and stresses of a large one, and save it in MatGL's format.

  python scripts/assets/distill.py --labels work/labels/train --validation work/labels/val --out work/first --epochs 9
  python scripts/assets/distill.py --labels work/labels/train work/labels/decorated --validation work/labels/val \
      --start work/first --lr 1e-3 --out work/student

`--start` may know fewer elements than the labels: another element starts as the known one nearest to it in the periodic
table.

An interrupted run resumes exactly, from `work/student/training.pt`.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from configurations import KINDS
from identity import fingerprint, require_same
from pymatgen.core import Element
from teacher import GPA, Labels
from torch import Tensor
from torch.nn.functional import huber_loss
from torch_geometric.data import Batch

from omatg_ray.reward.graph import graph_chunks
from omatg_ray.reward.potential import load_module, load_potential, node_types
from omatg_ray.run.progress import Progress
from omatg_ray.seeding import generator

UNITS, BLOCKS, CUTOFF, RADIAL = 64, 2, 4.5, 4
LAST_LR, WARMUP, EMA, CLIP = 1e-5, 200, 0.998, 10.0
BATCH = 16
MICROBATCH_EDGES = 4000  # bounds memory
WEIGHTS = {"energy": 1.0, "forces": 0.15, "virial": 0.1}
DELTA = {"energy": 0.02, "forces": 0.1, "virial": 0.1}  # where Huber's loss turns linear: eV/atom, eV/Å, eV/atom
ENERGIES = "element_refs.property_offset"
BY_ELEMENT = (ENERGIES, "model.tensor_embedding.emb.weight")
"""Weights of MatGL's TensorNet with a row for each element."""
MOST_ABOVE = 12.0  # eV/atom over the lowest crystal of the composition; above, the reward is flat anyway
MOST_BELOW = 0.1  # eV/atom below the lowest relaxed crystal; beyond, the teacher has a hole there
SOFT_ABOVE = 3.0  # eV/atom over the lowest at which a crystal has half weight


@dataclass(frozen=True)
class Example:
    """One crystal as input of the network, with its targets."""

    graph: Batch
    cell: Tensor
    energy: Tensor
    forces: Tensor
    virial: Tensor
    weight: float
    kind: int

    @property
    def edges(self) -> int:
        """Number of directed edges."""
        return int(self.graph.edge_index.shape[1])


def main() -> None:
    """Train, validate after every epoch, and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labels", type=Path, nargs="+", required=True, help="folders of labels")
    parser.add_argument("--validation", type=Path, required=True, help="folder of labels for validation")
    parser.add_argument("--start", help="student of an earlier run to start from, or bundled; default: a new one")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--lr", type=float, default=2e-3, help="highest learning rate")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    inputs = {
        "labels": fingerprint(*(path for folder in arguments.labels for path in label_files(folder))),
        "start": load_potential(arguments.start).fingerprint if arguments.start else None,
        "epochs": arguments.epochs, "lr": arguments.lr, "seed": arguments.seed,
    }  # fmt: skip
    require_same(arguments.out / "inputs.json", inputs)
    labels, held_out = Labels.cat([read(folder) for folder in arguments.labels]), read(arguments.validation)
    elements = set(labels.species.tolist())
    if arguments.start:
        start: Any = load_module(arguments.start)
        symbols = symbols_of(elements | {Element(symbol).Z for symbol in start.model.element_types})
        student = with_elements(start, labels, symbols)
    else:
        symbols = symbols_of(elements)
        student = new_student(labels, symbols)
    new = [symbol for symbol in symbols_of(set(held_out.species.tolist())) if symbol not in symbols]
    if new:
        parser.error(f"--validation holds elements that no training label has: {', '.join(new)}")
    types = node_types(symbols)
    train = examples(labels, types, "graphs")
    val = examples(held_out, types, "graphs of validation")
    Distillation(student, train, val, arguments.out, arguments.epochs, arguments.lr, arguments.seed).run()


def symbols_of(numbers: set[int]) -> list[str]:
    """Return the symbols of some atomic numbers, in their order."""
    return [Element.from_Z(z).symbol for z in sorted(numbers)]


def label_files(folder: Path) -> list[Path]:
    """List the label files of a folder."""
    return sorted(folder.glob("*.safetensors"))


def read(folder: Path) -> Labels:
    """Read the labels of a folder, without those far above or below the lowest crystal of their composition."""
    labels = Labels.cat([Labels.load(path) for path in label_files(folder)])
    above = above_lowest(labels)
    holes = int((above < -MOST_BELOW).sum())
    if holes:
        print(f"left out: {holes} of {len(above)} labels, more than {MOST_BELOW} eV/atom below every relaxed crystal")
    return labels.select((above <= MOST_ABOVE) & (above >= -MOST_BELOW))


def above_lowest(labels: Labels) -> Tensor:
    """Return eV/atom over the lowest relaxed crystal of the same reduced composition (B,), or over the lowest one."""
    from omatg_ray.reward.matching import compositions

    keys = compositions(labels.crystals)
    place = {key: index for index, key in enumerate(dict.fromkeys(keys))}
    group = torch.tensor([place[key] for key in keys])
    unknown = torch.full((len(place),), math.inf, dtype=torch.float64)
    relaxed = labels.energy_per_atom.where(labels.kind == KINDS.index("relaxed"), math.inf)
    lowest = unknown.scatter_reduce(0, group, relaxed, "amin")
    lowest = lowest.where(lowest.isfinite(), unknown.scatter_reduce(0, group, labels.energy_per_atom, "amin"))
    return labels.energy_per_atom - lowest[group]


def new_student(labels: Labels, symbols: list[str]):  # type: ignore[no-untyped-def]
    """Make an untrained student, with one energy per element fitted to all labels."""
    from matgl.apps.pes import Potential
    from matgl.models import TensorNet

    types = node_types(symbols)[labels.species]
    counts = torch.zeros(len(labels.n_atoms), len(symbols), dtype=torch.float64)
    counts.index_put_((labels.crystals.batch, types), torch.ones(len(types), dtype=torch.float64), accumulate=True)
    share = counts / labels.n_atoms[:, None]
    ridge = 1e-3 * torch.eye(len(symbols), dtype=torch.float64)
    references = torch.linalg.solve(share.mT @ share + ridge, share.mT @ labels.energy_per_atom)
    spread = float((labels.energy_per_atom - share @ references).std())
    network = TensorNet(
        element_types=tuple(symbols), units=UNITS, nblocks=BLOCKS, cutoff=CUTOFF, rbf_type="SphericalBessel",
        use_smooth=True, max_n=RADIAL, max_l=3, is_intensive=False, use_warp=False,
    )  # fmt: skip
    return Potential(network, data_std=spread, element_refs=references.tolist())


def with_elements(start: torch.nn.Module, labels: Labels, symbols: list[str]) -> torch.nn.Module:
    """Return a student for some elements with the weights of another.

    An element that `start` does not know starts as the known one that is nearest in the periodic table, and with that
    one's energy and the difference between the two that the labels show, if they have both.
    """
    student: Any = new_student(labels, symbols)
    known = list(start.model.element_types)  # type: ignore[union-attr, arg-type]
    likes = [nearest(symbol, known) for symbol in symbols]
    rows = [known.index(like) for like in likes]
    state = {name: value[rows] if name in BY_ELEMENT else value for name, value in start.state_dict().items()}
    fitted = dict(zip(symbols, student.state_dict()[ENERGIES].tolist(), strict=True))
    labelled = set(symbols_of(set(labels.species.tolist())))
    state[ENERGIES] += torch.tensor(
        [
            fitted[symbol] - fitted[like] if {symbol, like} <= labelled else 0.0
            for symbol, like in zip(symbols, likes, strict=True)
        ]
    ).to(state[ENERGIES])
    student.load_state_dict(state)
    return student


def nearest(symbol: str, known: list[str]) -> str:
    """Return the known element that is nearest: groups apart count twice as much as periods apart."""
    element = Element(symbol)

    def distance(other: str) -> tuple[float, int]:
        there = Element(other)
        return 2 * abs(element.group - there.group) + abs(element.row - there.row), abs(element.Z - there.Z)

    return min(known, key=distance)


def examples(labels: Labels, types: Tensor, name: str) -> list[Example]:
    """Make graphs and targets of all labels."""
    weight = 1.0 / (1.0 + above_lowest(labels).clamp_min(0) / SOFT_ABOVE)
    volume = labels.cell.det().abs()
    ptr = labels.crystals.ptr.tolist()
    # -1 edges: one crystal at a time.
    graphs = graph_chunks(labels.crystals, types, CUTOFF, -1)
    out = []
    with Progress(len(volume), name) as bar:
        for b, (graph, cell) in zip(range(len(volume)), graphs, strict=True):
            out.append(
                Example(
                    graph=graph,
                    cell=cell,
                    energy=(labels.energy[b] / labels.n_atoms[b]).float(),
                    forces=labels.forces[ptr[b] : ptr[b + 1]],
                    virial=labels.stress[b] * volume[b] / labels.n_atoms[b],
                    weight=float(weight[b]),
                    kind=int(labels.kind[b]),
                )
            )
            bar.advance()
    return out


def collate(batch: list[Example]) -> tuple[Batch, Tensor]:
    """Join several crystals into one graph."""
    sizes = torch.tensor([len(one.graph.node_type) for one in batch])
    ptr = torch.cat([torch.zeros(1, dtype=torch.long), sizes.cumsum(0)])
    graph = Batch(
        frac_coords=torch.cat([one.graph.frac_coords for one in batch]),
        node_type=torch.cat([one.graph.node_type for one in batch]),
        edge_index=torch.cat([one.graph.edge_index + start for one, start in zip(batch, ptr, strict=False)], dim=1),
        pbc_offset=torch.cat([one.graph.pbc_offset for one in batch]),
        batch=torch.arange(len(batch)).repeat_interleave(sizes),
        ptr=ptr,
        num_nodes=int(ptr[-1]),
    )
    return graph, torch.cat([one.cell for one in batch])


def microbatches(batch: list[Example]) -> Iterator[list[Example]]:
    """Split a batch into consecutive parts of at most `MICROBATCH_EDGES` edges."""
    part: list[Example] = []
    edges = 0
    for one in batch:
        if part and edges + one.edges > MICROBATCH_EDGES:
            yield part
            part, edges = [], 0
        part.append(one)
        edges += one.edges
    yield part


def errors(student: torch.nn.Module, part: list[Example]) -> dict[str, tuple[Tensor, Tensor]]:
    """Return prediction and target of energies per atom (b,), forces (n, 3) and virials per atom (b, 3, 3)."""
    graph, cell = collate(part)
    energy, forces, stress, _ = student(graph, cell)
    n_atoms = graph.ptr.diff()
    per_volume = (cell.det().abs() / n_atoms)[:, None, None] * GPA
    return {
        "energy": (energy.view(-1) / n_atoms, torch.stack([one.energy for one in part])),
        "forces": (forces, torch.cat([one.forces for one in part])),
        "virial": (stress.view(-1, 3, 3) * per_volume, torch.stack([one.virial for one in part])),
    }


class Distillation:
    """The training loop; every epoch ends with a validation of the averaged weights and a checkpoint.

    Args:
        student: MatGL potential, trained in place.
        train: Training examples.
        val: Validation examples.
        out: Folder of the checkpoint and of the student.
        epochs: Passes over the training examples.
        lr: Highest learning rate.
        seed: Seed of the order of examples.
    """

    def __init__(
        self,
        student: torch.nn.Module,
        train: list[Example],
        val: list[Example],
        out: Path,
        epochs: int,
        lr: float,
        seed: int,
    ) -> None:
        self.student, self.train, self.val, self.out = student, train, val, out
        self.epochs, self.lr, self.seed = epochs, lr, seed
        self.average = copy.deepcopy(student).requires_grad_(False)
        self.optimizer = torch.optim.AdamW(student.parameters(), lr=lr, weight_decay=0.0, amsgrad=True)
        self.step = self.epoch = 0
        self.steps = epochs * (len(train) // BATCH)

    def run(self) -> None:
        """Train to the end."""
        self.out.mkdir(parents=True, exist_ok=True)
        checkpoint = self.out / "training.pt"
        if checkpoint.exists():
            self.restore(torch.load(checkpoint, weights_only=True))
        while self.epoch < self.epochs:
            self.run_epoch()
            self.epoch += 1
            line = {"epoch": self.epoch, "lr": self.optimizer.param_groups[0]["lr"], **validate(self.average, self.val)}
            self.average.save(self.out)  # type: ignore[operator]
            with (self.out / "log.jsonl").open("a", encoding="utf-8") as log:
                log.write(json.dumps(line) + "\n")
            print(json.dumps(line), flush=True)
            # The checkpoint comes last, so that an epoch whose student was not saved is repeated.
            temporary = checkpoint.with_suffix(".part")
            torch.save(self.state(), temporary)
            temporary.replace(checkpoint)

    def run_epoch(self) -> None:
        """Do one pass, in an order that depends on seed and epoch alone."""
        self.student.train()
        order = torch.randperm(len(self.train), generator=generator(self.seed, "distill", self.epoch)).tolist()
        starts = range(0, len(order) - BATCH + 1, BATCH)
        with Progress(len(starts), f"epoch {self.epoch + 1} of {self.epochs}") as bar:
            for start in starts:
                loss = self.update([self.train[i] for i in order[start : start + BATCH]])
                bar.advance({"loss": f"{loss:.4f}"})

    def update(self, batch: list[Example]) -> float:
        """Do one optimizer step and return the loss."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.scheduled(self.step)
        self.optimizer.zero_grad()
        total, atoms = 0.0, sum(len(one.forces) for one in batch)
        for part in microbatches(batch):
            weight = torch.tensor([one.weight for one in part])
            counts = {"energy": len(batch), "forces": 3 * atoms, "virial": 9 * len(batch)}
            loss = torch.zeros(())
            for name, (predicted, target) in errors(self.student, part).items():
                each = huber_loss(predicted, target, reduction="none", delta=DELTA[name]) / DELTA[name]
                of_row = weight if name != "forces" else weight.repeat_interleave(_sizes(part))
                loss = loss + WEIGHTS[name] * (each * of_row.view(-1, *[1] * (each.dim() - 1))).sum() / counts[name]
            loss.backward()
            total += float(loss.detach())
        torch.nn.utils.clip_grad_norm_(self.student.parameters(), CLIP)
        self.optimizer.step()
        self.step += 1
        decay = min(EMA, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for mean, value in zip(self.average.parameters(), self.student.parameters(), strict=True):
                mean.lerp_(value, 1 - decay)
        return total

    def scheduled(self, step: int) -> float:
        """Return the learning rate: linear warm-up, then a cosine down to `LAST_LR`."""
        if step < WARMUP:
            return self.lr * (step + 1) / WARMUP
        progress = (step - WARMUP) / max(1, self.steps - WARMUP)
        return LAST_LR + 0.5 * (self.lr - LAST_LR) * (1 + math.cos(math.pi * progress))

    def state(self) -> dict[str, object]:
        """Return everything that a resumed run needs."""
        return {
            "student": self.student.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "epoch": self.epoch,
        }

    def restore(self, state: dict[str, object]) -> None:
        """Restore a state."""
        self.student.load_state_dict(state["student"])  # type: ignore[arg-type]
        self.average.load_state_dict(state["average"])  # type: ignore[arg-type]
        self.optimizer.load_state_dict(state["optimizer"])  # type: ignore[arg-type]
        self.step, self.epoch = int(state["step"]), int(state["epoch"])  # type: ignore[call-overload]


def validate(student: torch.nn.Module, val: list[Example]) -> dict[str, float]:
    """Return mean absolute errors of energies (eV/atom) by kind, and of forces (eV/Å)."""
    student.eval()
    energy: dict[int, list[float]] = {}
    force = []
    for part in microbatches(val):
        found = errors(student, part)
        difference = (found["energy"][0].detach() - found["energy"][1]).abs().tolist()
        for one, error in zip(part, difference, strict=True):
            energy.setdefault(one.kind, []).append(error)
        force.append((found["forces"][0].detach() - found["forces"][1]).abs().flatten())
    means = {f"energy_{KINDS[kind]}": sum(values) / len(values) for kind, values in sorted(energy.items())}
    return means | {"forces": float(torch.cat(force).mean())}


def _sizes(part: list[Example]) -> Tensor:
    return torch.tensor([len(one.forces) for one in part])


if __name__ == "__main__":
    main()
