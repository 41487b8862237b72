from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.crystal.lattice import cell_from_parameters
from omatg_ray.crystal.validity import check_validity
from omatg_ray.errors import DataError
from omatg_ray.reward.graph import graph_chunks, neighbours

CUTOFF = 5.0
# Node types in an order that is not that of atomic numbers, so that a mix-up shows.
SYMBOLS = ("O", "Ti", "C", "Ba")
NODE_TYPES = torch.full((119,), -1)
NODE_TYPES[torch.tensor([8, 22, 6, 56])] = torch.arange(4)


@pytest.fixture(scope="module")
def crystals() -> CrystalBatch:
    """Random cells, some skewed or left-handed, positions outside the cell, and an atom without neighbours."""
    generator = torch.Generator().manual_seed(1)
    n_atoms = torch.tensor([5, 1, 3, 8, 1, 2])
    lengths = 3.0 + 2.0 * torch.rand(6, 3, generator=generator, dtype=torch.float64)
    angles = 60 + 60 * torch.rand(6, 3, generator=generator, dtype=torch.float64)
    cell = cell_from_parameters(lengths, angles)
    cell[2, 1] += 4 * cell[2, 0]
    cell[2, 2] -= 3 * cell[2, 1]
    cell[3, 0] *= -1
    cell[4] = 12.0 * torch.eye(3)
    species = torch.tensor([8, 22, 6, 56])[torch.randint(4, (20,), generator=generator)]
    pos = 4 * torch.rand(20, 3, generator=generator, dtype=torch.float64) - 2
    return CrystalBatch(species, pos, cell, n_atoms)


def edge_lengths(frac: Tensor, cell: Tensor, edges: Tensor, offset: Tensor) -> Tensor:
    return ((frac[edges[1]] - frac[edges[0]] + offset) @ cell).norm(dim=1)


def test_graphs_hold_the_same_pairs_as_those_of_matgl(crystals: CrystalBatch) -> None:
    """Compared as (node types, distance) of all edges: the cell, and with it the offsets, may be another one."""
    from matgl.ext.pymatgen import Structure2Graph  # not before: it takes seconds

    converter = Structure2Graph(SYMBOLS, CUTOFF)
    graphs = [next(graph_chunks(crystals.select([b]), NODE_TYPES, CUTOFF, 10**9)) for b in range(len(crystals))]
    for structure, (graph, cell) in zip(crystals.to_structures(), graphs, strict=True):
        expected, lattice, _ = converter.get_graph(structure)
        assert graph.edge_index.shape == expected.edge_index.shape
        assert (graph.edge_index[0].diff() >= 0).all()
        listed = []
        for g, matrix in ((graph, cell[0]), (expected, lattice[0])):
            lengths = edge_lengths(g.frac_coords, matrix, g.edge_index.long(), g.pbc_offset).numpy()
            ends = g.node_type[g.edge_index.long()].numpy()
            order = np.lexsort((lengths.round(3), ends[1], ends[0]))
            listed.append((ends[:, order], lengths[order]))
        np.testing.assert_array_equal(listed[0][0], listed[1][0])
        np.testing.assert_allclose(listed[0][1], listed[1][1], atol=2e-5)


def test_energies_equal_those_of_matgls_own_path(shared: Path) -> None:
    """In single precision, so atoms must not be so close that rounding of a position costs more than 1e-5 eV."""
    import matgl
    from pymatgen.core import Element

    generator = torch.Generator().manual_seed(2)
    candidates = 60
    lengths = 4.5 + 2.0 * torch.rand(candidates, 3, generator=generator, dtype=torch.float64)
    angles = 70 + 40 * torch.rand(candidates, 3, generator=generator, dtype=torch.float64)
    species = torch.tensor([8, 8, 22, 6, 56]).repeat(candidates)
    pos = torch.rand(5 * candidates, 3, generator=generator, dtype=torch.float64)
    crystals = CrystalBatch(species, pos, cell_from_parameters(lengths, angles), torch.full((candidates,), 5))
    crystals = crystals.select(check_validity(crystals).min_distance > 1.3)
    assert len(crystals) >= 8
    cell = crystals.cell.clone()
    cell[0, 0] *= -1
    cell[1, 1] += cell[1, 0]
    lone = CrystalBatch(
        torch.tensor([22]), torch.rand(1, 3).double(), 12 * torch.eye(3).double()[None], torch.tensor([1])
    )
    crystals = CrystalBatch.cat([crystals.replace(cell=cell), lone])

    from matgl.ext.pymatgen import Structure2Graph

    module = matgl.load_model(shared / "potentials" / "TensorNet-MatPES-PBE")
    module.calc_forces = module.calc_stresses = False
    module.eval()
    symbols = module.model.element_types
    converter = Structure2Graph(symbols, module.model.cutoff)
    graphs = [converter.get_graph(structure)[:2] for structure in crystals.to_structures()]
    expected = torch.tensor([module(graph, lattice)[0].double().item() for graph, lattice in graphs]).double()

    node_types = torch.full((119,), -1)
    node_types[[Element(symbol).Z for symbol in symbols]] = torch.arange(len(symbols))
    graph, lattices = next(graph_chunks(crystals, node_types, module.model.cutoff, 10**9))
    assert (graph.batch[graph.edge_index[0]] != len(crystals) - 1).all()
    energies = module(graph, lattices)[0].double()
    torch.testing.assert_close(energies / crystals.n_atoms, expected / crystals.n_atoms, atol=1e-5, rtol=0)


def test_chunks_keep_the_order_and_the_limit(crystals: CrystalBatch) -> None:
    whole, cells = next(graph_chunks(crystals, NODE_TYPES, CUTOFF, 10**9))
    per_structure = torch.bincount(whole.batch[whole.edge_index[0]], minlength=len(crystals)).tolist()
    limit = max(per_structure) - 1
    chunks = list(graph_chunks(crystals, NODE_TYPES, CUTOFF, limit))
    assert len(chunks) > 2
    for graph, cell in chunks:
        assert graph.num_graphs == len(cell)
        assert graph.edge_index.shape[1] <= limit or graph.num_graphs == 1
    torch.testing.assert_close(torch.cat([cell for _, cell in chunks]), cells)
    for name in ("node_type", "frac_coords", "pbc_offset"):
        torch.testing.assert_close(torch.cat([getattr(graph, name) for graph, _ in chunks]), getattr(whole, name))
    starts = np.cumsum([0] + [graph.num_nodes for graph, _ in chunks])
    shifted = [graph.edge_index + start for (graph, _), start in zip(chunks, starts, strict=False)]
    torch.testing.assert_close(torch.cat(shifted, dim=1), whole.edge_index)


def test_an_empty_batch_has_no_graphs(crystals: CrystalBatch) -> None:
    assert list(graph_chunks(crystals.select([]), NODE_TYPES, CUTOFF, 100)) == []


@pytest.mark.parametrize("spoil", [0.0, torch.nan, torch.inf])
def test_cells_without_volume_are_refused_by_number(crystals: CrystalBatch, spoil: float) -> None:
    cell = crystals.cell.clone()
    cell[3, 2] = spoil
    with pytest.raises(DataError, match="structure 3"):
        list(graph_chunks(crystals.replace(cell=cell), NODE_TYPES, CUTOFF, 100))


def test_a_structure_with_too_many_neighbours_is_refused_before_they_are_listed() -> None:
    """64 atoms in 1 Å³ have 64² · 4π/3 · 5³ = 2.1 million pairs within 5 Å; stretched to 20 Å³, a twentieth of them."""
    grid = torch.cartesian_prod(torch.zeros(1), torch.arange(8) / 8, torch.arange(8) / 8).double()
    cell = torch.diag(torch.tensor([0.01, 10.0, 10.0])).double()
    flat = CrystalBatch(torch.full((64,), 6), grid, cell[None], torch.tensor([64]))
    with pytest.raises(MemoryError, match="collapsed to 0.016 Å³ per atom: 33,510 neighbours of each of 64 atoms"):
        list(graph_chunks(flat, NODE_TYPES, 5.0, 10**9))
    (graph, _), *none = graph_chunks(flat.replace(cell=flat.cell * torch.tensor([20.0, 1, 1])), NODE_TYPES, 5.0, 10**9)
    assert graph.edge_index.shape[1] == pytest.approx(107_000, rel=0.05) and not none


def test_coordination_of_simple_cubic() -> None:
    """6 neighbours at a, 12 at √2 a, 8 at √3 a."""
    cell = 2.0 * np.eye(3)
    for cutoff, count in ((1.9, 0), (2.1, 6), (2.9, 18), (3.5, 26)):
        pairs, offset = neighbours(np.full((1, 3), 0.3), cell, cutoff)
        assert pairs.shape == (2, count)
        assert len(np.unique(offset, axis=0)) == count
