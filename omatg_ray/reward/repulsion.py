"""Short-range repulsion between pairs of atoms, which closes the holes that learned potentials have there.

A potential that learned from realistic structures does not know that atoms repel when they overlap: as two atoms
approach, the energy of nearly every pair stops rising and falls again, for some by more than 100 eV. A policy exploits
that. So each pair of atoms at a distance r gets the additional energy

    V(r) = S · ZBL(r) · f(r / r_on)      with r_on = 0.65 (R_i + R_j) and S = 4

from the universal screened Coulomb repulsion of Ziegler, Biersack and Littmark ("The Stopping and Range of Ions in
Solids", 1985), the covalent radii R of Cordero et al. (Dalton Trans. 2008, 2832) and an envelope f that falls from 1 to
0 with vanishing first and second derivative at the onset. Beyond r_on there is no repulsion: none of the 3,787
perovskites of Perov-5 has a pair that close (nearest: Cs-N in a hypothetical nitride, 0.667).

The strength comes from a measurement, not from physics: the repulsion must outweigh the network's fall, not only
replace it. Of 1,325 pairs of 51 elements, this many still fall somewhere between 0.6 (R_i + R_j) and 0.5 Å:

    S                                   0 (bare)    1     2     3     4
    TensorNet MatPES PBE                 1,317     20     3     1     0
    TensorNet MatPES r2SCAN              1,316     42     7     1     0

Closer to the onset, where V is almost zero, 46 and 28 fall by up to 0.4 eV. No pair energy of such short range fixes
crystals that are compressed as a whole: a network may be far too lenient on them while no two atoms overlap.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from torch_geometric.data import Batch

ONSET = 0.65
STRENGTH = 4.0

COULOMB = 14.399645
"""e² / (4π ε0) in eV Å."""
BOHR = 0.529177
"""In Å."""
# The universal screening function: coefficients (which sum to 1) and decay rates.
ZBL_TERMS = ((0.18175, 3.19980), (0.50986, 0.94229), (0.28022, 0.40290), (0.02817, 0.20162))


def screened_coulomb(first: Tensor, second: Tensor, distance: Tensor) -> Tensor:
    """Return the repulsion of two atoms after Ziegler, Biersack and Littmark: Z_i Z_j e² / (4π ε0 r) · φ(r / a).

    Args:
        first: Atomic numbers (P,).
        second: Atomic numbers of their partners (P,).
        distance: In Å (P,), positive.

    Returns:
        Energies in eV (P,), float64, on the device of `distance`.
    """
    first, second, distance = first.double(), second.double(), distance.double()
    reduced = distance * (first**0.23 + second**0.23) / (0.88534 * BOHR)
    screening = sum((weight * torch.exp(-rate * reduced) for weight, rate in ZBL_TERMS), torch.zeros_like(reduced))
    return COULOMB * first * second / distance * screening


def envelope(x: Tensor) -> Tensor:
    """Return 1 - 28 x⁶ + 48 x⁷ - 21 x⁸ up to x = 1, then 0, any shape; value, slope and curvature vanish at 1.

    The family is that of Gasteiger et al. (DimeNet, 2020). A power of 3 would be smooth enough; 6 keeps more of the
    repulsion close to the onset.
    """
    return torch.where(x < 1.0, 1.0 + x**6 * (-28.0 + x * (48.0 - 21.0 * x)), 0.0)


def onset(first: Tensor, second: Tensor) -> Tensor:
    """Return the distances in Å (P,), float64, beyond which atoms of these numbers (P,) do not feel the repulsion."""
    from ase.data import covalent_radii

    radii = torch.as_tensor(covalent_radii, dtype=torch.float64, device=first.device)
    return ONSET * (radii[first] + radii[second])


def pair_repulsion(first: Tensor, second: Tensor, distance: Tensor, cutoff: float = torch.inf) -> Tensor:
    """Return the repulsion V(r) of pairs of atoms, each pair counted once.

    Args:
        first: Atomic numbers (P,).
        second: Atomic numbers of their partners (P,).
        distance: In Å (P,), positive.
        cutoff: In Å; the onset is no farther out than this.

    Returns:
        Energies in eV (P,), float64, on the device of `distance`; exactly 0 beyond the onset.
    """
    distance = distance.double()
    # Neighbour lists end at the cutoff, and the repulsion must not jump there.
    reach = onset(first, second).clamp_max(cutoff)
    return STRENGTH * screened_coulomb(first, second, distance) * envelope(distance / reach)


def graph_repulsion(graph: Batch, cell: Tensor, numbers: Tensor, cutoff: float) -> Tensor:
    """Return the repulsion of all pairs of neighbours of b structures.

    Args:
        graph: As `graph_chunks` makes it, with every pair in both directions.
        cell: Lattices (b, 3, 3) in Å.
        numbers: Atomic number of every node type, at that index.
        cutoff: Radius of the graph in Å.

    Returns:
        Energies in eV (b,), float64, on the device of the graph; exactly 0 where no pair is closer than its onset.
    """
    source, target = graph.edge_index
    of_edge = graph.batch[source]
    separation = (graph.frac_coords[target] - graph.frac_coords[source] + graph.pbc_offset).double()
    distance = (separation[:, None] @ cell.double()[of_edge])[:, 0].norm(dim=1)
    first, second = numbers[graph.node_type[source]], numbers[graph.node_type[target]]
    close = distance < onset(first, second)
    energy = pair_repulsion(first[close], second[close], distance[close], cutoff)
    # Half, because the graph holds every pair twice.
    return torch.zeros(len(cell), dtype=torch.float64, device=cell.device).index_add_(0, of_edge[close], 0.5 * energy)
