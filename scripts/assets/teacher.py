"""Energies, forces and stresses of packed crystals under a MatGL potential, and files of such labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.reward.graph import graph_chunks
from omatg_ray.reward.potential import load_module, node_types

GPA = 1 / 160.21766208  # eV/Å³


@dataclass(frozen=True)
class Labels:
    """Crystals labelled by a potential.

    Attributes:
        species: Atomic numbers (sum N,).
        pos: Fractional positions (sum N, 3).
        cell: Lattices (B, 3, 3) in Å.
        n_atoms: Atoms per crystal (B,).
        energy: eV (B,), float64.
        forces: eV/Å (sum N, 3).
        stress: eV/Å³ (B, 3, 3).
        kind: Index of the kind of crystal in `configurations.KINDS` (B,).
    """

    species: Tensor
    pos: Tensor
    cell: Tensor
    n_atoms: Tensor
    energy: Tensor
    forces: Tensor
    stress: Tensor
    kind: Tensor

    @property
    def crystals(self) -> CrystalBatch:
        """The crystals, packed."""
        return CrystalBatch(self.species, self.pos, self.cell, self.n_atoms)

    @property
    def energy_per_atom(self) -> Tensor:
        """eV/atom (B,)."""
        return self.energy / self.n_atoms

    def select(self, rows: Tensor) -> Labels:
        """Select some of them, by index or by mask (B,)."""
        index = rows.nonzero()[:, 0] if rows.dtype == torch.bool else rows
        atoms = self.crystals.layout.atoms_of(index)
        parts = {
            field.name: getattr(self, field.name)[atoms if field.name in ("species", "pos", "forces") else index]
            for field in fields(self)
        }
        return Labels(**parts)

    @classmethod
    def cat(cls, parts: Sequence[Labels]) -> Labels:
        """Concatenate several."""
        return cls(**{field.name: torch.cat([getattr(part, field.name) for part in parts]) for field in fields(cls)})

    def save(self, path: Path) -> None:
        """Write to a temporary file and rename it."""
        temporary = path.with_suffix(".part")
        save_file({field.name: getattr(self, field.name).contiguous() for field in fields(self)}, temporary)
        temporary.replace(path)

    @classmethod
    def load(cls, path: Path) -> Labels:
        """Read a file written by `save`."""
        return cls(**load_file(path))


class Teacher:
    """A MatGL potential with forces and stresses.

    Args:
        potential: Folder or name of a MatGL potential.
    """

    def __init__(self, potential: str) -> None:
        self._module: Any = load_module(potential).eval().requires_grad_(False)
        self._module.calc_forces = self._module.calc_stresses = True
        network: Any = self._module.model
        self.node_types, self.cutoff = node_types(network.element_types), float(network.cutoff)

    def __call__(self, crystals: CrystalBatch, kind: Tensor, max_edges: int = 2000) -> Labels:
        """Label valid crystals."""
        energies, forces, stresses = [], [], []
        for graph, cell in graph_chunks(crystals, self.node_types, self.cutoff, max_edges):
            energy, force, stress, _ = self._module(graph, cell)
            energies.append(energy.detach().view(-1).double())
            forces.append(force.detach())
            stresses.append(stress.detach().view(-1, 3, 3) * GPA)
        return Labels(
            crystals.species, crystals.pos.float(), crystals.cell.float(), crystals.n_atoms, torch.cat(energies),
            torch.cat(forces), torch.cat(stresses), kind,
        )  # fmt: skip
