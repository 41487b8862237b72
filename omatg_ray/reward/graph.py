"""Neighbour graphs for MatGL, built directly from the packed arrays of a batch."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from pymatgen.optimization.neighbors import find_points_in_spheres
from torch import Tensor

from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.crystal.lattice import wrap
from omatg_ray.crystal.validity import minkowski_reduce
from omatg_ray.errors import DataError

if TYPE_CHECKING:
    from torch_geometric.data import Batch

# Distances below this are between a site and itself; the number is MatGL's.
SAME_SITE = 1e-8
MOST_EDGES, MOST_NEIGHBOURS = 300_000, 1_000
"""Directed edges of a structure, for which a network with gradients needs some 6 GB, and neighbours of an atom. Only a
cell that has collapsed exceeds both: in diamond, the densest solid, an atom has 160 neighbours within 6 Å."""


def graph_chunks(
    crystals: CrystalBatch, node_types: Tensor, cutoff: float, max_edges: int
) -> Iterator[tuple[Batch, Tensor]]:
    """Yield graphs of consecutive structures, as many at a time as have at most `max_edges` directed edges in total.

    A structure with more edges comes alone. The graphs are those of the Minkowski-reduced cells: the same crystals, but
    a skewed cell needs no more images than a straight one.

    Args:
        crystals: B structures whose cells span a volume, on any device.
        node_types: Node type of every atomic number, at that index.
        cutoff: Radius of the neighbourhood in Å.
        max_edges: Upper limit of a chunk.

    Yields:
        Inputs of `matgl.apps.pes.Potential.forward`, on the CPU in float32: a torch-geometric `Batch` with
        `frac_coords` (N, 3), `node_type` (N,), `edge_index` (2, E), `pbc_offset` (E, 3), and the lattices (b, 3, 3).

    Raises:
        DataError: A structure is not finite or its cell spans no volume.
        MemoryError: A structure has more than `MOST_EDGES`, and its atoms more than `MOST_NEIGHBOURS`.
    """
    from torch_geometric.data import Batch

    crystals = crystals.to("cpu", torch.float64)
    # A finite cell without volume leads to divisions by zero and counts as not reduced.
    cell, reduced = minkowski_reduce(crystals.cell)
    frac = wrap((crystals.pos[:, None] @ (crystals.cell @ torch.linalg.inv_ex(cell)[0])[crystals.batch])[:, 0])
    usable = reduced & (crystals.layout.sum((~frac.isfinite()).sum(1)) == 0)
    if not usable.all():
        index = int((~usable).nonzero()[0, 0])
        raise DataError(f"structure {index} is not finite or its cell spans no volume: {crystals.cell[index].tolist()}")

    node_type = node_types[crystals.species]
    ptr = crystals.ptr.tolist()
    start, total = 0, 0
    edges: list[tuple[NDArray[np.int64], NDArray[np.float64]]] = []

    def collate(stop: int) -> tuple[Batch, Tensor]:
        atoms = slice(ptr[start], ptr[stop])
        n_atoms = crystals.n_atoms[start:stop]
        index = np.concatenate([pairs + (ptr[start + i] - ptr[start]) for i, (pairs, _) in enumerate(edges)], axis=1)
        graph = Batch(
            frac_coords=frac[atoms].float(),
            node_type=node_type[atoms],
            edge_index=torch.from_numpy(index),
            pbc_offset=torch.from_numpy(np.concatenate([offset for _, offset in edges])).float(),
            batch=torch.arange(stop - start).repeat_interleave(n_atoms),
            ptr=crystals.ptr[start : stop + 1] - ptr[start],
            num_nodes=ptr[stop] - ptr[start],
        )
        return graph, cell[start:stop].float()

    # Every atom sees as many others as a sphere of the crystal's density holds, in the mean.
    density = crystals.n_atoms.double() / torch.linalg.det(cell).abs()
    around = density * (4 / 3 * math.pi * cutoff**3)
    collapsed = (around > MOST_NEIGHBOURS) & (crystals.n_atoms * around > MOST_EDGES)
    for b in range(len(crystals)):
        if collapsed[b]:
            raise MemoryError(
                f"the cell has collapsed to {float(1 / density[b]):.2g} Å³ per atom: {float(around[b]):,.0f} "
                f"neighbours of each of {int(crystals.n_atoms[b])} atoms within {cutoff:g} Å would not fit into memory"
            )
        pairs_and_offsets = neighbours(frac[ptr[b] : ptr[b + 1]].numpy(), cell[b].numpy(), cutoff)
        n_edges = pairs_and_offsets[0].shape[1]
        if edges and total + n_edges > max_edges:
            yield collate(b)
            start, total, edges = b, 0, []
        edges.append(pairs_and_offsets)
        total += n_edges
    if edges:
        yield collate(len(crystals))


def neighbours(
    frac: NDArray[np.float64], cell: NDArray[np.float64], cutoff: float
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return all pairs of atoms of one structure within the cutoff, with periodic images, in both directions.

    Args:
        frac: Fractional positions (N, 3).
        cell: Lattice (3, 3) in Å, rows are the vectors.
        cutoff: Radius in Å.

    Returns:
        Source and destination (2, E), ordered by source, and the lattice translation (E, 3) of the destination.
    """
    cartesian = np.ascontiguousarray(frac @ cell)
    source, destination, offset, distance = find_points_in_spheres(
        cartesian,
        cartesian,
        r=cutoff,
        pbc=np.ones(3, dtype=np.int64),
        lattice=np.ascontiguousarray(cell),
        tol=SAME_SITE,
    )
    keep = (source != destination) | (distance > SAME_SITE)
    return np.stack([source[keep], destination[keep]]), offset[keep]
