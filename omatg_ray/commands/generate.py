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

from omatg_ray.commands.generated import AS_GENERATED, RELAXED, UNFINISHED, Generated
from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.crystal.domain import judge, species_of
from omatg_ray.crystal.formula import cell_species
from omatg_ray.crystal.validity import check_validity
from omatg_ray.errors import ConfigError, DataError, ModelError
from omatg_ray.evaluate.backend import Block
from omatg_ray.evaluate.bonds import closest_bonds
from omatg_ray.evaluate.domain import trained_on, warn_outside
from omatg_ray.evaluate.evaluation import collect
from omatg_ray.evaluate.ranking import above_best, in_dispute
from omatg_ray.evaluate.unique import SYMMETRY_TOLERANCE, find_unique, space_groups
from omatg_ray.model.checks import refuse_unseen, warn_noiseless
from omatg_ray.model.flow_model import FlowModel
from omatg_ray.reward.energy import MatGLEnergy
from omatg_ray.reward.matching import Composition, compositions
from omatg_ray.reward.protocol import holds_only, reward_of_known
from omatg_ray.reward.relax import Relaxed, relax
from omatg_ray.run.progress import Progress
from omatg_ray.train.backend import evaluation_backend
from omatg_ray.train.options import SamplingOptions


@dataclass(frozen=True, kw_only=True)
class GenerateOptions(SamplingOptions):
    """Crystals to generate. Without a potential they are not ranked.

    Attributes:
        formulas: Chemical formulas.
        z: Formula units per cell; every formula is generated with each.
        atoms: Numbers of atoms per cell in place of formulas, for a model that generates species.
        count: Crystals for each formula and z, or number of atoms.
        relax: Most relaxation steps of every valid crystal, under the potential; 0 leaves them as they are.
        second_potential: Potential that judges the unique crystals too, without relaxing them: name, folder or bundled.
    """

    formulas: tuple[str, ...] = ()
    z: tuple[int, ...] = (1,)
    atoms: tuple[int, ...] = ()
    count: int = 1
    relax: int = 0
    second_potential: str | None = None


def generate(options: GenerateOptions, progress: bool = False) -> Generated:
    """Generate, drop invalid crystals, relax the others if asked to, drop duplicates, rank.

    Raises:
        ConfigError: Relaxation or a second potential is asked for without a potential.
        FormulaError: A formula cannot be parsed.
        ModelError: The model cannot be read, was never trained on an element, or takes numbers of atoms although
            formulas are given, or the reverse.
        PotentialError: The potential cannot be loaded or does not know an element.
        DataError: No crystal is valid.
        ClusterError: There is no Ray cluster, it has no room, or an actor died.
    """
    if options.relax and options.potential is None:
        raise ConfigError("--relax: crystals relax under a potential; name one with --potential")
    if options.second_potential is not None and options.potential is None:
        raise ConfigError("--second-potential: there is none to compare it with; name one with --potential")
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
    refuse_unseen(model, options.model, elements)
    warn_noiseless(model, [options.sampling])
    reward, second = (
        None if name is None else MatGLEnergy(name, device=device)
        for name in (options.potential, options.second_potential)
    )
    for known in (reward, second):
        if known is not None:
            known.require_elements(elements)
    if reward is not None and second is not None and reward.potential.fingerprint == second.potential.fingerprint:
        warnings.warn(
            "--second-potential has the weights of --potential and will always agree; name another", stacklevel=2
        )
    models = {str(options.model): model}
    trained = trained_on(models, [reward, second])
    warn_outside(models, trained, [cell for _, cell in cells], "cells")
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
    energy, other = energy[order], _single_points(second, unique)
    above, other_above, disputed = above_best(keys, energy), above_best(keys, other), in_dispute(keys, energy, other)
    formulas, atoms, bonds = unique.formulas(), species_of(unique), closest_bonds(unique)
    properties: list[dict[str, Any]] = []
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
                "domain": judge(trained, atoms[row]),
                "energy_per_atom": _unless_nan(energy[row]),
                "energy_above_best": above[row],
                "second_energy_per_atom": _unless_nan(other[row]),
                "second_energy_above_best": other_above[row],
                "disputed": None if second is None else disputed[row],
                "space_group": None if group is None else group.symbol,
                "space_group_number": None if group is None else group.number,
                "symmetry_tolerance": SYMMETRY_TOLERANCE,
                "copies": copies[row].total(),
                "copies_by_z": _by_z(copies[row]),
                "bonds": ", ".join(map(str, bonds[row])) or None,
                "relaxation": AS_GENERATED if relaxed is None else _relaxation(relaxed, position),
                "relax_steps": None if relaxed is None else int(relaxed.steps[position]),
                "relax_drop": None if relaxed is None else float(relaxed.drop[position] / sound.n_atoms[position]),
                "model": str(options.model),
                "steps": options.sampling.steps,
                "noise": options.sampling.noise,
                "potential": None if reward is None else reward.potential.name,
                "second_potential": None if second is None else second.potential.name,
                "seed": options.seed,
                "index": index,
            }
        )
    return Generated(
        unique,
        properties,
        len(crystals),
        int((~valid).sum()),
        options.relax,
        tuple(who for who, domain in trained if domain is not None),
        tuple(who for who, domain in trained if domain is None),
    )


def _single_points(second: MatGLEnergy | None, crystals: CrystalBatch) -> Tensor:
    """Return the energies of the second potential (B,) in eV/atom, NaN where it fails or does not know an element."""
    unknown = torch.full((len(crystals),), torch.nan, dtype=torch.float64)
    return unknown if second is None else reward_of_known(second, crystals).values.get("energy_per_atom", unknown)


def _unless_nan(value: Tensor) -> float | None:
    return None if value.isnan() else float(value)


def _relaxation(relaxed: Relaxed, row: int) -> str:
    if relaxed.energy[row].isnan():
        return AS_GENERATED
    return RELAXED if relaxed.converged[row] else UNFINISHED


def _by_z(copies: Counter[int]) -> str | None:
    """Return how many of the copies have how many formula units per cell; None if all have the same."""
    return ", ".join(f"z={z}: {count}" for z, count in sorted(copies.items())) if len(copies) > 1 else None


def _relax(crystals: CrystalBatch, reward: MatGLEnergy, options: GenerateOptions, progress: bool) -> Relaxed:
    """Relax valid crystals block by block, in this process.

    Crystals with an element unknown to the potential stay as they are, without an energy. Only generated species can
    bring such elements.
    """
    known = holds_only(reward.elements, crystals)
    rows, others = known.nonzero().squeeze(1), (~known).nonzero().squeeze(1)
    kept, nothing = crystals.select(others).to("cpu", torch.float64), torch.full((len(others),), torch.nan).double()
    rests = torch.zeros(len(others), dtype=torch.bool)
    done = [Relaxed(kept, nothing, rests.long(), nothing, rests)]
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
        torch.cat([part.converged for part in done])[order],
    )


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


def _unique(crystals: CrystalBatch, energy: Tensor, options: GenerateOptions) -> tuple[Tensor, list[Counter[int]]]:
    """Return representatives, by composition and then by energy, and the crystals that each stands for.

    These are counted by their formula units per cell.
    """
    unique = find_unique(crystals, energy, workers=options.workers, timeout=options.timeout)
    counts: list[Counter[int]] = [Counter() for _ in unique.representatives]
    for cluster, species in zip(unique.cluster.tolist(), species_of(crystals), strict=True):
        counts[cluster][math.gcd(*Counter(species).values())] += 1
    keys = compositions(crystals)
    position = {key: index for index, key in enumerate(dict.fromkeys(keys))}
    # `find_unique` gives the best first; a stable sort by composition keeps that order within each.
    pairs = sorted(zip(unique.representatives.tolist(), counts, strict=True), key=lambda pair: position[keys[pair[0]]])
    return torch.tensor([index for index, _ in pairs]), [count for _, count in pairs]
