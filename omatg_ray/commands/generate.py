"""`omatg-ray generate`: new crystals for formulas, optionally relaxed, without duplicates, best first."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from omatg_ray.commands.rank import Judges, RankOptions, rank_valid, refuse_unjudged, who_says
from omatg_ray.commands.ranked import RankedCrystals
from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.crystal.formula import cell_species
from omatg_ray.crystal.standard_crystal import SYMPREC
from omatg_ray.crystal.validity import check_validity
from omatg_ray.errors import DataError, ModelError
from omatg_ray.evaluate.backend import Block
from omatg_ray.evaluate.domain import trained_on, warn_outside
from omatg_ray.evaluate.evaluation import collect
from omatg_ray.model.checks import recovery_of, refuse_unseen, warn_ineffective
from omatg_ray.model.flow_model import FlowModel
from omatg_ray.model.sampling import UNGUIDED
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
        symprec: Tolerance in Å of space groups.
    """

    formulas: tuple[str, ...] = ()
    z: tuple[int, ...] = (1,)
    atoms: tuple[int, ...] = ()
    count: int = 1
    relax: int = 0
    second_potential: str | None = None
    symprec: float = SYMPREC


def generate(options: GenerateOptions, progress: bool = False) -> RankedCrystals:
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
    refuse_unjudged(options.relax, options.second_potential, options.potential)
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
    refuse_unseen(model, options.model, {named[0]: cell for named, cell in cells if named is not None})
    warn_ineffective(model, [options.sampling])
    judges = Judges.load(options.potential, options.second_potential, elements, device)
    models = {str(options.model): model}
    trained = trained_on(models, [judges.first, judges.second])
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
    # Energies of crystals that will be relaxed would be for nothing.
    weighed = None if options.relax else judges.first
    with evaluation_backend(options, model, weighed, progress) as backend:
        done = collect(backend.evaluate.measure(model, blocks), len(species), "generate", progress)
    crystals = CrystalBatch.cat(block.crystals for block in done)
    valid = check_validity(crystals).valid
    _warn_fruitless(cells, valid.view(len(cells), options.count))
    kept = valid.nonzero().squeeze(1)
    sound, indices = crystals.select(kept), kept.tolist()
    energies = [block.found.energy for block in done if block.found.energy is not None]
    asked = [cells[index // options.count][0] for index in indices]
    about: dict[str, Any] = {
        "model": str(options.model),
        "steps": options.sampling.steps,
        "noise": options.sampling.noise,
        **judges.names,
        "seed": options.seed,
    }
    unique, properties = rank_valid(
        sound,
        torch.cat(energies)[kept] if energies else None,
        [given or (formula, 1) for given, formula in zip(asked, sound.formulas(), strict=True)],
        [
            {**about, **guided, "index": index}
            for index, guided in zip(indices, _weights(options, indices), strict=True)
        ],
        judges,
        [one._replace(open_species=False) for one in trained],  # by now all species are known
        RankOptions(
            relax=options.relax,
            symprec=options.symprec,
            workers=options.workers,
            timeout=options.timeout,
            block=options.block,
            progress=progress,
        ),
    )
    return RankedCrystals(
        unique,
        properties,
        len(crystals),
        len(crystals) - len(kept),
        options.relax,
        *who_says(trained),
        symprec=options.symprec,
        recovery=recovery_of(model, options.model, (len(cell) for _, cell in cells)),
    )


def _weights(options: GenerateOptions, indices: Sequence[int]) -> list[dict[str, float]]:
    """Return the weight of guidance of each crystal, by the name of its column; nothing without guidance."""
    if options.sampling.guidance == UNGUIDED:
        return [{}] * len(indices)
    return [{"guidance": weight} for weight in options.sampling.weights(indices).tolist()]


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
