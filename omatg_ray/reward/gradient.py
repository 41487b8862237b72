"""Gradients of rewards with respect to positions and lattices, and their size.

Both are derivatives of a function of fractional positions f and the lattice L, whose rows are the lattice vectors: that
with respect to L is taken at fixed f. In Cartesian terms (Å) they are d/dr = (d/df) L⁻ᵀ for the positions and
d/dε = Lᵀ (d/dL) for the strain of the lattice L (1 + ε).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from omatg_ray.crystal.batch import CrystalBatch, Layout


@dataclass(frozen=True)
class Gradient:
    """Gradient of one number per structure, such as its reward.

    Attributes:
        pos: With respect to the fractional positions (sum N, 3).
        cell: With respect to the lattice (B, 3, 3), in 1/Å, at fixed fractional positions.
    """

    pos: Tensor
    cell: Tensor

    @classmethod
    def zeros(cls, layout: Layout) -> Gradient:
        """Return a gradient of zeros, float64, on the CPU."""
        pos, cell = (sum(layout.sizes), 3), (len(layout.sizes), 3, 3)
        return cls(torch.zeros(pos, dtype=torch.float64), torch.zeros(cell, dtype=torch.float64))

    @classmethod
    def cat(cls, gradients: Sequence[Gradient]) -> Gradient:
        """Concatenate the gradients of several batches."""
        return cls(torch.cat([each.pos for each in gradients]), torch.cat([each.cell for each in gradients]))

    @classmethod
    def of_energy(cls, crystals: CrystalBatch, forces: Tensor, virial: Tensor) -> Gradient:
        """Convert derivatives of an energy: dE/df = −F Lᵀ and dE/dL = L⁻ᵀ dE/dε.

        Args:
            crystals: B structures.
            forces: −dE/dr (sum N, 3) in eV/Å.
            virial: dE/dε (B, 3, 3) in eV.
        """
        cell = crystals.cell.to(forces)
        return cls(-torch.einsum("ni,nji->nj", forces, cell[crystals.batch.cpu()]), torch.linalg.solve(cell.mT, virial))

    def times(self, factor: Tensor, layout: Layout) -> Gradient:
        """Multiply by one factor per structure (B,). A factor of 0 gives 0 even where the gradient is not finite."""
        of_atoms, factor = factor.index_select(0, layout.batch.to(factor.device))[:, None], factor[:, None, None]
        return Gradient(
            torch.where(of_atoms == 0, 0.0, of_atoms * self.pos), torch.where(factor == 0, 0.0, factor * self.cell)
        )

    def to(self, device: torch.device | str) -> Gradient:
        """Return the gradient on a device, in its own precision."""
        return Gradient(self.pos.to(device), self.cell.to(device))

    def __add__(self, other: Gradient) -> Gradient:
        return Gradient(self.pos + other.pos, self.cell + other.cell)

    def select(self, rows: Tensor, layout: Layout) -> Gradient:
        """Return the gradient of some structures, given by indices (b,) into 0 … B − 1."""
        atoms = layout.atoms_of(rows.to(layout.n_atoms.device))
        return Gradient(
            self.pos.index_select(0, atoms.to(self.pos.device)), self.cell.index_select(0, rows.to(self.cell.device))
        )

    def spread(self, rows: Tensor, layout: Layout) -> Gradient:
        """Return the gradient of B structures, with this one at some of them (b,) and 0 at the others."""
        whole, atoms = Gradient.zeros(layout), layout.atoms_of(rows.to(layout.n_atoms.device))
        whole.pos[atoms.to(whole.pos.device)], whole.cell[rows.to(whole.cell.device)] = self.pos, self.cell
        return whole

    def size(self, crystals: CrystalBatch) -> Tensor:
        """Return the size (B,) of every structure's gradient, independent of the number of atoms and of the axes.

        It is √(mean over atoms of |N d/dr|² + |d/dε|²): for minus the energy per atom, the root mean square of the
        forces in eV/Å together with the norm of dE/dε / N in eV. Where the lattice has no inverse, it is NaN.
        """
        cell, layout = crystals.cell.to(self.pos), crystals.layout
        by_r, singular = torch.linalg.solve_ex(cell[layout.batch], self.pos[:, :, None])
        by_r = by_r[..., 0].where(singular[:, None] == 0, torch.nan)
        by_strain = cell.mT @ self.cell
        squares = layout.n_atoms * layout.sum(by_r.square().sum(1)) + by_strain.square().sum((1, 2))
        return squares.sqrt()

    def limited(self, largest: Tensor | float, crystals: CrystalBatch) -> Gradient:
        """Scale the gradients of structures down to a largest size, () or (B,); those not finite become 0."""
        size = self.size(crystals)
        factor = (largest / size.clamp_min(torch.finfo(size.dtype).tiny)).clamp_max(1.0)
        return self.times(factor.where(size.isfinite(), 0.0), crystals.layout)
