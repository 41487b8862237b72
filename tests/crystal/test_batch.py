"""The packed batch: layout, selections and other libraries' structures."""

from __future__ import annotations

import pickle

import pytest
import torch
from pymatgen.core import Lattice, Structure

from omatg_ray.crystal.batch import CrystalBatch, Layout
from omatg_ray.errors import DataError
from tests.small import random_crystals

SIZES = [2, 1, 4, 3]


def same(left: CrystalBatch, right: CrystalBatch) -> bool:
    return all(torch.equal(getattr(left, name), getattr(right, name)) for name in ("species", "pos", "cell", "n_atoms"))


def parts_of(batch: CrystalBatch) -> list[tuple]:
    """Every structure on its own, cut out with plain Python."""
    out, start = [], 0
    for b, n in enumerate(batch.n_atoms.tolist()):
        out.append((batch.species[start : start + n].tolist(), batch.pos[start : start + n], batch.cell[b]))
        start += n
    return out


def test_layout():
    layout = Layout(torch.tensor(SIZES))
    assert layout.ptr.tolist() == [0, 2, 3, 7, 10]
    assert layout.batch.tolist() == [0, 0, 1, 2, 2, 2, 2, 3, 3, 3]


def test_pairs_are_all_unordered_pairs_once():
    layout = Layout(torch.tensor(SIZES))
    first, second, structure = layout.pairs
    found = list(zip(first.tolist(), second.tolist(), structure.tolist(), strict=True))
    expected = {
        (i, j, b)
        for b, start in enumerate([0, 2, 3, 7])
        for i in range(start, start + SIZES[b])
        for j in range(i + 1, start + SIZES[b])
    }
    assert len(found) == len(expected) and set(found) == expected


def test_pairs_of_lone_atoms_are_empty():
    first, second, structure = Layout(torch.tensor([1, 1])).pairs
    assert len(first) == len(second) == len(structure) == 0


def test_sum_and_mean_over_atoms():
    layout = Layout(torch.tensor([2, 1]))
    values = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 7.0]])
    assert layout.sum(values).tolist() == [[4, 6], [5, 7]]
    assert layout.mean(values).tolist() == [[2, 3], [5, 7]]


@pytest.mark.parametrize("indices", [[2, 0], [3, 3, 1], [-1], [], torch.tensor([True, False, True, False])])
def test_select(indices):
    batch = random_crystals(SIZES)
    chosen = batch.select(indices)
    wanted = indices.nonzero().flatten().tolist() if isinstance(indices, torch.Tensor) else indices
    parts = parts_of(batch)
    assert len(chosen) == len(wanted)
    for (species, pos, cell), index in zip(parts_of(chosen), wanted, strict=True):
        assert species == parts[index][0]
        assert torch.equal(pos, parts[index][1]) and torch.equal(cell, parts[index][2])


def test_cat_inverts_select():
    batch = random_crystals(SIZES)
    assert same(CrystalBatch.cat([batch.select([b]) for b in range(len(batch))]), batch)


def test_tile_repeats_the_whole_batch():
    batch = random_crystals(SIZES)
    assert same(batch.tile(3), CrystalBatch.cat([batch, batch, batch]))


def test_replace_keeps_what_is_not_given():
    batch = random_crystals(SIZES)
    moved = batch.replace(pos=batch.pos + 0.25)
    assert torch.equal(moved.pos, batch.pos + 0.25)
    assert torch.equal(moved.cell, batch.cell) and torch.equal(moved.species, batch.species)
    assert moved.layout is batch.layout


def test_to_converts_floats_alone():
    batch = random_crystals(SIZES)
    assert batch.to(dtype=torch.float64) is batch
    single = batch.to(dtype=torch.float32)
    assert single.pos.dtype == single.cell.dtype == torch.float32
    assert single.species.dtype == single.n_atoms.dtype == torch.int64
    assert torch.equal(single.pos, batch.pos.float())


@pytest.mark.parametrize(
    "change, message",
    [
        ({"cell": torch.eye(3)[None]}, "cell has shape"),
        ({"pos": torch.zeros(2, 3)}, "pos has shape"),
        ({"n_atoms": torch.tensor([3, 0])}, "n_atoms"),
        ({"n_atoms": torch.tensor([1, 1])}, "n_atoms"),
        ({"n_atoms": torch.tensor([[1, 2]])}, "one dimension"),
        ({"species": torch.tensor([1, 0, 8])}, "atomic numbers"),
        ({"species": torch.tensor([1, 119, 8])}, "atomic numbers"),
        ({"n_atoms": torch.zeros(0), "cell": torch.zeros(0, 3, 3)}, "n_atoms"),
    ],
)
def test_refuses_what_does_not_fit(change, message):
    arguments = {
        "species": torch.tensor([1, 1, 8]),
        "pos": torch.zeros(3, 3),
        "cell": torch.eye(3).repeat(2, 1, 1),
        "n_atoms": torch.tensor([1, 2]),
    }
    CrystalBatch(**arguments)
    with pytest.raises(DataError, match=message):
        CrystalBatch(**(arguments | change))


def test_structures_there_and_back():
    structures = [
        Structure(Lattice.from_parameters(3.9, 4.0, 4.1, 80, 90, 100), ["Ba", "O"], [[0.1, 0.2, 0.3], [0.5, 0.6, 0.7]]),
        Structure(Lattice.cubic(3.0), ["Po"], [[1.25, -0.5, 0.0]]),
    ]
    batch = CrystalBatch.from_structures(structures, dtype=torch.float64)
    assert batch.species.tolist() == [56, 8, 84]
    assert batch.n_atoms.tolist() == [2, 1]
    torch.testing.assert_close(batch.pos[2], torch.tensor([0.25, 0.5, 0.0], dtype=torch.float64))
    torch.testing.assert_close(batch.cell[0], torch.as_tensor(structures[0].lattice.matrix.copy()))
    for original, back in zip(structures, batch.to_structures(), strict=True):
        assert back.composition == original.composition
        torch.testing.assert_close(torch.as_tensor(back.distance_matrix), torch.as_tensor(original.distance_matrix))


def test_no_structures_make_an_empty_batch():
    batch = CrystalBatch.from_structures([])
    assert len(batch) == 0 and batch.to_structures() == []


@pytest.mark.parametrize(
    "structure",
    [Structure(Lattice.cubic(3.0), [{"Na": 0.5, "K": 0.5}], [[0, 0, 0]]), Structure(Lattice.cubic(3.0), [], [])],
)
def test_disordered_or_empty_structures_are_refused_by_index(structure):
    good = Structure(Lattice.cubic(3.0), ["Na"], [[0, 0, 0]])
    with pytest.raises(DataError, match="structure 1 "):
        CrystalBatch.from_structures([good, structure])


def test_pyg_there_and_back():
    batch = random_crystals(SIZES)
    packed = batch.to_pyg()
    assert torch.equal(packed.batch, batch.batch) and torch.equal(packed.ptr, batch.ptr)
    assert same(CrystalBatch.from_pyg(packed), batch)
    assert same(CrystalBatch.from_pyg(packed[2]), batch.select([2]))


def test_formulas():
    batch = CrystalBatch(
        torch.tensor([8, 8, 8, 22, 56, 22, 8, 22, 8, 8, 8, 3]),
        torch.zeros(12, 3),
        torch.eye(3).repeat(3, 1, 1),
        torch.tensor([5, 6, 1]),
    )
    assert batch.formulas() == ["BaTiO3", "Ti2O4", "Li"]


def test_a_pickled_batch_carries_no_more_than_itself() -> None:
    """What was computed from the numbers of atoms, such as all pairs, is larger and can be computed again."""
    batch = random_crystals([20] * 8)
    alone = len(pickle.dumps(batch))
    pairs = batch.layout.pairs
    assert len(pickle.dumps(batch)) == alone
    again = pickle.loads(pickle.dumps(batch))
    assert same(again, batch)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(again.layout.pairs, pairs, strict=True))
