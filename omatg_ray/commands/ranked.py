"""Ranked crystals, as `omatg-ray generate` and `relax` find them, and how they are listed."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.crystal.standard_crystal import LOOSER, SYMPREC
from omatg_ray.evaluate.bonds import BONDED, RADII
from omatg_ray.evaluate.ranking import DISAGREE
from omatg_ray.reward.relax import CONVERGED

ABSURD = 3.0
"""eV/atom above the best crystal of the composition: atoms overlap, but not enough to make the crystal invalid."""
TOO_CLOSE = 0.6
"""Times the sum of the covalent radii, below which no two atoms of a solid are: such a crystal is absurd by itself."""
FAR, MOST_FAR = 0.3, 3
"""eV/atom from which on the fall of the energy in a relaxation is said, and for how many crystals by name."""
ORDERED = (
    "?: both crystals of every pair of one composition that the two potentials order differently, if their energy "
    f"difference changes by more than {DISAGREE:g} eV/atom between the potentials"
)
RAISED = (
    "?: a crystal whose energy fell in the relaxation by the first potential and rose by more than "
    f"{DISAGREE:g} eV/atom by the second"
)
"""When potentials disagree on a crystal; the help of `generate` and docs/bundled.md have the same words."""
AS_GENERATED, RELAXED, UNFINISHED = "none", "converged", "not converged"
"""Values of the property `relaxation`."""


@dataclass(frozen=True)
class RankedCrystals:
    """Unique valid crystals: reduced compositions in the requested order, lowest energy per atom first in each.

    Compositions of given crystals keep their order, and those that a model chooses come in that of their lowest energy.

    Attributes:
        crystals: The crystals.
        properties: Properties of each: formula, rank, energy, space group, copies, provenance.

            - `domain`: yes, unknown, or no, with what of its composition model or potentials did not see in training.
            - `energy_above_best`: eV/atom above the lowest of its reduced composition.
            - `second_energy_above_best`: The same by the second potential. `disputed` says whether the two order it
              differently (`in_dispute`), or the second one objects to its relaxation (`opposed`).
            - `space_group`: To `symmetry_tolerance` in Å; of a crystal that is not relaxed if `relaxation` is none.
              `space_group_looser` is that to `LOOSER` times this tolerance: another one depends on the tolerance.
            - `relaxation`: none, converged, not converged. `relax_steps` is the number of steps, and `relax_drop` the
              eV/atom by which they lowered the energy. `second_relax_drop` is that by the second potential, negative
              if the energy rose. `relax_bonds` names closest bonds that they changed much (`moved_bonds`).
            - `copies`: Number of equal crystals that it stands for; `copies_by_z` counts them by formula units per
              cell, if these differ.
            - `bonds`: The closest distance of each bonded pair of elements (`closest_bonds`). `shortest_bond` is the
              shortest of them in units of the sum of the covalent radii.
        asked: Number of crystals generated or given.
        invalid: Number of crystals that failed the validity checks and were dropped.
        relax: Most relaxation steps; 0 if crystals are as generated.
        trained: What `domain` is about, such as `model bundled`.
        silent: Which models and potentials do not say what they were trained on.
        origin: Where the crystals are from: generated or given.
        symprec: Tolerance in Å of space groups.
        recovery: What the model says of how many held-out crystals of such sizes it recovers.
    """

    crystals: CrystalBatch
    properties: list[dict[str, Any]]
    asked: int
    invalid: int
    relax: int = 0
    trained: tuple[str, ...] = ()
    silent: tuple[str, ...] = ()
    origin: Literal["generated", "given"] = "generated"
    symprec: float = SYMPREC
    recovery: str = ""

    @property
    def absurd(self) -> list[bool]:
        """Which crystals are `too_close` or `too_high`."""
        return [close or high for close, high in zip(self.too_close, self.too_high, strict=True)]

    @property
    def too_close(self) -> list[bool]:
        """Which crystals have atoms closer than `TOO_CLOSE`."""
        return [(row["shortest_bond"] or BONDED) < TOO_CLOSE for row in self.properties]

    @property
    def too_high(self) -> list[bool]:
        """Which crystals lie more than `ABSURD` above the best of their composition; none without energies."""
        return [(row["energy_above_best"] or 0.0) > ABSURD for row in self.properties]


def listing(found: RankedCrystals) -> str:
    """Format one line for each crystal, with those marked that are absurd, in dispute or not fully relaxed."""
    lines, groups = [], [_space_group(row) for row in found.properties]
    width = max(map(len, groups), default=0)
    for row, group, absurd in zip(found.properties, groups, found.absurd, strict=True):
        line = f"{row['formula']:>12} z={row['z']} {row['rank']:4d}"
        if row["energy_per_atom"] is not None:
            line += f"{row['energy_per_atom']:10.4f} eV/atom {row['energy_above_best']:+9.4f}"
        if row["second_potential"] is not None:
            above = row["second_energy_above_best"]
            line += " second       -" if above is None else f" second {above:+.4f}"
            if found.relax:
                drops = (row["relax_drop"], row["second_relax_drop"])
                line += " drop {} second {}".format(*("      -" if d is None else f"{d:+.4f}" for d in drops))
        by_z = f" ({row['copies_by_z']})" if row["copies_by_z"] else ""
        line += f"  {group:<{max(width, 10)}} x{row['copies']}{by_z}"
        line += f"  in domain: {row['domain']}"
        marks = {"~": found.relax and row["relaxation"] != RELAXED, "?": row["disputed"], "!": absurd}
        if found.origin == "given":
            line += f"  {row['material_id']}"
        lines.append("".join([line, *(f" {mark}" for mark, holds in marks.items() if holds)]))
    return "\n".join(lines)


def legend(found: RankedCrystals) -> str:
    """Say, in a line each, what space groups, the domain and marks of the listing mean."""
    loose = any(map(is_loose, found.properties))
    looser = f" (and to {LOOSER * found.symprec:g} A, where it is another)" if loose else ""
    symmetry = f"space groups: to {found.symprec:g} A{looser}, "
    if found.relax:
        done = sum(row["relaxation"] == RELAXED for row in found.properties)
        symmetry += (
            f"of crystals relaxed in at most {found.relax} steps; {done} of {len(found.properties)} converged to "
            f"forces below {CONVERGED:g} eV/A{' (others: ~)' if done < len(found.properties) else ''}"
        )
    else:
        symmetry += f"of crystals as {found.origin} (unrelaxed)"
    judged = any(row["second_potential"] is not None for row in found.properties)
    dropped = judged and found.relax > 0
    drop = "drop: eV/atom by which the relaxation lowered the energy, by either potential"
    domain = f"in domain: whether {' and '.join(found.trained)} saw such compositions in training"
    unknown = f"in domain: {' and '.join(found.silent)} {'do' if len(found.silent) > 1 else 'does'} not say what it saw"
    said = {
        symmetry: True,
        drop: dropped,
        domain: bool(found.trained),
        unknown: bool(found.silent),
        found.recovery: bool(found.recovery),
        ORDERED: judged,
        RAISED: dropped,
    }
    return "\n".join(line for line, holds in said.items() if holds)


def is_loose(row: Mapping[str, Any]) -> bool:
    """Return whether the space group of a crystal with these properties depends on the tolerance."""
    return row["space_group_looser_number"] not in (None, row["space_group_number"])


def _space_group(row: Mapping[str, Any]) -> str:
    """Return the space group, with that of the looser tolerance where it is another."""
    looser = f", {row['space_group_looser']} to {LOOSER * row['symmetry_tolerance']:g} A" if is_loose(row) else ""
    return f"{row['space_group'] or '-'}{looser}"


def warn_loose_groups(rows: Iterable[Mapping[str, Any]]) -> None:
    """Warn that standard cells of crystals with these properties will have groups that depend on the tolerance."""
    loose = [row for row in rows if is_loose(row)]
    if loose:
        counts = Counter(row["formula"] for row in loose)
        names = ", ".join(f"{formula} ({count})" if count > 1 else formula for formula, count in counts.items())
        tolerance = loose[0]["symmetry_tolerance"]
        # Tolerances beyond that take polymorphs for each other.
        advice = f", or --symprec {LOOSER * tolerance:g}" if tolerance <= SYMPREC else ""
        warnings.warn(
            f"--standardize: the space groups of {names} depend on the tolerance ({tolerance:g} A; others to "
            f"{LOOSER * tolerance:g} A): relax further{advice}",
            stacklevel=2,
        )


def warn_far(rows: Iterable[Mapping[str, Any]]) -> None:
    """Warn of crystals whose relaxation took them far, so that they may be others than those that were given."""
    far = []
    for row in rows:
        fell = f"{row['relax_drop']:.2f} eV/atom lower" if (row["relax_drop"] or 0.0) > FAR else None
        bond = row["relax_bonds"] and row["relax_bonds"].split(", ")[0]
        if fell or bond:
            far.append(f"{row['material_id']} ({row['formula']}: {', '.join(filter(None, (fell, bond)))})")
    if far:
        more = f" and {len(far) - MOST_FAR} more" if len(far) > MOST_FAR else ""
        it = "it was" if len(far) == 1 else "they were"
        warnings.warn(
            f"relaxed far from where {it}: {', '.join(far[:MOST_FAR])}{more}; check with --second-potential",
            stacklevel=3,
        )


def bonds_of_best(found: RankedCrystals) -> str:
    """Format the closest distances of the best crystal of each composition, or of the first one if none is ranked."""
    best = [row for row in found.properties if row["rank"] == 1]
    lines = [f"{row['formula']:>12}  {row['bonds'] or f'no atoms within {BONDED:g} x radii'}" for row in best]
    ranked = any(row["energy_per_atom"] is not None for row in best)
    which = "best" if ranked else "first, since nothing is ranked without a potential"
    return "\n".join([f"closest bonds of the {which} ({RADII}):", *lines])


def summary(found: RankedCrystals) -> str:
    """Summarise in one line how many crystals were generated, invalid and unique, and how many are marked."""
    text = f"{found.asked} {found.origin}, {found.invalid} invalid, {len(found.crystals)} unique"
    disputed = sum(bool(row["disputed"]) for row in found.properties)
    if disputed:
        text += f", {disputed} on which the potentials disagree by more than {DISAGREE:g} eV/atom (?)"
    if any(found.too_close):
        text += f", {sum(found.too_close)} with atoms closer than {TOO_CLOSE:g} x radii (!)"
    if any(found.too_high):
        text += f", {sum(found.too_high)} more than {ABSURD:g} eV/atom above the best of their composition (!)"
    return text
