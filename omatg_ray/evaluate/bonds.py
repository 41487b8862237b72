"""Closest distances of each pair of elements in a crystal, against the sums of their covalent radii.

The radii are those of Cordero et al. (Dalton Trans. 2008, 2832), as in `ase.data.covalent_radii`. Ratios differ from
bond to bond: P-O in phosphates is near 0.9, Na-Cl in rock salt 1.05, metal to metal 0.9 to 1.1.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.crystal.domain import by_electronegativity
from omatg_ray.reward.graph import neighbours

BONDED: Final = 1.2
"""Atoms are bonded up to this distance, in units of the sum of their covalent radii."""
WIDE: Final = 1.5
"""Up to this distance, in the same units, a bond is followed that a relaxation stretches."""
MOVED: Final = 0.15
"""Share of its length by which a bond changes where a relaxation has made another crystal of one."""
RADII: Final = "covalent radii of Cordero et al., Dalton Trans. 2008, 2832"


class Bond(NamedTuple):
    """The closest distance of a pair of elements.

    Attributes:
        pair: `P-O`.
        distance: In Å.
        ratio: The same in units of the sum of the covalent radii.
    """

    pair: str
    distance: float
    ratio: float

    def __str__(self) -> str:
        return f"{self.pair} {self.distance:.2f} A ({self.ratio:.2f} x radii)"


def closest_bonds(crystals: CrystalBatch, within: float = BONDED) -> list[list[Bond]]:
    """Return the closest distance of every pair of elements that is bonded, shortest ratio first, for each crystal.

    Args:
        crystals: B crystals that passed `check_validity`.
        within: Longest distance, in units of the sum of the covalent radii.
    """
    from ase.data import covalent_radii

    pos, cell = crystals.pos.double().cpu().numpy(), crystals.cell.double().cpu().numpy()
    numbers, ptr = crystals.species.cpu().numpy(), crystals.ptr.tolist()
    found = []
    for b in range(len(crystals)):
        atoms = slice(ptr[b], ptr[b + 1])
        z, radius = numbers[atoms], covalent_radii[numbers[atoms]]
        (first, second), offset = neighbours(pos[atoms], cell[b], 2 * within * float(radius.max()))
        distance = np.linalg.norm((pos[atoms][second] - pos[atoms][first] + offset) @ cell[b], axis=1)
        closest: dict[tuple[int, ...], Bond] = {}
        for i in np.argsort(distance, kind="stable"):
            pair = tuple(sorted((int(z[first[i]]), int(z[second[i]]))))
            ratio = float(distance[i] / (radius[first[i]] + radius[second[i]]))
            if pair not in closest and ratio <= within:
                closest[pair] = Bond("-".join(by_electronegativity(pair)), float(distance[i]), ratio)
        found.append(sorted(closest.values(), key=lambda bond: bond.ratio))
    return found


def moved_bonds(before: CrystalBatch, after: CrystalBatch) -> list[list[str]]:
    """Name the closest bonds that a relaxation changed by more than `MOVED`, the most changed first, for each crystal.

    Pairs of elements count that are bonded before or after.

    Args:
        before: B crystals that passed `check_validity`.
        after: The same crystals, relaxed.
    """
    return [
        _moved(*({bond.pair: bond for bond in bonds} for bonds in pair))
        for pair in zip(closest_bonds(before, WIDE), closest_bonds(after, WIDE), strict=True)
    ]


def _moved(before: dict[str, Bond], after: dict[str, Bond]) -> list[str]:
    changes: list[tuple[float, str]] = []
    for pair in before | after:
        known = [bonds[pair] for bonds in (before, after) if pair in bonds]
        if min(bond.ratio for bond in known) <= BONDED:
            # A distance that is not known is longer than that.
            limit = WIDE * known[0].distance / known[0].ratio
            old, new = (bonds[pair].distance if pair in bonds else limit for bonds in (before, after))
            texts = [f"{'' if pair in bonds else 'over '}{d:.2f}" for bonds, d in ((before, old), (after, new))]
            changes.append((abs(new / old - 1), f"{pair} {' -> '.join(texts)} A"))
    return [text for change, text in sorted(changes, reverse=True) if change > MOVED]
