"""`omatg-ray generate`: new crystals for formulas, without duplicates, best first."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from omatg_ray.commands.setup import choose_device, warn_unfamiliar
from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.crystal.formula import cell_species
from omatg_ray.errors import DataError
from omatg_ray.evaluate.unique import find_unique, space_groups
from omatg_ray.model import FlowModel, NoiseMode
from omatg_ray.policy.annealing import LinearAnnealing
from omatg_ray.reward.energy import MatGLEnergy
from omatg_ray.reward.validity import check_validity
from omatg_ray.run.progress import Progress


@dataclass(frozen=True)
class GenerateOptions:
    """What to generate.

    Attributes:
        model: Model or run folder.
        formulas: Chemical formulas.
        z: Formula units per cell; every formula is generated with each.
        count: Crystals for each formula and z.
        steps: Grid points.
        noise: Without noise or with the policy's.
        schedule: Annealing in place of the model's own.
        seed: Seed of x_0 and noise.
        potential: Potential to rank by; None takes none.
        workers: Processes that compare structures.
        timeout: Seconds that one comparison may take.
        device: auto, cpu, cuda or cuda:N.
    """

    model: Path
    formulas: tuple[str, ...]
    z: tuple[int, ...] = (1,)
    count: int = 1
    steps: int = 50
    noise: NoiseMode = "none"
    schedule: LinearAnnealing | None = None
    seed: int = 0
    potential: str | None = None
    workers: int = os.cpu_count() or 1
    timeout: float = 10.0
    device: str = "auto"


@dataclass(frozen=True)
class Generated:
    """Unique valid crystals, composition by composition in the order asked for, lowest energy first.

    Attributes:
        crystals: The crystals.
        properties: What is known of each: formula, rank, energy, space group, copies, provenance.
        asked: Crystals generated.
        invalid: Those that failed the validity checks and were dropped.
    """

    crystals: CrystalBatch
    properties: list[dict[str, Any]]
    asked: int
    invalid: int


def generate(options: GenerateOptions, progress: bool = False) -> Generated:
    """Generates, drops invalid crystals and duplicates, ranks.

    Raises:
        FormulaError: A formula cannot be parsed.
        ModelError: The model cannot be read.
        PotentialError: The potential cannot be loaded or does not know an element.
        DataError: No crystal is valid.
    """
    cells = [(f, z, cell_species(f, z)) for f in options.formulas for z in options.z]
    species = [cell for _, _, cell in cells for _ in range(options.count)]
    device = choose_device(options.device)
    model = FlowModel.load(options.model, device)
    elements, sizes = frozenset(n for cell in species for n in cell), frozenset(len(cell) for cell in species)
    warn_unfamiliar(model, elements, sizes)
    reward = None
    if options.potential is not None:
        reward = MatGLEnergy(options.potential, device=device)
        reward.require_elements(elements)
    with Progress(3, "generate", shown=progress) as bar:
        crystals = model.generate(species, options.steps, options.schedule, options.seed, options.noise)
        bar.advance()
        valid = check_validity(crystals).valid
        if not bool(valid.any()):
            raise DataError(
                f"none of the {len(crystals)} generated crystals is valid (overlapping atoms or a collapsed cell); "
                "generate more (-n), use more steps, or another model"
            )
        kept = valid.nonzero().squeeze(1)
        energy = None if reward is None else reward(crystals.select(kept)).values["energy_per_atom"]
        bar.advance()
        order, copies = _unique(crystals.select(kept), energy, options)
        bar.advance()
    unique = crystals.select(kept[order])
    groups = space_groups(unique, workers=options.workers, timeout=options.timeout)
    properties = []
    ranks: dict[str, int] = {}
    for row, place in enumerate(order.tolist()):
        index = int(kept[place])
        formula, z, _ = cells[index // options.count]
        ranks[formula] = ranks.get(formula, 0) + 1
        group = groups[row]
        properties.append(
            {
                "formula": formula,
                "z": z,
                "rank": ranks[formula],
                "energy_per_atom": None if energy is None else float(energy[place]),
                "space_group": None if group is None else group.symbol,
                "space_group_number": None if group is None else group.number,
                "copies": copies[row],
                "model": str(options.model),
                "steps": options.steps,
                "seed": options.seed,
                "index": index,
            }
        )
    return Generated(unique, properties, len(crystals), int((~valid).sum()))


def _unique(crystals: CrystalBatch, energy: Tensor | None, options: GenerateOptions) -> tuple[Tensor, list[int]]:
    """Representatives, grouped by formula and by energy within, and how many crystals each stands for."""
    found = find_unique(crystals, energy, workers=options.workers, timeout=options.timeout)
    formulas = crystals.formulas()
    first_seen: dict[str, int] = {}
    for formula in formulas:
        first_seen.setdefault(formula, len(first_seen))
    counts = torch.bincount(found.cluster, minlength=len(found.representatives)).tolist()
    pairs: Sequence[tuple[int, int]] = list(zip(found.representatives.tolist(), counts, strict=True))
    # `find_unique` gives the best first; sorting by formula keeps that order within each.
    pairs = sorted(pairs, key=lambda pair: first_seen[formulas[pair[0]]])
    return torch.tensor([place for place, _ in pairs]), [count for _, count in pairs]
