"""Selecting and joining data sets, and the scalars that come along."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.crystal.dataset import CrystalDataset, distinct_ids, scalar_properties
from omatg_ray.errors import DataError


def make(*cells: list[int], names: str = "abcdefgh") -> CrystalDataset:
    """A data set of cells given by their atomic numbers; the lattice of cell i is (i + 1) times the unit matrix."""
    n = len(cells)
    species = torch.tensor([z for cell in cells for z in cell])
    crystals = CrystalBatch(
        species,
        torch.arange(3 * len(species)).view(-1, 3) / (3 * len(species)),
        torch.arange(1, n + 1).view(-1, 1, 1) * torch.eye(3),
        torch.tensor([len(cell) for cell in cells]),
    )
    return CrystalDataset(crystals, list(names[:n]), [{"row": i} for i in range(n)])


def test_compositions_elements_and_sizes() -> None:
    dataset = make([22, 8, 8], [8, 22, 8, 8, 22, 8], [11, 17], [6, 6])
    assert dataset.compositions == ["TiO2", "TiO2", "NaCl", "C"]
    assert dataset.elements == {6, 8, 11, 17, 22}
    assert dataset.sizes == {2, 3, 6}
    assert len(dataset) == 4


@pytest.mark.parametrize("indices", [[2, 0], torch.tensor([2, 0]), np.array([2, 0])])
def test_select_keeps_rows_together(indices: list[int]) -> None:
    dataset = make([22, 8, 8], [3], [11, 17])
    part = dataset.select(indices)
    assert part.ids == ["c", "a"]
    assert part.properties == [{"row": 2}, {"row": 0}]
    assert part.crystals.species.tolist() == [11, 17, 22, 8, 8]
    assert part.crystals.cell[:, 0, 0].tolist() == [3, 1]
    assert part.compositions == ["NaCl", "TiO2"]


def test_select_by_mask_and_nothing() -> None:
    dataset = make([22, 8, 8], [3], [11, 17])
    assert dataset.select(torch.tensor([True, False, True])).ids == ["a", "c"]
    empty = dataset.select([])
    assert len(empty) == 0
    assert empty.compositions == []
    assert empty.elements == empty.sizes == frozenset()


def test_cat_joins_and_keeps_ids_apart() -> None:
    joined = CrystalDataset.cat([make([3], [4]), make([11, 17], names="b"), make([5], names="b")])
    assert joined.ids == ["a", "b", "b#2", "b#3"]
    assert joined.crystals.n_atoms.tolist() == [1, 1, 2, 1]
    assert joined.crystals.species.tolist() == [3, 4, 11, 17, 5]
    assert [row["row"] for row in joined.properties] == [0, 1, 0, 0]


def test_distinct_ids_avoid_names_that_exist() -> None:
    names = distinct_ids(["a", "a#2", "a", "a", "b"])
    assert names == ["a", "a#2", "a#3", "a#4", "b"]


def test_unequal_lengths_are_refused() -> None:
    whole = make([3], [4])
    with pytest.raises(DataError, match="2 crystals do not fit 1 ids"):
        CrystalDataset(whole.crystals, ["a"], whole.properties)


def test_scalar_properties_keep_scalars_only() -> None:
    values = {
        "int": np.int32(3),
        "float": torch.tensor(0.5),
        "zero": np.array(0.0),
        "flag": True,
        "text": "  P1 ",
        "nan": float("nan"),
        "inf": np.float64("inf"),
        "none": None,
        "blank": " ",
        "vector": np.ones(3),
        "list": [1],
    }
    found = scalar_properties(values)
    assert found == {"int": 3, "float": 0.5, "zero": 0.0, "flag": 1, "text": "P1"}
    assert [type(value) for value in found.values()] == [int, float, float, int, str]
