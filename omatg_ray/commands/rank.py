"""Ranking of crystals: relaxed on request, without duplicates, best first in each composition."""

from __future__ import annotations

import math
import os
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor

from omatg_ray.commands.ranked import AS_GENERATED, RankedCrystals, warn_far
from omatg_ray.commands.relax import relaxation
from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.crystal.domain import Trained, judge
from omatg_ray.crystal.given import as_dataset
from omatg_ray.crystal.standard_crystal import LOOSER, SYMPREC
from omatg_ray.crystal.validity import check_validity
from omatg_ray.errors import ConfigError, DataError
from omatg_ray.evaluate.bonds import closest_bonds, moved_bonds
from omatg_ray.evaluate.domain import trained_on, warn_outside
from omatg_ray.evaluate.ranking import above_best, in_dispute, opposed
from omatg_ray.evaluate.relaxation import relax_all
from omatg_ray.evaluate.settings import BLOCK
from omatg_ray.evaluate.unique import find_unique, space_groups_at
from omatg_ray.reward.energy import MatGLEnergy
from omatg_ray.reward.matching import Composition, compositions
from omatg_ray.reward.protocol import reward_of_known
from omatg_ray.reward.relax import Relaxed
from omatg_ray.run.location import BUNDLED
from omatg_ray.train.device import choose_device

if TYPE_CHECKING:
    from omatg_ray.crystal.given import Given


@dataclass(frozen=True)
class Judges:
    """The potential that ranks, and another one that checks it; None where there is none."""

    first: MatGLEnergy | None
    second: MatGLEnergy | None

    @classmethod
    def load(
        cls, first: str | Path | None, second: str | Path | None, elements: Iterable[int], device: torch.device | str
    ) -> Self:
        """Load potentials, which have to know these atomic numbers.

        Raises:
            PotentialError: One cannot be loaded or does not know an element.
        """
        judges = cls(*(None if name is None else MatGLEnergy(name, device=device) for name in (first, second)))
        known = [energy for energy in (judges.first, judges.second) if energy is not None]
        for energy in known:
            energy.require_elements(elements)
        if len({energy.potential.fingerprint for energy in known}) < len(known):
            warnings.warn(
                "--second-potential has the weights of --potential and will always agree; name another", stacklevel=3
            )
        return judges

    @cached_property
    def names(self) -> dict[str, str | None]:
        """Properties that name them."""
        both = {"potential": self.first, "second_potential": self.second}
        return {key: None if energy is None else energy.potential.name for key, energy in both.items()}


@dataclass(frozen=True, kw_only=True)
class RankOptions:
    """How crystals are ranked.

    Attributes:
        relax: Most relaxation steps of every crystal, under the first potential; 0 leaves them as they are.
        symprec: Tolerance in Å of space groups.
        workers: Processes that compare structures; 0 compares in this one.
        timeout: Seconds that one comparison may take.
        block: Crystals relaxed together.
        progress: Show progress.
    """

    relax: int = 0
    symprec: float = SYMPREC
    workers: int = 0
    timeout: float = 10.0
    block: int = BLOCK
    progress: bool = False


def rank(
    structures: Given,
    potential: str | Path | None = BUNDLED,
    *,
    relax: int = 0,
    second_potential: str | Path | None = None,
    symprec: float = SYMPREC,
    workers: int = os.cpu_count() or 1,
    timeout: float = 10.0,
    device: str = "auto",
    progress: bool = False,
) -> RankedCrystals:
    """Rank one's own crystals: relax them if asked to, drop invalid ones and duplicates, best first.

    `properties` of the result has a row for each crystal: `material_id`, rank, energies, space group, copies, closest
    bonds and more (`RankedCrystals`).

    Args:
        structures: A file or folder of crystals (or its URL), pymatgen Structures, ASE Atoms, or a `CrystalBatch`.
        potential: Name or folder of a MatGL potential, or "bundled"; None only drops invalid ones and duplicates.
        relax: Most relaxation steps of each; 0 ranks them as they are.
        second_potential: Another potential, which judges the unique ones too.
        symprec: Tolerance in Å of space groups.
        workers: Processes that compare structures; 0 compares in this one.
        timeout: Seconds that one comparison may take.
        device: auto, cpu, cuda or cuda:N.
        progress: Show progress.

    Raises:
        ConfigError: Relaxation or a second potential is asked for without a potential, or the device does not exist.
        DataError: As `as_dataset`; or no crystal is valid.
        PotentialError: A potential cannot be loaded or does not know an element.

    Example:
        >>> best = rank("mine.extxyz", relax=100)                     # doctest: +SKIP
        >>> best.crystals.to_structures()[0], best.properties[0]      # doctest: +SKIP
    """
    refuse_unjudged(relax, second_potential, potential)
    dataset = as_dataset(structures, progress)
    judges = Judges.load(potential, second_potential, dataset.elements, choose_device(device))
    trained = trained_on({}, [judges.first, judges.second])
    warn_outside({}, trained, dataset.crystals.atomic_numbers, "crystals")
    kept = check_validity(dataset.crystals).valid.nonzero().squeeze(1)
    if not len(kept):
        raise DataError(f"none of the {len(dataset)} crystals is valid (overlapping atoms or a collapsed cell)")
    sound, ids = dataset.crystals.select(kept), [dataset.ids[row] for row in kept.tolist()]
    energy = None if relax else _single_points(judges.first, sound)
    options = RankOptions(relax=relax, symprec=symprec, workers=workers, timeout=timeout, progress=progress)
    units = zip(dataset.select(kept).compositions, sound.atomic_numbers, strict=True)
    crystals, properties = rank_valid(
        sound,
        energy,
        [(formula, _formula_units(species)) for formula, species in units],
        [judges.names | {"material_id": ident} for ident in ids],
        judges,
        trained,
        options,
    )
    if judges.second is None:
        warn_far(properties)
    return RankedCrystals(
        crystals,
        properties,
        len(dataset),
        len(dataset) - len(kept),
        relax,
        *who_says(trained),
        origin="given",
        symprec=symprec,
    )


def refuse_unjudged(relax: int, second_potential: object, potential: object) -> None:
    """Refuse what needs a potential if there is none.

    Raises:
        ConfigError: Names the option.
    """
    if relax and potential is None:
        raise ConfigError("--relax: crystals relax under a potential; name one with --potential")
    if second_potential is not None and potential is None:
        raise ConfigError("--second-potential: there is none to compare it with; name one with --potential")


def who_says(trained: Sequence[Trained]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return which models and potentials say what they were trained on, and which do not."""
    says = [tuple(one.who for one in trained if (one.domain is not None) is known) for known in (True, False)]
    return says[0], says[1]


def rank_valid(
    crystals: CrystalBatch,
    energy: Tensor | None,
    cells: Sequence[tuple[str, int]],
    about: Sequence[Mapping[str, Any]],
    judges: Judges,
    trained: Sequence[Trained],
    options: RankOptions,
    counts: Sequence[int] | None = None,
) -> tuple[CrystalBatch, list[dict[str, Any]]]:
    """Relax valid crystals if asked to, drop duplicates, and rank.

    Args:
        crystals: B valid crystals.
        energy: eV/atom of each as it is (B,), NaN where unknown; None without a potential, and if they are relaxed.
        cells: Formula and formula units of each.
        about: Properties of each to add.
        judges: The potentials.
        trained: What `domain` is judged by.
        options: How to rank.
        counts: How many equal crystals each stands for already; None: itself alone.

    Returns:
        Unique crystals and their properties, as in `RankedCrystals`.
    """
    given, relaxed = crystals, None
    if options.relax and judges.first is not None:
        relaxed = relax_all(crystals, judges.first, options.relax, options.block, options.progress)
        crystals, energy = relaxed.crystals, relaxed.energy / relaxed.crystals.n_atoms
    elif energy is None:
        energy = torch.full((len(crystals),), torch.nan, dtype=torch.float64)
    order, copies = _unique(crystals, energy, [1] * len(crystals) if counts is None else counts, options)
    unique = crystals.select(order)
    tolerances = (options.symprec, LOOSER * options.symprec)
    groups = space_groups_at(unique, tolerances, workers=options.workers, timeout=options.timeout)
    keys, ranks = compositions(unique), Counter[Composition]()
    energy, other = energy[order], _single_points(judges.second, unique)
    above, other_above, disputed = above_best(keys, energy), above_best(keys, other), in_dispute(keys, energy, other)
    course: list[dict[str, Any]] = [{"relaxation": AS_GENERATED, **dict.fromkeys(COURSE)} for _ in order]
    if relaxed is not None:
        before = given.select(order)
        drop, other_drop = relaxed.drop[order] / unique.n_atoms, _single_points(judges.second, before) - other
        disputed = [either or both for either, both in zip(disputed, opposed(drop, other_drop), strict=True)]
        course = _course(relaxed, order, drop, other_drop, moved_bonds(before, unique))
    atoms, bonds = unique.atomic_numbers, closest_bonds(unique)
    properties: list[dict[str, Any]] = []
    for row, position in enumerate(order.tolist()):
        formula, z = cells[position]
        ranks[keys[row]] += 1
        group, looser = groups[row]
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
                "disputed": None if judges.second is None else disputed[row],
                "space_group": None if group is None else group.symbol,
                "space_group_number": None if group is None else group.number,
                "symmetry_tolerance": options.symprec,
                "space_group_looser": None if looser is None else looser.symbol,
                "space_group_looser_number": None if looser is None else looser.number,
                "copies": copies[row].total(),
                "copies_by_z": _by_z(copies[row]),
                "bonds": ", ".join(map(str, bonds[row])) or None,
                "shortest_bond": bonds[row][0].ratio if bonds[row] else None,
                **course[row],
                **about[position],
            }
        )
    return unique, properties


COURSE = ("relax_steps", "relax_drop", "second_relax_drop", "relax_bonds")
"""Properties of a relaxation, beside its outcome."""


def _course(
    relaxed: Relaxed, order: Tensor, drop: Tensor, other_drop: Tensor, moved: Sequence[Sequence[str]]
) -> list[dict[str, Any]]:
    """Return the properties of the relaxation of the crystals `order` (n,); drops in eV/atom (n,)."""
    columns = (relaxed.energy[order], relaxed.converged[order], relaxed.steps[order])
    return [
        {
            "relaxation": relaxation(energy, converged),
            **dict(zip(COURSE, (steps, _unless_nan(fall), _unless_nan(other), ", ".join(bonds) or None), strict=True)),
        }
        for energy, converged, steps, fall, other, bonds in zip(
            *(column.tolist() for column in columns), drop, other_drop, moved, strict=True
        )
    ]


def _single_points(energy: MatGLEnergy | None, crystals: CrystalBatch) -> Tensor:
    """Return energies (B,) in eV/atom, NaN without a potential, and where it fails or does not know an element."""
    unknown = torch.full((len(crystals),), torch.nan, dtype=torch.float64)
    return unknown if energy is None else reward_of_known(energy, crystals).values.get("energy_per_atom", unknown)


def _unless_nan(value: Tensor) -> float | None:
    return None if value.isnan() else float(value)


def _by_z(copies: Counter[int]) -> str | None:
    """Return how many of the copies have how many formula units per cell; None if all have the same."""
    return ", ".join(f"z={z}: {count}" for z, count in sorted(copies.items())) if len(copies) > 1 else None


def _formula_units(species: Sequence[int]) -> int:
    return math.gcd(*Counter(species).values())


def _unique(
    crystals: CrystalBatch, energy: Tensor, stands_for: Sequence[int], options: RankOptions
) -> tuple[Tensor, list[Counter[int]]]:
    """Return representatives, by composition and then by energy, and the crystals that each stands for.

    These are counted by their formula units per cell.
    """
    unique = find_unique(crystals, energy, workers=options.workers, timeout=options.timeout)
    counts: list[Counter[int]] = [Counter() for _ in unique.representatives]
    for cluster, species, count in zip(unique.cluster.tolist(), crystals.atomic_numbers, stands_for, strict=True):
        counts[cluster][_formula_units(species)] += count
    keys = compositions(crystals)
    position = {key: index for index, key in enumerate(dict.fromkeys(keys))}
    # `find_unique` gives the best first; a stable sort by composition keeps that order within each.
    pairs = sorted(zip(unique.representatives.tolist(), counts, strict=True), key=lambda pair: position[keys[pair[0]]])
    return torch.tensor([index for index, _ in pairs]), [count for _, count in pairs]
