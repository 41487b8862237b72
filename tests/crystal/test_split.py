"""Splits by composition."""

from __future__ import annotations

import itertools

import pytest
import torch

from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.crystal.dataset import CrystalDataset
from omatg_ray.crystal.split import Split, split_by_composition
from omatg_ray.errors import DataError

PAIRS = list(itertools.product((3, 11, 19, 37, 55), (9, 17, 35, 53)))  # 20 alkali halides


@pytest.fixture
def dataset() -> CrystalDataset:
    """20 compositions: every one as a cell of two atoms and as a cell of four."""
    cells = [list(pair) * repeat for repeat in (1, 2) for pair in PAIRS]
    species = torch.tensor([z for cell in cells for z in cell])
    crystals = CrystalBatch(
        species,
        torch.rand(len(species), 3),
        torch.eye(3).repeat(len(cells), 1, 1),
        torch.tensor([len(cell) for cell in cells]),
    )
    return CrystalDataset(crystals, [str(i) for i in range(len(cells))], [{} for _ in cells])


def formulas(split: Split) -> list[set[str]]:
    return [set(part.compositions) for part in (split.train, split.val, split.test)]


@pytest.mark.parametrize(("val", "test", "sizes"), [(3, 5, (12, 3, 5)), (0.1, 0.25, (13, 2, 5)), (0, 0.5, (10, 0, 10))])
def test_parts_are_disjoint_complete_and_of_the_size_asked_for(
    dataset: CrystalDataset, val: float, test: float, sizes: tuple[int, int, int]
) -> None:
    split = split_by_composition(dataset, val, test)
    parts = formulas(split)
    assert tuple(len(part) for part in parts) == sizes
    assert len(set.union(*parts)) == 20
    ids = split.train.ids + split.val.ids + split.test.ids
    assert sorted(ids, key=int) == dataset.ids
    assert split.train.ids == sorted(split.train.ids, key=int)


def test_membership_depends_on_seed_and_compositions_alone(dataset: CrystalDataset) -> None:
    split = split_by_composition(dataset, 3, 5, seed=1)
    shuffled = dataset.select(torch.randperm(len(dataset)))
    assert formulas(split_by_composition(shuffled, 3, 5, seed=1)) == formulas(split)
    halved = dataset.select(range(20))  # the same compositions, one cell of each
    assert formulas(split_by_composition(halved, 3, 5, seed=1)) == formulas(split)
    assert formulas(split_by_composition(dataset, 3, 5, seed=2)) != formulas(split)


def test_test_part_does_not_depend_on_the_size_of_the_validation_part(dataset: CrystalDataset) -> None:
    assert split_by_composition(dataset, 3, 5).test.ids == split_by_composition(dataset, 0.4, 5).test.ids


def test_membership_is_stable_across_versions(dataset: CrystalDataset) -> None:
    # from the definition: blake2b of "seed:formula" with 16 bytes, the smallest ones first
    from hashlib import blake2b

    def key(formula: str) -> bytes:
        return blake2b(f"7:{formula}".encode(), digest_size=16).digest()

    ordered = sorted(set(dataset.compositions), key=key)
    assert formulas(split_by_composition(dataset, 2, 3, seed=7)) == [
        set(ordered[5:]),
        set(ordered[3:5]),
        set(ordered[:3]),
    ]


@pytest.mark.parametrize(
    ("val", "test", "reason"),
    [
        (15, 5, r"15 \+ 5 compositions, but there are 20"),
        (21, 0, "there are 20"),
        (0.5, 0.5, "at least one must be left"),
        (0.01, 2, "val=0.01 of 20 compositions is less than one"),
        (1, 0.02, "test=0.02"),
        (-1, 2, "val=-1 must be"),
        (1.5, 2, "val=1.5 must be"),
        (2, float("nan"), "test=nan must be"),
        (True, 2, "val=True must be"),
    ],
)
def test_impossible_sizes_are_refused(dataset: CrystalDataset, val: float, test: float, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        split_by_composition(dataset, val, test)
