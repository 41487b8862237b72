"""Crystals with their ids and properties: a data file in memory."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.errors import DataError

Scalar = float | int | str


@dataclass(frozen=True, eq=False)
class CrystalDataset:
    """Crystals of one file, split or selection, in a fixed order.

    Args:
        crystals: The crystals: float32, on the CPU and, unless read with `reduce=False`, Niggli-reduced and in standard
            orientation (a along x, b in the xy plane, right-handed).
        ids: A name for every crystal; distinct in results of `read_dataset` and `cat`.
        properties: The scalar columns that came along with every crystal; missing values have no key.

    Raises:
        DataError: The three do not have the same length.
    """

    crystals: CrystalBatch
    ids: list[str]
    properties: list[dict[str, Scalar]]

    def __post_init__(self) -> None:
        if not len(self.crystals) == len(self.ids) == len(self.properties):
            raise DataError(
                f"{len(self.crystals)} crystals do not fit {len(self.ids)} ids and {len(self.properties)} properties"
            )

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        return f"CrystalDataset({len(self)} crystals, {len(self.crystals.species)} atoms)"

    @cached_property
    def compositions(self) -> list[str]:
        """Reduced formula of every crystal, as pymatgen writes it: Ti2O4 is 'TiO2'."""
        from pymatgen.core import Composition, Element

        species, ptr = self.crystals.species.tolist(), self.crystals.ptr.tolist()
        known: dict[tuple[tuple[int, int], ...], str] = {}
        out = []
        for b in range(len(self)):
            counts = tuple(sorted(Counter(species[ptr[b] : ptr[b + 1]]).items()))
            if counts not in known:
                known[counts] = Composition({Element.from_Z(z): n for z, n in counts}).reduced_formula
            out.append(known[counts])
        return out

    @cached_property
    def elements(self) -> frozenset[int]:
        """Atomic numbers that occur."""
        return frozenset(self.crystals.species.tolist())

    @property
    def symbols(self) -> list[str]:
        """Symbols of the elements that occur, by atomic number."""
        from pymatgen.core import Element

        return [Element.from_Z(z).symbol for z in sorted(self.elements)]

    @cached_property
    def sizes(self) -> frozenset[int]:
        """Numbers of atoms per cell that occur."""
        return frozenset(self.crystals.n_atoms.tolist())

    def select(self, indices: Sequence[int] | Tensor) -> CrystalDataset:
        """Select crystals by index (or where a boolean mask is true), in the order given, with their ids."""
        index = torch.as_tensor(indices)
        chosen = (index.nonzero().squeeze(1) if index.dtype == torch.bool else index.long()).tolist()
        return CrystalDataset(
            self.crystals.select(chosen), [self.ids[i] for i in chosen], [self.properties[i] for i in chosen]
        )

    @classmethod
    def cat(cls, datasets: Iterable[CrystalDataset]) -> CrystalDataset:
        """Concatenate data sets, in order; ids that occur again get a suffix (`distinct_ids`)."""
        parts = list(datasets)
        return cls(
            CrystalBatch.cat(part.crystals for part in parts),
            distinct_ids(name for part in parts for name in part.ids),
            [properties for part in parts for properties in part.properties],
        )


def distinct_ids(names: Iterable[str]) -> list[str]:
    """Return the names, where one that occurred before becomes 'name#2', 'name#3', ..."""
    used: set[str] = set()
    next_suffix: Counter[str] = Counter()
    out = []
    for name in names:
        candidate = name
        while candidate in used:
            next_suffix[name] += 1
            candidate = f"{name}#{next_suffix[name] + 1}"
        used.add(candidate)
        out.append(candidate)
    return out


def scalar_properties(values: Mapping[str, Any]) -> dict[str, Scalar]:
    """Return the scalars of a mapping: numbers as Python numbers, truth values as 0 or 1, texts stripped of whitespace.

    Missing values (None, empty text, NaN and infinities) and everything that is not a scalar are left out.
    """
    out: dict[str, Scalar] = {}
    for key, value in values.items():
        if isinstance(value, np.generic | np.ndarray | Tensor) and np.ndim(value) == 0:
            value = value.item()
        if isinstance(value, str) and value.strip():
            out[key] = value.strip()
        elif isinstance(value, int):
            out[key] = int(value)
        elif isinstance(value, float) and math.isfinite(value):
            out[key] = value
    return out
