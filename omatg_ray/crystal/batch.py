"""Packed batch of crystals, which all parts of the package exchange."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from omatg_ray.errors import DataError

if TYPE_CHECKING:
    from pymatgen.core import Structure
    from torch_geometric.data import Batch

MAX_ATOMIC_NUMBER = 118


class Edges(NamedTuple):
    """Ordered pairs of atoms (E, ...): some unordered pairs, these reversed, and every atom with itself.

    Attributes:
        first: First atoms of the unordered pairs (P,).
        second: Their second atoms (P,).
        ends: Receiver i, and sender j + sum N (E, 2): rows of a table with values of receivers above those of senders.
        by_receiver: Indices of the edges sorted by receiver (E,).
        by_sender: Indices of the edges sorted by sender (E,).
        start: Where the edges of each atom start, in `by_receiver` and `by_sender` alike (sum N,).
        degree: Number of the edges of each atom (sum N,).
    """

    first: Tensor
    second: Tensor
    ends: Tensor
    by_receiver: Tensor
    by_sender: Tensor
    start: Tensor
    degree: Tensor

    @classmethod
    def between(cls, first: Tensor, second: Tensor, degree: Tensor) -> Edges:
        """Return the edges of unordered pairs (P,), and their reverse, and of every atom with itself.

        Args:
            degree: Number of edges of each atom, with the one to itself (sum N,).
        """
        own = torch.arange(len(degree), device=degree.device)
        receiver, sender = torch.cat([first, second, own]), torch.cat([second, first, own])
        return cls(
            first,
            second,
            torch.stack([receiver, sender + len(own)], dim=1),
            receiver.argsort(stable=True),
            sender.argsort(stable=True),
            degree.cumsum(0) - degree,
            degree,
        )


class Layout:
    """Indices that depend only on the numbers of atoms; computed once and shared by all states of a trajectory.

    Args:
        n_atoms: Atoms per structure (B,), int64, each at least 1.
    """

    def __init__(self, n_atoms: Tensor) -> None:
        self.n_atoms = n_atoms

    def __reduce__(self) -> tuple[type[Layout], tuple[Tensor]]:
        # Without the cached tensors, which may be larger than all the crystals.
        return Layout, (self.n_atoms,)

    @cached_property
    def sizes(self) -> list[int]:
        """`n_atoms` as Python integers."""
        return self.n_atoms.tolist()

    @cached_property
    def ptr(self) -> Tensor:
        """Offsets (B + 1,): structure b holds the atoms ptr[b] to ptr[b + 1] - 1."""
        return torch.cat([self.n_atoms.new_zeros(1), self.n_atoms.cumsum(0)])

    @cached_property
    def batch(self) -> Tensor:
        """Structure of every atom (sum N,)."""
        structures = torch.arange(len(self.n_atoms), device=self.n_atoms.device)
        return structures.repeat_interleave(self.n_atoms, output_size=sum(self.sizes))

    @cached_property
    def pairs(self) -> tuple[Tensor, Tensor, Tensor]:
        """Unordered pairs of different atoms inside a structure: atoms i < j and their structure, each (P,)."""
        device = self.n_atoms.device
        upper = {n: torch.triu_indices(n, n, offset=1, device=device) for n in set(self.sizes)}
        counts = self.n_atoms * (self.n_atoms - 1) // 2
        total = sum(n * (n - 1) // 2 for n in self.sizes)
        structure = torch.arange(len(self.n_atoms), device=device).repeat_interleave(counts, output_size=total)
        local = torch.cat([structure.new_zeros(2, 0), *(upper[n] for n in self.sizes)], dim=1)
        first, second = local + self.ptr[:-1][structure]
        return first, second, structure

    @cached_property
    def edges(self) -> Edges:
        """All ordered pairs of atoms inside a structure."""
        first, second, _ = self.pairs
        return Edges.between(first, second, self.n_atoms.index_select(0, self.batch))

    def atoms_of(self, structures: Tensor) -> Tensor:
        """Return the indices of the atoms of some structures (b,), structure by structure."""
        n_atoms = self.n_atoms[structures]
        total = int(n_atoms.sum())
        shift = self.ptr[:-1][structures] - (n_atoms.cumsum(0) - n_atoms)
        return torch.arange(total, device=n_atoms.device) + shift.repeat_interleave(n_atoms, output_size=total)

    def sum(self, values: Tensor) -> Tensor:
        """Sum values over the atoms of every structure: (sum N, ...) to (B, ...)."""
        out = values.new_zeros((len(self.n_atoms), *values.shape[1:]))
        return out.index_add_(0, self.batch, values)

    def mean(self, values: Tensor) -> Tensor:
        """Average values over the atoms of every structure: (sum N, ...) to (B, ...)."""
        counts = self.n_atoms.to(values.dtype).view(-1, *[1] * (values.dim() - 1))
        return self.sum(values) / counts


class CrystalBatch:
    """B crystals with sum N atoms, packed: atoms of one structure are consecutive.

    Args:
        species: Atomic numbers (sum N,).
        pos: Fractional positions (sum N, 3).
        cell: Lattices (B, 3, 3) in Å; rows are the lattice vectors, Cartesian = fractional @ cell.
        n_atoms: Atoms per structure (B,).

    Raises:
        DataError: Shapes do not fit together, or an atomic number is not in 1 to 118.

    Example:
        >>> import torch
        >>> batch = CrystalBatch(species=torch.tensor([55, 17]), pos=torch.tensor([[0.0, 0, 0], [0.5, 0.5, 0.5]]),
        ...                      cell=4.1 * torch.eye(3)[None], n_atoms=torch.tensor([2]))
        >>> batch.formulas()
        ['CsCl']
    """

    def __init__(self, species: Tensor, pos: Tensor, cell: Tensor, n_atoms: Tensor) -> None:
        species, n_atoms = species.long(), n_atoms.long()
        if n_atoms.dim() != 1 or species.dim() != 1:
            raise DataError(f"species and n_atoms must have one dimension, not {species.dim()} and {n_atoms.dim()}")
        if cell.shape != (len(n_atoms), 3, 3):
            raise DataError(
                f"cell has shape {tuple(cell.shape)}; {len(n_atoms)} structures need ({len(n_atoms)}, 3, 3)"
            )
        if pos.shape != (len(species), 3):
            raise DataError(f"pos has shape {tuple(pos.shape)}; {len(species)} atoms need ({len(species)}, 3)")
        if (len(n_atoms) and int(n_atoms.min()) < 1) or int(n_atoms.sum()) != len(species):
            raise DataError(f"n_atoms must be positive and add up to the {len(species)} atoms of species")
        if len(species) and not (int(species.min()) >= 1 and int(species.max()) <= MAX_ATOMIC_NUMBER):
            raise DataError(f"species must be atomic numbers from 1 to {MAX_ATOMIC_NUMBER}")
        self.species, self.pos, self.cell = species, pos, cell
        self.layout = Layout(n_atoms)

    # --- layout -----------------------------------------------------------------------------------------------

    @property
    def n_atoms(self) -> Tensor:
        """Atoms per structure (B,)."""
        return self.layout.n_atoms

    @property
    def batch(self) -> Tensor:
        """Structure of every atom (sum N,)."""
        return self.layout.batch

    @property
    def ptr(self) -> Tensor:
        """Offsets of the structures (B + 1,)."""
        return self.layout.ptr

    @property
    def atomic_numbers(self) -> list[list[int]]:
        """Atomic numbers of every structure."""
        return [species.tolist() for species in self.species.cpu().split(self.layout.sizes)]

    @property
    def device(self) -> torch.device:
        return self.pos.device

    @property
    def dtype(self) -> torch.dtype:
        return self.pos.dtype

    def __len__(self) -> int:
        return len(self.n_atoms)

    def __repr__(self) -> str:
        return f"CrystalBatch({len(self)} structures, {len(self.species)} atoms, {self.dtype}, {self.device})"

    # --- new batches from old ones ----------------------------------------------------------------------------

    def replace(
        self, pos: Tensor | None = None, cell: Tensor | None = None, species: Tensor | None = None
    ) -> CrystalBatch:
        """Return a batch with other positions, cells or species, sharing the layout.

        Skips validation: while species are generated, states hold masked atoms with atomic number 0.
        """
        new = object.__new__(CrystalBatch)
        new.layout = self.layout
        new.species = self.species if species is None else species
        new.pos = self.pos if pos is None else pos
        new.cell = self.cell if cell is None else cell
        return new

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> CrystalBatch:
        """Move to a device, and convert positions and cells to a dtype. Returns itself if nothing changes."""
        device = self.device if device is None else torch.device(device)
        dtype = self.dtype if dtype is None else dtype
        if device == self.device:
            return self if dtype == self.dtype else self.replace(self.pos.to(dtype), self.cell.to(dtype))
        # Skip validation: it would wait for the device.
        new = self.replace(self.pos.to(device, dtype), self.cell.to(device, dtype))
        new.species, new.layout = self.species.to(device), Layout(self.n_atoms.to(device))
        return new

    def select(self, indices: Sequence[int] | Tensor) -> CrystalBatch:
        """Return the structures with these indices (or where a boolean mask (B,) is true), in the order given."""
        index = torch.as_tensor(indices, device=self.device)
        index = index.nonzero().squeeze(1) if index.dtype == torch.bool else index.long()
        atoms = self.layout.atoms_of(index)
        return CrystalBatch(self.species[atoms], self.pos[atoms], self.cell[index], self.n_atoms[index])

    @classmethod
    def cat(cls, batches: Iterable[CrystalBatch]) -> CrystalBatch:
        """Concatenate batches, in order."""
        parts = list(batches)
        names = ("species", "pos", "cell", "n_atoms")
        return cls(*(torch.cat([getattr(part, name) for part in parts]) for name in names))

    def tile(self, times: int) -> CrystalBatch:
        """Repeat the whole batch `times` times."""
        return CrystalBatch.cat([self] * times)

    # --- other libraries --------------------------------------------------------------------------------------

    @classmethod
    def from_structures(cls, structures: Sequence[Structure], dtype: torch.dtype = torch.float32) -> CrystalBatch:
        """Build a batch from ordered pymatgen structures, with positions wrapped into [0, 1).

        Raises:
            DataError: A structure is disordered (a site with several or partly occupied species) or has no atoms.
        """
        from omatg_ray.crystal.lattice import wrap

        for index, structure in enumerate(structures):
            if not structure.is_ordered or len(structure) == 0:
                raise DataError(f"structure {index} ({structure.formula or 'empty'}) is disordered or has no atoms")
        species = [site.specie.Z for structure in structures for site in structure]
        frac = [torch.as_tensor(structure.frac_coords, dtype=torch.float64) for structure in structures]
        cells = [torch.as_tensor(structure.lattice.matrix.copy(), dtype=torch.float64) for structure in structures]
        return cls(
            torch.tensor(species, dtype=torch.long),
            wrap(wrap(torch.cat(frac)).to(dtype)) if frac else torch.zeros(0, 3, dtype=dtype),
            torch.stack(cells).to(dtype) if cells else torch.zeros(0, 3, 3, dtype=dtype),
            torch.tensor([len(structure) for structure in structures], dtype=torch.long),
        )

    def to_structures(self) -> list[Structure]:
        """Convert to pymatgen structures, in order."""
        from pymatgen.core import Lattice, Structure

        pos, cell = self.pos.double().cpu().numpy(), self.cell.double().cpu().numpy()
        species, ptr = self.species.tolist(), self.ptr.tolist()
        return [
            Structure(Lattice(cell[b]), species[ptr[b] : ptr[b + 1]], pos[ptr[b] : ptr[b + 1]])
            for b in range(len(self))
        ]

    @classmethod
    def from_pyg(cls, data: Any) -> CrystalBatch:
        """Convert a torch-geometric `Data` or `Batch` with `species`, `pos`, `cell` and, in a batch, `n_atoms`."""
        n_atoms = getattr(data, "n_atoms", None)
        if n_atoms is None:
            n_atoms = torch.tensor([len(data.species)], device=data.species.device)
        return cls(data.species, data.pos, data.cell.view(-1, 3, 3), n_atoms.view(-1))

    def to_pyg(self) -> Batch:
        """Convert to a torch-geometric `Batch` of `Data(species, pos, cell, n_atoms)`; `from_pyg` inverts it."""
        from torch_geometric.data import Batch, Data

        ptr = self.ptr.tolist()
        return Batch.from_data_list(
            [
                Data(
                    species=self.species[ptr[b] : ptr[b + 1]],
                    pos=self.pos[ptr[b] : ptr[b + 1]],
                    cell=self.cell[b : b + 1],
                    n_atoms=self.n_atoms[b : b + 1],
                    num_nodes=ptr[b + 1] - ptr[b],
                )
                for b in range(len(self))
            ]
        )

    def formulas(self) -> list[str]:
        """Return the formula of every structure's cell, elements by electronegativity: 'BaTiO3', 'Ti2O4'."""
        from pymatgen.core import Element

        species, ptr = self.species.tolist(), self.ptr.tolist()
        out = []
        for b in range(len(self)):
            counts = Counter(species[ptr[b] : ptr[b + 1]])
            elements = sorted((Element.from_Z(z), n) for z, n in counts.items())
            out.append("".join(f"{element.symbol}{n if n > 1 else ''}" for element, n in elements))
        return out
