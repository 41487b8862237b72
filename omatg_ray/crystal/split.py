"""Three-way splits that keep every composition in a single part."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b

from omatg_ray.crystal.dataset import CrystalDataset
from omatg_ray.errors import DataError


@dataclass(frozen=True, eq=False)
class Split:
    """Parts of one data set whose compositions are disjoint; the rows of a part keep the order of the data set."""

    train: CrystalDataset
    val: CrystalDataset
    test: CrystalDataset


def split_by_composition(dataset: CrystalDataset, val: int | float, test: int | float, seed: int = 0) -> Split:
    """Split a data set by reduced formula: all crystals of one composition go to the same part.

    The compositions are ordered by a hash of (seed, formula). The first form the test part, the next the validation
    part, the rest the training part. Membership therefore depends only on the seed and the set of compositions, not on
    the order of rows, and the test part does not depend on the size of the validation part.

    Args:
        dataset: The data set.
        val: Size of the validation part: an integer is a number of compositions, a float a share of them (rounded).
        test: Size of the test part, likewise.
        seed: Another seed gives another split.

    Raises:
        DataError: A size is negative or a share of 1 or more, more compositions are requested than there are, or a
            part would be empty although its size is not 0.
    """
    formulas = sorted(set(dataset.compositions), key=lambda formula: _key(seed, formula))
    n_val, n_test = _count("val", val, len(formulas)), _count("test", test, len(formulas))
    if n_val + n_test >= len(formulas):
        raise DataError(
            f"val={val} and test={test} ask for {n_val} + {n_test} compositions, but there are {len(formulas)} "
            "and at least one must be left to train on: set data.val_compositions and data.test_compositions to less"
        )
    part = {formula: 2 if i < n_test else 1 if i < n_test + n_val else 0 for i, formula in enumerate(formulas)}
    rows: tuple[list[int], list[int], list[int]] = ([], [], [])
    for row, formula in enumerate(dataset.compositions):
        rows[part[formula]].append(row)
    return Split(*(dataset.select(indices) for indices in rows))


def _key(seed: int, formula: str) -> tuple[bytes, str]:
    return blake2b(f"{seed}:{formula}".encode(), digest_size=16).digest(), formula


def _count(name: str, size: int | float, available: int) -> int:
    """Return the number of compositions that a size requests."""
    if isinstance(size, bool) or not (size >= 0 and (isinstance(size, int) or size < 1)):
        raise DataError(f"{name}={size} must be a number of compositions (0, 1, 2, ...) or a share below 1.0")
    count = size if isinstance(size, int) else round(size * available)
    if size > 0 and count == 0:
        raise DataError(f"{name}={size} of {available} compositions is less than one: the part would be empty")
    return count
