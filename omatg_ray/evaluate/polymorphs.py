"""Known polymorphs: crystals of a data set that share a reduced composition, between which energy decides."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence

import torch

from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.evaluate.matching import Composition, compositions
from omatg_ray.evaluate.metrics import match_rate

MOST_POLYMORPHS = 16
"""A composition with more crystals than this counts as one without known polymorphs.

Every generated crystal is compared with all polymorphs of its composition. Where a data set samples the energy
landscape of one composition (Carbon-24 has 10,000 crystals of one element), that would be the square of its size, and
which of thousands of near-copies is the lowest says little.
"""

Matches = Mapping[int, float]
"""What one generated crystal matches: RMSE to known crystals, by their places in the data set."""


class Polymorphs:
    """The known polymorphs of some crystals of a data set, each of which is one of its own.

    Args:
        known: The whole data set. Crystals that occur twice are two polymorphs.
        rows: Places in the data set of the crystals to evaluate.

    Attributes:
        exist: Whether any composition of the data set has at least two crystals, and not more than `MOST_POLYMORPHS`.
        of_row: Places of the polymorphs of every row, ascending; none where they are too many.
    """

    def __init__(self, known: CrystalBatch, rows: Sequence[int]) -> None:
        of_key: dict[Composition, list[int]] = defaultdict(list)
        keys = compositions(known)
        for place, key in enumerate(keys):
            of_key[key].append(place)
        of_key = {key: places if len(places) <= MOST_POLYMORPHS else [] for key, places in of_key.items()}
        self.exist = any(len(places) > 1 for places in of_key.values())
        self.of_row = [of_key[keys[row]] for row in rows]
        self._sizes, self._rows = known.layout.sizes, rows

    def lowest(self, energy: Mapping[int, float]) -> list[int | None]:
        """For every row the polymorph of lowest energy that its cell can hold; None if it can hold fewer than two.

        A cell holds a polymorph in a whole number of the polymorph's own cells, which in data are primitive.

        Args:
            energy: eV/atom of every polymorph by its place; one that has none (NaN) is left out.
        """
        lowest = []
        for row, places in zip(self._rows, self.of_row, strict=True):
            held = [p for p in places if self._sizes[row] % self._sizes[p] == 0 and math.isfinite(energy[p])]
            lowest.append(min(held, key=energy.__getitem__) if len(held) > 1 else None)
        return lowest

    def match_any(self, matches: Sequence[Matches]) -> float:
        """Share of the rows that match a polymorph, those that have too many left out."""
        compared = zip(matches, self.of_row, strict=True)
        return match_rate(torch.tensor([min(found.values(), default=math.nan) for found, places in compared if places]))


def matches_to(matches: Sequence[Matches], targets: Sequence[int | None]) -> torch.Tensor:
    """RMSE of every row that has a target to that target, NaN where it does not match it."""
    aimed = zip(matches, targets, strict=True)
    return torch.tensor([found.get(target, math.nan) for found, target in aimed if target is not None])
