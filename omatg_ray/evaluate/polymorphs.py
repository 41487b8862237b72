"""Known polymorphs: crystals of a data set with the same atoms in their cells, between which energy decides."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence

from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.reward.matching import Composition, compositions

MOST_POLYMORPHS = 16
"""Where more crystals than this have the same atoms in their cells, they count as without known polymorphs.

Every generated crystal is compared with all polymorphs of its row. Where a data set samples the energy landscape of one
composition (Carbon-24 has 10,000 crystals of one element), that would be the square of its size, and which of thousands
of near-copies is the lowest says little.
"""

Matches = Mapping[int, float]
"""What one generated crystal matches: RMSE to known crystals, by their places in the data set."""


class Polymorphs:
    """The known polymorphs of some crystals of a data set, each of which is one of its own.

    Polymorphs have equally many atoms of every element in their cells. Crystals in cells of another size are left out:
    whether a generated one matches those depends on whether it is tidy enough to be reduced to their cell.

    Args:
        known: The whole data set. Crystals that occur twice are two polymorphs.
        rows: Places in the data set of the crystals to evaluate.

    Attributes:
        of_row: Places of the polymorphs of every row, ascending: 2 to `MOST_POLYMORPHS`, or none.
        n_polymorphic: Rows that have any.
        crowded: Which rows have none because there are more.
    """

    def __init__(self, known: CrystalBatch, rows: Sequence[int]) -> None:
        of_key: dict[Composition, list[int]] = defaultdict(list)
        keys = compositions(known, reduced=False)
        for place, key in enumerate(keys):
            of_key[key].append(place)
        self.crowded = [len(of_key[keys[row]]) > MOST_POLYMORPHS for row in rows]
        of_key = {key: places if 2 <= len(places) <= MOST_POLYMORPHS else [] for key, places in of_key.items()}
        self.of_row = [of_key[keys[row]] for row in rows]
        self.n_polymorphic = sum(bool(places) for places in self.of_row)

    def closest(self, matches: Sequence[Matches]) -> list[int | None]:
        """For every row the polymorph that its generated crystal matches most closely; None without one."""
        compared = zip(matches, self.of_row, strict=True)
        return [
            min((p for p in places if p in found), key=found.__getitem__, default=None) for found, places in compared
        ]

    def lowest(self, energy: Mapping[int, float]) -> list[int | None]:
        """For every row the polymorph of lowest energy; None without one.

        Args:
            energy: eV/atom of every polymorph by its place; one that has none (NaN) is left out.
        """
        return [
            min((p for p in places if math.isfinite(energy[p])), key=energy.__getitem__, default=None)
            for places in self.of_row
        ]

    def match_any(self, closest: Sequence[int | None]) -> float:
        """Share of the polymorphic rows that match a polymorph; there must be such rows.

        Args:
            closest: As the method of that name gives it.
        """
        return sum(found is not None for found in closest) / self.n_polymorphic

    def match_lowest(self, closest: Sequence[int | None], lowest: Sequence[int | None]) -> float:
        """Share of the polymorphic rows whose closest match is their lowest polymorph; there must be such rows.

        Args:
            closest: As the method of that name gives it.
            lowest: As the method of that name gives it.
        """
        both = zip(closest, lowest, strict=True)
        return sum(found is not None and found == target for found, target in both) / self.n_polymorphic
