"""Crystals that users hand over in Python: files, structures of pymatgen or ASE, batches."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from omatg_ray import assets
from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.crystal.dataset import CrystalDataset, scalar_properties
from omatg_ray.crystal.read import OnError, dataset_of, read_dataset, require_usable
from omatg_ray.crystal.row import Row, identity, row_of_atoms, row_of_structure
from omatg_ray.errors import DataError
from omatg_ray.run.location import is_bundled, is_remote
from omatg_ray.run.storage import local_copy

if TYPE_CHECKING:
    from ase import Atoms
    from pymatgen.core import Structure

    Given = str | Path | CrystalBatch | CrystalDataset | Structure | Atoms | Sequence[Structure | Atoms]
    """A file or folder of crystals or its URL, "bundled" (test split), structures, a batch, or from `read_dataset`."""


def as_dataset(given: Given, progress: bool = False, on_error: OnError = "refuse") -> CrystalDataset:
    """Return crystals as a data set, with their cells as they are, also of invalid ones (`check_validity`).

    Ids are those of the file, `material_id` in the properties of a structure or in the `info` of ASE's atoms, else
    numbers from 1.

    Args:
        given: The crystals.
        progress: Show progress while a file is read.
        on_error: Refuse unusable crystals of a file, or skip them with a warning.

    Raises:
        DataError: As `read_dataset`; there are no crystals, or one cannot be used. Names it.
        StorageError: A URL cannot be read.
    """
    from ase import Atoms
    from pymatgen.core import Structure

    if isinstance(given, CrystalDataset):
        return given
    if isinstance(given, str | Path):
        place = given if is_remote(given) else Path(given).expanduser()
        with local_copy(assets.crystals("test", given) if is_bundled(given) else place) as path:
            return read_dataset(path, reduce=False, allow_overlaps=True, on_error=on_error, progress=progress)
    if isinstance(given, CrystalBatch):
        given = given.to_structures()
    structures = [given] if isinstance(given, Structure | Atoms) else list(given)
    if not structures:
        raise DataError("there are no crystals")
    return dataset_of([_row(number, structure) for number, structure in enumerate(structures, start=1)], reduce=False)


def _row(number: int, structure: Structure | Atoms) -> Row:
    from ase import Atoms
    from pymatgen.core import Structure

    try:
        if isinstance(structure, Atoms):
            row = row_of_atoms(structure, str(number), structure.info)
        elif isinstance(structure, Structure):
            properties = structure.properties or {}
            row = row_of_structure(structure, identity(properties, str(number)), scalar_properties(properties))
        else:
            raise DataError(f"it is {type(structure).__name__}; give pymatgen Structures or ASE Atoms")
        require_usable(row, allow_collapsed=True)
    except DataError as error:
        raise DataError(f"structure {number}: {error}") from error
    return row
