"""Symmetry operations, from the texts of a file or the name of a space group, and the atoms that they generate.

Source of names, settings and Hall symbols: gemmi's tables, which are those of International Tables A and of sginfo.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import gemmi
import numpy as np
from numpy.typing import NDArray

from omatg_ray.errors import DataError

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

SAME_ATOM = 0.3
"""Images of a site closer than this in Å are one atom on a special position, whose coordinates were rounded."""
SAME_IMAGE = 0.03
"""Images of a site exactly on its special position are one atom if they are closer than this in Å."""
METRIC_TOLERANCE = 0.01
"""Largest change of products of two lattice vectors, relative to their lengths, by operations that fit a cell."""

DENOMINATOR = gemmi.Op.DEN
MAX_GROUP = 192
ORIGINS = {"S": "1", "Z": "2"}
"""How ICSD marks the origin choice at the end of a symbol."""


@dataclass(frozen=True, eq=False)
class Operations:
    """A group of n symmetry operations x' = W x + w on fractional positions, modulo lattice translations.

    Attributes:
        rotations: W (n, 3, 3).
        translations: w (n, 3), in units of lattice vectors.
        name: Name of the setting, if it was requested by name.
    """

    rotations: FloatArray
    translations: FloatArray
    name: str = ""

    def __len__(self) -> int:
        return len(self.rotations)

    @property
    def centrings(self) -> int:
        """Lattice points in the cell: 1 if it is primitive, 4 if it is centred on all faces."""
        return int((self.rotations == np.eye(3)).all((1, 2)).sum())

    @property
    def rotation_set(self) -> frozenset[tuple[float, ...]]:
        """The operations without their translations."""
        return frozenset(tuple(rotation.ravel().tolist()) for rotation in self.rotations)

    def fit(self, cell: FloatArray) -> bool:
        """Return whether the operations keep all lengths and angles of a lattice (3, 3), within `METRIC_TOLERANCE`."""
        metric = cell @ cell.T
        change = np.swapaxes(self.rotations, 1, 2) @ metric @ self.rotations - metric
        lengths = np.sqrt(np.diag(metric))
        return bool((np.abs(change) <= METRIC_TOLERANCE * np.outer(lengths, lengths)).all())

    def orbit(self, site: FloatArray, cell: FloatArray) -> FloatArray:
        """Return the atoms (m, 3) that the operations make of a site (3,).

        A site within `SAME_ATOM` of its own images lies on a special position, and is first moved there: to the mean of
        these images. The number of atoms is then the number of operations divided by the number of those that fix the
        site.

        Raises:
            DataError: The images are neither apart nor together.
        """
        for _ in range(3):
            images = self.rotations @ site + self.translations
            keeps = distances(images, site, cell) < SAME_ATOM
            site = site + _difference(images[keeps] - site).mean(0)
        images = self.rotations @ site + self.translations
        apart = distances(images[:, None], images, cell) >= SAME_IMAGE
        first = [i for i in range(len(images)) if apart[i, :i].all()]
        if len(first) * int(keeps.sum()) != len(self):
            raise DataError("symmetry brings its images so close to each other that they are neither one atom nor two")
        return images[first]


IDENTITY = Operations(np.eye(3)[None], np.zeros((1, 3)))


@lru_cache(maxsize=512)
def parse_operations(texts: tuple[str, ...]) -> Operations:
    """Return the group whose operations are written as 'x, -y, z+1/2'.

    Raises:
        DataError: A text is not an operation, or the product of two operations is not listed.
    """
    if any(text.count(",") < 2 for text in texts):  # 'x, y, z' without quotes comes as three texts
        parts = ",".join(text.strip().strip(",") for text in texts).split(",")
        texts = tuple(",".join(parts[i : i + 3]) for i in range(0, len(parts), 3))
    operations: list[gemmi.Op] = []
    for text in texts:
        try:
            operations.append(gemmi.Op(re.sub(r"\s", "", text)))
        except (RuntimeError, ValueError) as error:
            raise DataError(f"its symmetry operation {text!r} cannot be read: {error}") from error
    return _group(operations)


def named_groups(symbols: Sequence[str], hall: str | None, number: int | None, cell: FloatArray) -> list[Operations]:
    """Return the settings of a space group that a file may mean and that fit its lattice (3, 3).

    Args:
        symbols: Hermann-Mauguin symbols as files spell them: 'F d -3 m', 'Fd3m:2', 'P 4/n m m Z', 'F 4/m -3 2/m'.
        hall: Hall symbol, which leaves no choice.
        number: Number in International Tables, from 1.
        cell: Lattice.

    Returns:
        The settings: none if nothing is named, more than one if axes or origin are left open.

    Raises:
        DataError: The group is unknown, or no setting fits the lattice.
    """
    named = ", ".join(filter(None, [*dict.fromkeys(symbols), hall, None if number is None else f"number {number}"]))
    settings = [] if hall is None else _of_hall(hall)
    settings = settings or settings_of(symbols, number)
    if not settings and named:
        raise DataError(f"its space group ({named}) is unknown, and it lists no operations of it")
    fitting = [setting for setting in settings if setting.fit(cell)]
    if settings and not fitting:
        raise DataError(f"its cell does not have the symmetry of its space group ({named}), and it lists no operations")
    return fitting


def settings_of(symbols: Sequence[str], number: int | None) -> list[Operations]:
    """Return the settings that the first known Hermann-Mauguin symbol may mean, else all with this group number."""
    settings = next(filter(None, map(_settings, symbols)), []) or [s for s in _table() if s.number == number]
    return [_operations_of(setting.hall, setting.xhm()) for setting in settings]


def symbol_number(symbol: str) -> int | None:
    """Return the International Tables number of a Hermann-Mauguin symbol, or None if it is unknown."""
    settings = _settings(symbol)
    return settings[0].number if settings else None


def hall_number(symbol: str) -> int | None:
    """Return the International Tables number of a Hall symbol, or None if its setting is not tabulated."""
    try:
        group = gemmi.find_spacegroup_by_ops(gemmi.symops_from_hall(symbol))
    except (RuntimeError, ValueError):
        return None
    return None if group is None else group.number


def _of_hall(symbol: str) -> list[Operations]:
    try:
        return [_operations_of(symbol, symbol)]
    except (RuntimeError, ValueError):
        return []


@lru_cache(maxsize=512)
def _operations_of(hall: str, name: str) -> Operations:
    return _group(gemmi.symops_from_hall(hall), name)


@lru_cache(maxsize=512)
def _settings(symbol: str) -> list[gemmi.SpaceGroup]:
    """Return the settings that a Hermann-Mauguin symbol may mean: both origins and both axes if it names neither."""
    name = re.sub(r"\s+", " ", symbol.replace("_", "").replace("*", "")).strip()
    name = re.sub(r"(\d)\((\d)\)", r"\1\2", name)  # SHELX: 'P2(1)/c'
    name = re.sub(r"\s*[:(]\s*(\w+)\s*\)?$", r":\1", name)
    if mark := re.fullmatch(r"(.+\S)\s([SZ])", name):
        name = f"{mark[1]}:{ORIGINS[mark[2]]}"
    if mark := re.fullmatch(r"(R.*?)\s?:?([HRhr])", name):
        name = f"{mark[1]}:{mark[2].upper()}"
    plain, _, extension = name.partition(":")
    named = (gemmi.find_spacegroup_by_name(spelled) for spelled in (name, plain))
    match = next((group for group in named if group is not None), None) or _by_full_symbol(plain)
    if match is None:
        return []
    settings = [setting for setting in _table() if setting.number == match.number and setting.hm == match.hm]
    chosen = [setting for setting in settings if setting.ext == extension[-1:].upper()] if extension else []
    return chosen or settings


def _by_full_symbol(symbol: str) -> gemmi.SpaceGroup | None:
    """Return the standard setting of a group from its full symbol, such as 'F 4/m -3 2/m'."""
    from pymatgen.symmetry.groups import SpaceGroup

    try:
        return gemmi.find_spacegroup_by_number(SpaceGroup(symbol).int_number)
    except (ValueError, KeyError):
        return None


@lru_cache(maxsize=1)
def _table() -> list[gemmi.SpaceGroup]:
    return list(gemmi.spacegroup_table())


def _group(operations: Iterable[gemmi.Op], name: str = "") -> Operations:
    """Return distinct operations as arrays, after checking that they form a group.

    Raises:
        DataError: They do not form a group.
    """
    rotations = np.array([operation.rot for operation in operations], dtype=np.int64)
    translations = np.array([operation.tran for operation in operations], dtype=np.int64) % DENOMINATOR
    if (rotations % DENOMINATOR).any():
        raise DataError("its symmetry operations do not map lattice vectors to lattice vectors")
    rotations //= DENOMINATOR
    _, first = np.unique(_codes(rotations, translations), return_index=True)
    rotations, translations = rotations[np.sort(first)], translations[np.sort(first)]
    if len(rotations) > MAX_GROUP * 4:
        raise DataError(f"it lists {len(rotations)} symmetry operations, more than any space group has")
    products = np.einsum("aij,bjk->abik", rotations, rotations)
    shifts = (np.einsum("aij,bj->abi", rotations, translations) + translations[:, None]) % DENOMINATOR
    if not np.isin(_codes(products, shifts), _codes(rotations, translations)).all():
        raise DataError(
            f"its {len(rotations)} symmetry operations are not a group (the product of two is not listed): "
            "an operation is missing or wrong"
        )
    return Operations(rotations.astype(np.float64), translations / DENOMINATOR, name)


def _codes(rotations: IntArray, translations: IntArray) -> IntArray:
    """Encode each operation as a number: (..., 3, 3) and (..., 3) to (...)."""
    digits = (rotations.reshape(*rotations.shape[:-2], 9) + 8) @ (17 ** np.arange(9, dtype=np.int64))
    return digits * DENOMINATOR**3 + translations @ (DENOMINATOR ** np.arange(3, dtype=np.int64))


def distances(first: FloatArray, second: FloatArray, cell: FloatArray) -> FloatArray:
    """Return distances (...) in Å of positions (..., 3) modulo lattice translations; correct if they are short."""
    lengths: FloatArray = np.linalg.norm(_difference(first - second) @ cell, axis=-1)
    return lengths


def _difference(frac: FloatArray) -> FloatArray:
    return frac - np.rint(frac)
