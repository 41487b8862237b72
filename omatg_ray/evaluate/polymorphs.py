"""Known polymorphs: crystals of a data set with the same atoms in their cells, ranked by energy."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence

from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.reward.matching import Composition, compositions

MOST_POLYMORPHS = 16
"""If more crystals than this have the same atoms in their cells, they count as having no known polymorphs.

Every generated crystal is compared with all polymorphs of its row. If a data set samples the energy landscape of one
composition (Carbon-24 has 10,000 crystals of one element), comparisons would grow with the square of its size, and it
says little which of thousands of near-copies is the lowest.
"""

Matches = Mapping[int, float]
"""Matches of one generated crystal: RMSE to known crystals, by their rows in the data set."""


def lowest_of(groups: Sequence[Sequence[int]], energy: Mapping[int, float]) -> list[int | None]:
    """Return the row of lowest energy of each group; None if no energy of it is finite."""
    return [
        min((row for row in rows if math.isfinite(energy[row])), key=energy.__getitem__, default=None)
        for rows in groups
    ]


class Polymorphs:
    """The known polymorphs of some crystals of a data set, each of which counts among its own.

    Polymorphs have equally many atoms of every element in their cells. Crystals in cells of another size are left out:
    whether a generated crystal matches them depends on whether it is tidy enough to be reduced to their cell.

    Args:
        known: The whole data set. Crystals that occur twice are two polymorphs.
        rows: Rows in the data set of the crystals to evaluate.

    Attributes:
        of_row: Polymorphs of every row, as ascending rows of the data set: 2 to `MOST_POLYMORPHS`, or none.
        n_polymorphic: Number of rows that have any.
        crowded: Which rows have none because there are too many.
    """

    def __init__(self, known: CrystalBatch, rows: Sequence[int]) -> None:
        of_key: dict[Composition, list[int]] = defaultdict(list)
        keys = compositions(known, reduced=False)
        for row, key in enumerate(keys):
            of_key[key].append(row)
        self.crowded = [len(of_key[keys[row]]) > MOST_POLYMORPHS for row in rows]
        of_key = {key: group if 2 <= len(group) <= MOST_POLYMORPHS else [] for key, group in of_key.items()}
        self.of_row = [of_key[keys[row]] for row in rows]
        self.n_polymorphic = sum(bool(polymorphs) for polymorphs in self.of_row)

    def closest(self, matches: Sequence[Matches]) -> list[int | None]:
        """Return for every row the polymorph that its generated crystal matches most closely; None without a match."""
        compared = zip(matches, self.of_row, strict=True)
        return [
            min((p for p in polymorphs if p in rmse), key=rmse.__getitem__, default=None)
            for rmse, polymorphs in compared
        ]

    def lowest(self, energy: Mapping[int, float]) -> list[int | None]:
        """Return for every row the polymorph of lowest energy; None without one.

        Args:
            energy: eV/atom of every polymorph, by its row in the data set; polymorphs without one (NaN) are left out.
        """
        return lowest_of(self.of_row, energy)
