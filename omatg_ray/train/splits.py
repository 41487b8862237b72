"""The crystals of a run: reading, splitting, saving with the run, and comparing when it is resumed."""

from __future__ import annotations

import warnings
from itertools import combinations
from pathlib import Path

import torch

from omatg_ray.assets import crystals
from omatg_ray.crystal.dataset import CrystalDataset
from omatg_ray.crystal.read import OnError, read_dataset
from omatg_ray.crystal.settings import UNNAMED_DATA, DataSettings
from omatg_ray.crystal.split import Split, split_by_composition
from omatg_ray.crystal.write import RESERVED_NAMES, write_structures
from omatg_ray.errors import ConfigError
from omatg_ray.run.folder import RunFolder
from omatg_ray.run.location import Location, bundled_set, is_remote
from omatg_ray.run.storage import files_at, local_copy
from omatg_ray.train.unknown import Known, drop_unknown, require_decider

SPLITS = ("train", "val", "test")
ROUNDING = 1e-4
"""Å, and fractions of a lattice vector: far above the rounding of a file, far below the difference of two crystals."""


def load_splits(data: DataSettings, progress: bool = False, known: Known | None = None) -> Split:
    """Load the three splits that `data` describes.

    Args:
        data: Where they are.
        progress: Show progress.
        known: Leave out crystals with elements that one of these does not know, before a file is split; None keeps all.

    Raises:
        ConfigError: Neither a file nor three files are named, or `known` is empty.
        DataError: A file cannot be read, or a split is empty.
    """

    def load(place: Location) -> CrystalDataset:
        dataset = read(place, progress, data.on_error)
        return dataset if known is None else drop_unknown(dataset, known, place)

    if known is not None:
        require_decider(known)  # before reading, which may take minutes
    if data.file is not None:
        return split_one(load(data.file), data)
    if data.train is None or data.val is None or data.test is None:
        raise ConfigError(UNNAMED_DATA)
    split = Split(*(load(path) for path in (data.train, data.val, data.test)))
    for first, second in combinations(SPLITS, 2):
        common = sorted(set(getattr(split, first).compositions) & set(getattr(split, second).compositions))
        if common:
            # Allowed, because published splits of MP-20 and Carbon-24 overlap like this.
            warnings.warn(
                f"data.{first} and data.{second} share {len(common)} compositions, e.g. {', '.join(common[:3])}; "
                "figures on held-out crystals are then not figures on held-out compositions",
                stacklevel=2,
            )
    return split


def split_one(dataset: CrystalDataset, data: DataSettings) -> Split:
    """Split the crystals of one file as `data` asks for.

    Raises:
        DataError: A split would be empty.
    """
    val, test = (int(size) if size >= 1 else size for size in (data.val_compositions, data.test_compositions))
    return split_by_composition(dataset, val, test, data.split_seed)


def read(place: Location, progress: bool = False, on_error: OnError = "refuse") -> CrystalDataset:
    """Read crystals from a file or folder, or from its URL. Unusable crystals are refused or skipped.

    Raises:
        DataError: As `read_dataset`.
        StorageError: The URL cannot be read.
    """
    with local_copy(place) as path:
        return read_dataset(path, on_error=on_error, progress=progress)


def base_run_data(base: Location) -> DataSettings | None:
    """Return the splits saved by the run that made a model; None if they are not beside its checkpoints.

    Raises:
        DataError: The bundled splits are missing or damaged.
        StorageError: The URL of the model cannot be reached.
    """
    of = bundled_set(base)
    if of is not None:
        return DataSettings(**{name: crystals(name, of) for name in SPLITS})
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
    """Save the splits with the run as `data/{train,val,test}.extxyz`, for reinforcement and evaluation."""
    for name in SPLITS:
        part = getattr(split, name)
        properties = [
            {name: value for name, value in values.items() if name not in RESERVED_NAMES} | {"material_id": ident}
            for ident, values in zip(part.ids, part.properties, strict=True)
        ]
        write_structures(folder.path / "data" / f"{name}.extxyz", part.crystals.to_structures(), properties)


def refuse_other_crystals(folder: RunFolder, split: Split) -> None:
    """Refuse to resume a run with other crystals than it started with.

    They differ if a file was edited, or if `bundled` means others in this release. The run's own splits cannot replace
    them: they were rounded in the eighth decimal when they were written.

    Raises:
        ConfigError: Names the split and the file of the run.
    """
    # The versions file is written after the splits: once it exists, the splits are complete.
    if not folder.versions_path.exists():
        return
    for name in SPLITS:
        path, dataset = folder.path / "data" / f"{name}.extxyz", getattr(split, name)
        if not _same_crystals(read_dataset(path, reduce=False, allow_overlaps=True), dataset):
            raise ConfigError(
                f"data: the {name} split is not the one that the run was started with and keeps in {path}; name the "
                "crystals it started with (bundled ones come with the release in versions.json), or start a new run"
            )


def _same_crystals(first: CrystalDataset, second: CrystalDataset) -> bool:
    """Decide whether two datasets differ by no more than the rounding of a file."""
    ours, theirs = first.crystals, second.crystals
    if not (torch.equal(ours.n_atoms, theirs.n_atoms) and torch.equal(ours.species, theirs.species)):
        return False
    shift, strain = ours.pos - theirs.pos, ours.cell - theirs.cell
    return bool((shift - shift.round()).abs().max() < ROUNDING and strain.abs().max() < ROUNDING)
