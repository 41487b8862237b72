"""The crystals of a run: read, split, kept with the run, and compared when it goes on."""

from __future__ import annotations

import warnings
from itertools import combinations
from pathlib import Path

import torch

from omatg_ray.assets import crystals
from omatg_ray.config import UNNAMED_DATA, DataSettings
from omatg_ray.crystal.dataset import CrystalDataset
from omatg_ray.crystal.read import OnError, read_dataset
from omatg_ray.crystal.split import Split, split_by_composition
from omatg_ray.crystal.write import RESERVED_NAMES, write_structures
from omatg_ray.errors import ConfigError
from omatg_ray.run.folder import RunFolder
from omatg_ray.run.location import Location, is_bundled, is_remote
from omatg_ray.run.storage import files_at, local_copy

SPLITS = ("train", "val", "test")
ROUNDING = 1e-4
"""Å, and fractions of a lattice vector: far more than a file rounds, far less than what makes another crystal."""


def load_splits(data: DataSettings, progress: bool = False) -> Split:
    """The three splits that `data` describes.

    Raises:
        ConfigError: Neither a file nor three files are named.
        DataError: A file cannot be read, or a split is empty.
    """
    if data.file is not None:
        dataset = read(data.file, progress, data.on_error)
        val, test = (int(size) if size >= 1 else size for size in (data.val_compositions, data.test_compositions))
        return split_by_composition(dataset, val, test, data.split_seed)
    if data.train is None or data.val is None or data.test is None:
        raise ConfigError(UNNAMED_DATA)
    split = Split(*(read(place, progress, data.on_error) for place in (data.train, data.val, data.test)))
    for first, second in combinations(SPLITS, 2):
        common = sorted(set(getattr(split, first).compositions) & set(getattr(split, second).compositions))
        if common:
            # Published splits of MP-20 and Carbon-24 are like that; what is measured then is another question.
            warnings.warn(
                f"data.{first} and data.{second} share {len(common)} compositions, e.g. {', '.join(common[:3])}; "
                "figures on held-out crystals are then not figures on held-out compositions",
                stacklevel=2,
            )
    return split


def read(place: Location, progress: bool = False, on_error: OnError = "refuse") -> CrystalDataset:
    """Crystals of a file or folder, or of the URL of one; those that cannot be used are refused or skipped.

    Raises:
        DataError: As `read_dataset`.
        StorageError: The URL cannot be read.
    """
    with local_copy(place) as path:
        return read_dataset(path, on_error=on_error, progress=progress)


def base_run_data(base: Location) -> DataSettings | None:
    """The splits that the run which made a model keeps, if it is still beside its checkpoints.

    Raises:
        DataError: Those of the bundled model are missing or damaged.
        StorageError: The URL of the model cannot be reached.
    """
    if is_bundled(base):
        return DataSettings(**{name: crystals(name) for name in SPLITS})
    if is_remote(base):
        for url in (base, *(base.rsplit("/", above)[0] for above in (1, 2))):
            names = {f"{name}.extxyz" for name in SPLITS}
            if is_remote(url) and names <= set(files_at(f"{url}/data")):
                return DataSettings(**{name: f"{url}/data/{name}.extxyz" for name in SPLITS})
        return None
    folder = Path(base).resolve()
    for run in (folder, *folder.parents[:2]):
        paths = {name: run / "data" / f"{name}.extxyz" for name in SPLITS}
        if all(path.is_file() for path in paths.values()):
            return DataSettings(**paths)
    return None


def write_splits(folder: RunFolder, split: Split) -> None:
    """Keeps the splits with the run as `data/{train,val,test}.extxyz`, for reinforcement and evaluation."""
    for name in SPLITS:
        part = getattr(split, name)
        properties = [
            {name: value for name, value in values.items() if name not in RESERVED_NAMES} | {"material_id": ident}
            for ident, values in zip(part.ids, part.properties, strict=True)
        ]
        write_structures(folder.path / "data" / f"{name}.extxyz", part.crystals.to_structures(), properties)


def refuse_other_crystals(folder: RunFolder, split: Split) -> None:
    """Refuses to go on with a run that was started with other crystals: a file was edited, `bundled` means others now.

    The run's own splits are no substitute: they were rounded when they were written, in the eighth decimal.

    Raises:
        ConfigError: Names the split and the file of the run.
    """
    # Splits are whole once the versions, which are written after them, are there.
    if not folder.versions_path.exists():
        return
    for name in SPLITS:
        path, given = folder.path / "data" / f"{name}.extxyz", getattr(split, name)
        if not _same_crystals(read_dataset(path, reduce=False, allow_overlaps=True), given):
            raise ConfigError(
                f"data: the {name} split is not the one that the run was started with and keeps in {path}, and it goes "
                "on exactly; name the crystals it started with (bundled ones come with the release in versions.json), "
                "or start a new run"
            )


def _same_crystals(kept: CrystalDataset, given: CrystalDataset) -> bool:
    """Whether they differ by no more than the rounding of a file."""
    ours, theirs = kept.crystals, given.crystals
    if not (torch.equal(ours.n_atoms, theirs.n_atoms) and torch.equal(ours.species, theirs.species)):
        return False
    shift, strain = ours.pos - theirs.pos, ours.cell - theirs.cell
    return bool((shift - shift.round()).abs().max() < ROUNDING and strain.abs().max() < ROUNDING)
