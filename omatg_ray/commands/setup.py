"""What `pretrain` and `train` do before their loop: device, splits, run folder, texts that describe the run."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import chain, combinations, count
from pathlib import Path

import torch
from pymatgen.core import Element

from omatg_ray.assets import crystals
from omatg_ray.config import UNNAMED_DATA, Config, DataSettings
from omatg_ray.crystal.dataset import CrystalDataset
from omatg_ray.crystal.fields import FIELDS
from omatg_ray.crystal.read import OnError, read_dataset
from omatg_ray.crystal.split import Split, split_by_composition
from omatg_ray.crystal.write import RESERVED_NAMES, write_structures
from omatg_ray.distributed.settings import RaySettings
from omatg_ray.errors import ConfigError, ModelError
from omatg_ray.evaluate.settings import BLOCK
from omatg_ray.model.flow_model import EULER, FlowModel, Solver
from omatg_ray.policy.annealing import Annealing
from omatg_ray.policy.settings import CHUNK_PAIRS, NoiseMode
from omatg_ray.run.atomic import write_json, write_text
from omatg_ray.run.folder import RunFolder
from omatg_ray.run.location import is_bundled, is_remote
from omatg_ray.run.storage import files_at, local_copy
from omatg_ray.run.tracking import Tracking
from omatg_ray.run.versions import versions
from omatg_ray.tree import flat

SPLITS = ("train", "val", "test")
ROUNDING = 1e-4
"""Å, and fractions of a lattice vector: far more than a file rounds, far less than what makes another crystal."""
# What a resumed run may change: how long and where it runs, how often it looks, and where its files lie by now.
MAY_CHANGE = (
    "iterations", "run", "device", "threads", "workers", "ray", "checkpoint", "validation", "tracking", "base",
    "data.file", "data.train", "data.val", "data.test", "data.on_error", "reward.potential", "reward.second_potential",
    "reward.workers",
    "reward.hull.entries", "reward.hull.crystals", "reward.crmse.references",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class WorkOptions:
    """How crystals are generated and measured, whatever generates them.

    Attributes:
        noise: Without noise or with the policy's.
        solver: Euler steps, or a method of torchdiffeq.
        seed: Seed of x_0 and noise.
        potential: Potential of the energies: name, folder or bundled.
        workers: Processes that compare structures; 0 compares in this one.
        timeout: Seconds that one comparison may take.
        device: auto, cpu, cuda or cuda:N.
        threads: PyTorch's CPU threads; None leaves PyTorch its choice.
        chunk_pairs: Ordered pairs of atoms per network call.
        block: Crystals generated and measured together, by one actor where there are several.
        ray: Actors that generate and measure; without rollout workers this process does, on `device` with `threads`.
    """

    noise: NoiseMode = "none"
    solver: Solver = EULER
    seed: int = 0
    potential: str | None = None
    workers: int = os.cpu_count() or 1
    timeout: float = 10.0
    device: str = "auto"
    threads: int | None = None
    chunk_pairs: int = CHUNK_PAIRS
    block: int = BLOCK
    ray: RaySettings = field(default_factory=RaySettings)

    def prepare(self) -> torch.device:
        """Sets the threads, and gives the device of this process, which is a CPU where actors do the work."""
        set_threads(self.threads)
        return driver_device(self.device, self.ray)


@dataclass(frozen=True, kw_only=True)
class SamplingOptions(WorkOptions):
    """What generates, for verbs that take one sampler.

    Attributes:
        model: Model or run folder, or bundled.
        steps: Grid points; one network evaluation fewer.
        schedule: Annealing in place of the model's own.
    """

    model: str | Path
    steps: int = 50
    schedule: Annealing | None = None


def choose_device(name: str) -> torch.device:
    """`auto` is a GPU where there is one.

    Raises:
        ConfigError: The device does not exist here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"device: {name!r} is not a device; use auto, cpu, cuda or cuda:N") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"device: {name} asked for, but {torch.cuda.device_count()} CUDA devices are visible")
    return device


def driver_device(name: str, ray: RaySettings) -> torch.device:
    """The device of this process: the one that is named, or a CPU where actors do the work.

    Raises:
        ConfigError: The device does not exist here, or is one for a process that works itself.
    """
    if not ray.rollout.workers:
        return choose_device(name)
    if name not in ("auto", "cpu"):
        raise ConfigError(
            f"device: {name} asked for, but with actors ray.rollout.gpus, ray.reward.gpus and ray.learner.gpus "
            "say what computes on a GPU"
        )
    return torch.device("cpu")


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


def read(place: Path | str, progress: bool = False, on_error: OnError = "refuse") -> CrystalDataset:
    """Crystals of a file or folder, or of the URL of one; those that cannot be used are refused or skipped.

    Raises:
        DataError: As `read_dataset`.
        StorageError: The URL cannot be read.
    """
    with local_copy(place) as path:
        return read_dataset(path, on_error=on_error, progress=progress)


def base_run_data(base: str | Path) -> DataSettings | None:
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


def describe_run(folder: RunFolder, config: Config, split: Split) -> None:
    """Writes what the run is made of: configuration, versions, splits.

    A resumed run keeps the versions and splits that it started with; its configuration is written anew, because
    overrides such as `iterations` go on counting when it is resumed once more.

    Raises:
        ConfigError: The run was started with another value of a key that decides what it computes.
    """
    refuse_changes(folder, config)
    write_description(folder, config, split)


def write_description(folder: RunFolder, config: Config, split: Split) -> None:
    """The same without a look at what the folder says already."""
    write_text(folder.config_path, config.resolved().to_yaml())
    if not folder.versions_path.exists():
        write_splits(folder, split)
        write_json(folder.versions_path, versions())


def refuse_changes(folder: RunFolder, config: Config) -> None:
    """Refuses to go on with a run that was started with another value of a key that decides what it computes.

    Raises:
        ConfigError: Names the key.
    """
    if not folder.config_path.exists():
        return
    old = flat(Config.load(folder.config_path).model_dump(mode="json"))
    new = flat(config.resolved().model_dump(mode="json"))
    for key in sorted(old.keys() | new.keys()):
        moved_code = key.startswith("reward.custom.") and key.endswith(".path")
        if old.get(key) != new.get(key) and not (key.startswith(MAY_CHANGE) or moved_code):
            raise ConfigError(
                f"{key}: the run was started with {old.get(key)}, not {new.get(key)}, and goes on exactly; start a new "
                f"run for that (a resumed one may change {', '.join(MAY_CHANGE)})"
            )


def tracking_of(config: Config) -> Tracking:
    """Who is sent the metrics of a run.

    Raises:
        ConfigError: The package of one is not installed.
    """
    settings = flat(config.resolved().model_dump(mode="json"))
    tracking = Tracking(tuple(config.tracking), Path(config.run).name, settings)
    tracking.require()
    return tracking


def free_run(run: Path | str) -> Path | str:
    """The run folder itself or, where it holds a run already, the first of `run-2`, `run-3`, ... that holds none.

    A URL is not looked at.
    """
    if isinstance(run, str):
        return run
    names = (run.with_name(f"{run.name}-{number}") for number in count(2))
    return next(path for path in chain([run], names) if not RunFolder(path).holds_run())


def kept(folder: RunFolder) -> str:
    """What a failed run leaves, in words."""
    last = folder.pointed_at("last")
    return (
        f"The run ends; its last checkpoint is {folder.named(folder.checkpoints / last)}"
        if last
        else "No checkpoint was written"
    )


def set_threads(threads: int | None) -> None:
    """PyTorch's CPU threads; it keeps its own choice where there is none."""
    if threads is not None:
        torch.set_num_threads(threads)


def unseen_elements(model: FlowModel, elements: Iterable[int]) -> list[str]:
    """Symbols of elements that the model's training set did not have; none where that is not known."""
    known = set(model.description.elements)
    symbols = [Element.from_Z(z).symbol for z in sorted(elements)]
    return [symbol for symbol in symbols if known and symbol not in known]


def refuse_unseen(model: FlowModel, name: str | Path, elements: Iterable[int]) -> None:
    """Refuses to generate elements whose embedding the model never trained: whatever came out would mean nothing.

    Raises:
        ModelError: Names the elements.
    """
    new = unseen_elements(model, elements)
    if new:
        raise ModelError(
            f"{name} was never trained on {', '.join(new)} and cannot generate crystals of "
            f"{'it' if len(new) == 1 else 'them'}; it knows {', '.join(model.description.elements)}. Leave the others "
            "out, or train a model on crystals that have them"
        )


def warn_unfamiliar(model: FlowModel, elements: frozenset[int], sizes: frozenset[int]) -> None:
    """Warns about elements and cell sizes that the model's training set did not have, where it is known."""
    new = unseen_elements(model, elements)
    if new:
        warnings.warn(f"elements that the model was not trained on: {', '.join(new)}", stacklevel=2)
    other = sorted(set(sizes) - set(model.description.sizes))
    if model.description.sizes and other:
        warnings.warn(f"cell sizes (atoms) that the model was not trained on: {other}", stacklevel=2)


def warn_noiseless(model: FlowModel, noise: NoiseMode, other_schedule: bool = False) -> None:
    """Warns where the policy's noise is asked of a model that has no policy, or none with another schedule."""
    if noise == "policy" and other_schedule and model.description.variant == "annealing":
        warnings.warn(
            "the model's policy is its own schedule; with another one it moves as its base does, without noise",
            stacklevel=2,
        )
    paths = model.description.paths
    if noise == "policy" and not model.description.active and not any(paths.of(field).epsilon for field in FIELDS):
        warnings.warn("a base model has no policy noise; it generates without noise", stacklevel=2)


def warn_generated_species(model: FlowModel) -> None:
    """Says what evaluations of a model that generates species leave out."""
    if model.generates_species:
        warnings.warn(
            "the model generates species, and its crystals have other compositions than the references: matches with "
            "these are not measured, and relative energies only where a composition happens to be the same",
            stacklevel=2,
        )
