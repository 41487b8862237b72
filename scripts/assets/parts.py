"""The one split: which part a composition belongs to, whatever crystals it has and wherever they come from."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b

from omatg_ray.crystal.dataset import CrystalDataset
from omatg_ray.train.splits import SPLITS

TEST_SHARE, VAL_SHARE = 0.08, 0.04


class Parts:
    """Parts of reduced formulas.

    Formulas of the bundled crystals keep the part that they were given. Any other formula has one by a hash of it, so
    that crystals which come later cannot move those that are there.

    Args:
        bundled: The bundled crystals of each part.

    Raises:
        ValueError: A formula is in two parts.
    """

    def __init__(self, bundled: dict[str, CrystalDataset]) -> None:
        self.known: dict[str, str] = {}
        for part, dataset in bundled.items():
            for formula in dataset.compositions:
                if self.known.setdefault(formula, part) != part:
                    raise ValueError(f"{formula} is in {self.known[formula]} and in {part}")

    def of(self, formula: str) -> str:
        """Return the part of a reduced formula, as pymatgen writes it."""
        if formula in self.known:
            return self.known[formula]
        place = int.from_bytes(blake2b(formula.encode(), digest_size=8).digest()) / 2**64
        return "test" if place < TEST_SHARE else "val" if place < TEST_SHARE + VAL_SHARE else "train"

    def split(self, dataset: CrystalDataset) -> dict[str, CrystalDataset]:
        """Split crystals, in their order."""
        parts = [self.of(formula) for formula in dataset.compositions]
        return {name: dataset.select([i for i, part in enumerate(parts) if part == name]) for name in SPLITS}


def without_repeated_ids(datasets: Iterable[CrystalDataset]) -> list[CrystalDataset]:
    """Drop from every data set the crystals whose material id an earlier one has."""
    seen: set[str] = set()
    kept = []
    for dataset in datasets:
        kept.append(dataset.select([i for i, name in enumerate(dataset.ids) if name not in seen]))
        seen |= set(dataset.ids)
    return kept
