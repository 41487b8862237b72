"""Crystals of a command, written to a file or folder, on request in standard cells."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.crystal.file_names import FolderFormat
from omatg_ray.crystal.standard import standardize
from omatg_ray.crystal.standard_crystal import SYMPREC, CellKind, StandardCrystal
from omatg_ray.crystal.write import write_structures

if TYPE_CHECKING:
    from pymatgen.core import Structure


def write_crystals(
    path: str | Path,
    crystals: CrystalBatch,
    properties: Sequence[Mapping[str, Any]] | None = None,
    *,
    folder_format: FolderFormat | None = None,
    cell: CellKind | None = None,
    symprec: float = SYMPREC,
    workers: int = 0,
    timeout: float = 10.0,
    progress: bool = False,
) -> None:
    """Write crystals and their properties as `write_structures` does.

    Args:
        path: File or folder.
        crystals: B crystals.
        properties: A row for each. Formula units per cell (`z`) become those of the standard cell, with the reduced
            formula where the one given does not fit in it. Energies and bonds stay those of the crystal as it was.
        folder_format: Format of the files of a folder.
        cell: Standard cell to write; None writes the cells as they are.
        symprec: spglib's tolerance in Å for standard cells.
        workers: Worker processes that find standard cells; 0 does so in this process (see `BoundedPool`).
        timeout: Seconds that one standard cell may take.
        progress: Show progress.

    Raises:
        DataError: As `write_structures`.
        OmatgRayError: As `write_structures`.
    """
    structures = crystals.to_structures()
    if cell is None:
        write_structures(path, structures, properties, folder_format)
        return
    done = standardize(structures, cell, symprec=symprec, workers=workers, timeout=timeout, progress=progress)
    sizes = [len(crystal.structure if isinstance(crystal, StandardCrystal) else crystal) for crystal in done]
    rows = [
        _of_cell(row, size, structure)
        for row, size, structure in zip(properties or [{}] * len(done), sizes, structures, strict=True)
    ]
    write_structures(path, done, rows, folder_format)


def _of_cell(row: Mapping[str, Any], size: int, structure: Structure) -> dict[str, Any]:
    """Return the properties with the formula units of a cell of the same crystal with `size` atoms."""
    if row.get("z") is None:
        return dict(row)
    units = row["z"] * Fraction(size, len(structure))
    if units.denominator == 1:
        return {**row, "z": int(units)}
    counts = {element: round(number) for element, number in structure.composition.items()}
    factor = math.gcd(*counts.values())
    formula = "".join(f"{e.symbol}{n // factor if n > factor else ''}" for e, n in sorted(counts.items()))
    return {**row, "formula": formula, "z": factor * size // len(structure)}
