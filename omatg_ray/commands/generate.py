"""`omatg-ray generate`: new crystals for formulas, optionally relaxed, without duplicates, best first."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.crystal.formula import cell_species
from omatg_ray.crystal.validity import check_validity
from omatg_ray.errors import ConfigError, DataError, ModelError
from omatg_ray.evaluate.backend import Block
from omatg_ray.evaluate.evaluation import collect
from omatg_ray.evaluate.unique import find_unique, space_groups
from omatg_ray.model.checks import refuse_unseen, warn_noiseless, warn_unfamiliar
from omatg_ray.model.flow_model import FlowModel
from omatg_ray.reward.energy import MatGLEnergy
from omatg_ray.reward.matching import Composition, compositions
from omatg_ray.reward.protocol import holds_only
from omatg_ray.reward.relax import Relaxed, relax
from omatg_ray.run.progress import Progress
from omatg_ray.train.backend import evaluation_backend
from omatg_ray.train.options import SamplingOptions

ABSURD = 3.0
"""eV/atom above the best crystal of the composition: atoms overlap, but not enough to make the crystal invalid."""


@dataclass(frozen=True, kw_only=True)
class GenerateOptions(SamplingOptions):
    """Crystals to generate. Without a potential they are not ranked.

    Attributes:
        formulas: Chemical formulas.
        z: Formula units per cell; every formula is generated with each.
        atoms: Numbers of atoms per cell in place of formulas, for a model that generates species.
        count: Crystals for each formula and z, or number of atoms.
        relax: Most relaxation steps of every valid crystal, under the potential; 0 leaves them as they are.
    """

    formulas: tuple[str, ...] = ()
    z: tuple[int, ...] = (1,)
    atoms: tuple[int, ...] = ()
    count: int = 1
    relax: int = 0


@dataclass(frozen=True)
class Generated:
    """Unique valid crystals: reduced compositions in the requested order, lowest energy per atom first in each.

    Compositions chosen by a model come in the order of their lowest energy per atom.

    Attributes:
        crystals: The crystals.
        properties: Properties of each: formula, rank, energy, space group, copies, provenance. `energy_above_best` is
            in eV/atom above the lowest of its reduced composition. `relax_steps` is the number of relaxation steps, and
            `relax_drop` the eV/atom by which they lowered the energy.
        asked: Number of crystals generated.
        invalid: Number of crystals that failed the validity checks and were dropped.
    """

    crystals: CrystalBatch
    properties: list[dict[str, Any]]
    asked: int
    invalid: int

    @property
    def absurd(self) -> list[bool]:
        """Which crystals lie more than `ABSURD` above the best of their composition; none without energies."""
        return [(row["energy_above_best"] or 0.0) > ABSURD for row in self.properties]


def generate(options: GenerateOptions, progress: bool = False) -> Generated:
    """Generate, drop invalid crystals, relax the others if asked to, drop duplicates, rank.

    Raises:
        ConfigError: Relaxation is asked for without a potential.
        FormulaError: A formula cannot be parsed.
        ModelError: The model cannot be read, was never trained on an element, or takes numbers of atoms although
            formulas are given, or the reverse.
        PotentialError: The potential cannot be loaded or does not know an element.
        DataError: No crystal is valid.
        ClusterError: There is no Ray cluster, it has no room, or an actor died.
    """
    if options.relax and options.potential is None:
        raise ConfigError("--relax: crystals relax under a potential; name one with --potential")
    cells = _cells(options)
    species = [cell for _, cell in cells for _ in range(options.count)]
    device = options.prepare()
    model = FlowModel.load(options.model, device)
    if options.formulas:
        model.require_given_species()
    elif not model.generates_species:
        raise ModelError(f"{options.model} generates crystals of given species: give formulas, not numbers of atoms")
    # A model that generates species chooses the elements itself.
    elements = frozenset() if model.generates_species else frozenset(n for cell in species for n in cell)
    sizes = frozenset(len(cell) for cell in species)
    refuse_unseen(model, options.model, elements)
    warn_unfamiliar(model, frozenset(), sizes)
    warn_noiseless(model, [options.sampling])
    reward = None
    if options.potential is not None:
        reward = MatGLEnergy(options.potential, device=device)
        reward.require_elements(elements)
    blocks = [
        Block(
            species=[species[row] for row in rows],
            indices=rows.tolist(),
            sampling=options.sampling,
            seed=options.seed,
            chunk_pairs=options.chunk_pairs,
        )
        for rows in torch.arange(len(species)).split(options.block)
    ]
    # Energies before a relaxation are not used.
    with evaluation_backend(options, model, None if options.relax else reward, progress) as backend:
        done = collect(backend.evaluate.measure(model, blocks), len(species), "generate", progress)
    crystals = CrystalBatch.cat(block.crystals for block in done)
    valid = check_validity(crystals).valid
    _warn_fruitless(cells, valid.view(len(cells), options.count))
    kept = valid.nonzero().squeeze(1)
    sound = crystals.select(kept)
    relaxed = _relax(sound, reward, options, progress) if reward is not None and options.relax else None
    if relaxed is not None:
        sound, energy = relaxed.crystals, relaxed.energy / relaxed.crystals.n_atoms
    else:
        unknown = torch.full((len(crystals),), torch.nan, dtype=torch.float64)
        energy = torch.cat([block.energy for block in done if block.energy is not None] or [unknown])[kept]
    order, copies = _unique(sound, energy, options)
    unique = sound.select(order)
    groups = space_groups(unique, workers=options.workers, timeout=options.timeout)
    keys, ranks = compositions(unique), Counter[Composition]()
    above = _above_best(keys, energy[order].tolist())
    formulas = unique.formulas()
    properties = []
    for row, position in enumerate(order.tolist()):
        index = int(kept[position])
        asked = cells[index // options.count][0]
        formula, z = (formulas[row], 1) if asked is None else asked
        ranks[keys[row]] += 1
        group = groups[row]
        properties.append(
            {
                "formula": formula,
                "z": z,
                "rank": ranks[keys[row]],
                "energy_per_atom": None if energy[position].isnan() else float(energy[position]),
                "energy_above_best": above[row],
                "space_group": None if group is None else group.symbol,
                "space_group_number": None if group is None else group.number,
                "copies": copies[row],
                "relax_steps": None if relaxed is None else int(relaxed.steps[position]),
                "relax_drop": None if relaxed is None else float(relaxed.drop[position] / sound.n_atoms[position]),
                "model": str(options.model),
                "steps": options.sampling.steps,
                "noise": options.sampling.noise,
                "potential": None if reward is None else reward.potential.name,
                "seed": options.seed,
                "index": index,
            }
        )
    return Generated(unique, properties, len(crystals), int((~valid).sum()))


def _relax(crystals: CrystalBatch, reward: MatGLEnergy, options: GenerateOptions, progress: bool) -> Relaxed:
    """Relax valid crystals block by block, in this process.

    Crystals with an element unknown to the potential stay as they are, without an energy. Only generated species can
    bring such elements.
    """
    known = holds_only(reward.elements, crystals)
    rows, others = known.nonzero().squeeze(1), (~known).nonzero().squeeze(1)
    kept, nothing = crystals.select(others).to("cpu", torch.float64), torch.full((len(others),), torch.nan).double()
    done = [Relaxed(kept, nothing, torch.zeros(len(others), dtype=torch.long), nothing)]
    with Progress(len(rows), "relax", shown=progress) as bar:
        for part in rows.split(options.block) if len(rows) else ():
            done.append(relax(reward.potential, crystals.select(part), options.relax, reward.chunk_edges))
            bar.advance(steps=len(part))
    order = torch.cat([others, rows]).argsort()
    return Relaxed(
        CrystalBatch.cat(part.crystals for part in done).select(order),
        torch.cat([part.energy for part in done])[order],
        torch.cat([part.steps for part in done])[order],
        torch.cat([part.drop for part in done])[order],
    )


def _above_best(keys: Sequence[Composition], energies: Sequence[float]) -> list[float | None]:
    """Return the eV/atom of every crystal above the lowest of its composition; None if its energy is NaN."""
    best: dict[Composition, float] = {}
    for key, value in zip(keys, energies, strict=True):
        if not math.isnan(value):
            best[key] = min(value, best.get(key, value))
    return [None if math.isnan(value) else value - best[key] for key, value in zip(keys, energies, strict=True)]


def _cells(options: GenerateOptions) -> list[tuple[tuple[str, int] | None, list[int]]]:
    """Return formula and z (None if species are generated) and the atomic numbers of each cell.

    If species are generated, only the number of atomic numbers counts.
    """
    requested = [((f, z), cell_species(f, z)) for f in options.formulas for z in options.z]
    return [*requested, *((None, [1] * n) for n in options.atoms)]


def _warn_fruitless(cells: Sequence[tuple[tuple[str, int] | None, list[int]]], valid: Tensor) -> None:
    """Warn about cells without any valid crystal (cells, count); refuse if no cell has one."""
    advice = "generate more (-n), use more steps, or another model"
    if not bool(valid.any()):
        raise DataError(
            f"none of the {valid.numel()} generated crystals is valid (overlapping atoms or a collapsed cell); {advice}"
        )
    names = [f"{len(cell)} atoms" if asked is None else f"{asked[0]} (z = {asked[1]})" for asked, cell in cells]
    empty = [name for name, row in zip(names, valid, strict=True) if not bool(row.any())]
    if empty:
        warnings.warn(f"no valid crystal of {', '.join(empty)}; {advice}", stacklevel=3)


def _unique(crystals: CrystalBatch, energy: Tensor, options: GenerateOptions) -> tuple[Tensor, list[int]]:
    """Return representatives, by composition and then by energy, and the number of crystals that each stands for."""
    unique = find_unique(crystals, energy, workers=options.workers, timeout=options.timeout)
    counts = torch.bincount(unique.cluster, minlength=len(unique.representatives)).tolist()
    keys = compositions(crystals)
    position = {key: index for index, key in enumerate(dict.fromkeys(keys))}
    # `find_unique` gives the best first; a stable sort by composition keeps that order within each.
    pairs = sorted(zip(unique.representatives.tolist(), counts, strict=True), key=lambda pair: position[keys[pair[0]]])
    return torch.tensor([index for index, _ in pairs]), [count for _, count in pairs]


def listing(found: Generated) -> str:
    """Format one line for each crystal, with absurd ones marked."""
    lines = []
    for row, absurd in zip(found.properties, found.absurd, strict=True):
        line = f"{row['formula']:>12} z={row['z']} {row['rank']:4d}"
        if row["energy_per_atom"] is not None:
            line += f"{row['energy_per_atom']:10.4f} eV/atom {row['energy_above_best']:+9.4f}"
        lines.append(f"{line}  {row['space_group'] or '-':<10} x{row['copies']}{' !' if absurd else ''}")
    return "\n".join(lines)


def summary(found: Generated) -> str:
    """Summarise in one line how many crystals were generated, invalid and unique."""
    text = f"{found.asked} generated, {found.invalid} invalid, {len(found.crystals)} unique"
    if any(found.absurd):
        text += f", {sum(found.absurd)} more than {ABSURD:g} eV/atom above the best of their composition (!)"
    return text
