"""The folder of a run: its layout, its lock and its checkpoints.

A run folder holds `config.yaml`, `versions.json`, `metrics.jsonl`, `report.html` and the folders `tensorboard`,
`evaluation` (JSON), `structures` (extxyz) and `checkpoints`, where `best` and `last` are links to checkpoints. A run on
Ray also leaves `actors.json` and `timeline.json`. URLs have no links: there `checkpoints/pointers.json` holds the
names.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO

from omatg_ray.errors import ConfigError, ModelError, StorageError
from omatg_ray.run.advice import command
from omatg_ray.run.atomic import disk_errors, point, remove_folder, remove_leftovers, replace_folder, write_json
from omatg_ray.run.checkpoints import CHECKPOINTS, MANIFEST, POINTERS, by_number, in_order, is_whole, sha256_of, verify
from omatg_ray.run.interrupt import Interrupted
from omatg_ray.run.location import Location
from omatg_ray.run.lock import lock, writer
from omatg_ray.run.storage import Storage, storage_of
from omatg_ray.run.sync import CONFIG, VERSIONS, checkpoints_of, files_of, own_files, read_pointers, upload
from omatg_ray.tree import override

METRICS = "metrics.jsonl"
WRITER_FILE = ".writer"
ACTORS, TIMELINE = "actors.json", "timeline.json"

SHOWN = 3
"""Number of files that a message names."""

logger = logging.getLogger(__name__)


class RunFolder:
    """Paths and checkpoints of one run. `RunFolder(path)` only reads; `create` also locks the folder for writing.

    Args:
        path: The folder.
        storage: Storage of the run, if not the folder itself.

    Attributes:
        config_path: The resolved configuration, as YAML.
        versions_path: Result of `omatg_ray.run.versions.versions`, as JSON.
        metrics_path: The log that `omatg_ray.run.metrics.MetricsLog` writes.
        actors_path: Last known actors of a run on Ray, as JSON.
        timeline_path: `Timeline` of the actors of a run on Ray, in the iteration before its newest checkpoint.
        checkpoints: Folder of the checkpoints.
        structures: Generated and reference structures, as extxyz.
        schedule: The schedule that the best checkpoint learned: `schedule.json` and its weights.
        evaluation: Results of evaluations, as JSON.
    """

    def __init__(self, path: Path, storage: Storage | None = None) -> None:
        self.path = path = Path(path)
        self.config_path, self.versions_path, self.metrics_path = path / CONFIG, path / VERSIONS, path / METRICS
        self.actors_path, self.timeline_path = path / ACTORS, path / TIMELINE
        self.checkpoints, self.structures = path / CHECKPOINTS, path / "structures"
        self.schedule, self.evaluation = path / "schedule", path / "evaluation"
        self.storage = Storage(self.path) if storage is None else storage
        self._lock: IO[str] | None = None
        self._keep: int | None = None
        self._behind = False

    @classmethod
    def create(cls, place: Location, resume: bool | Path) -> RunFolder:
        """Make a run folder, or open one to resume its run, and lock it until `close` or the end of the process.

        The lock keeps out other processes, but not this one: open a run folder only once per process. A run at a URL is
        worked on in a scratch folder, and nothing is locked at the URL. Use the result in a `with` statement, which
        stores the run at its end.

        Args:
            place: Folder or URL.
            resume: Whether to resume the run there. For a URL, also the scratch folder that an earlier process could
                not store.

        Raises:
            ConfigError: The folder holds a run and `resume` is false, holds none and `resume` is true, or is a file; or
                the URL of a new run is not empty.
            InUseError: Another process is writing to the folder.
            StorageError: The URL cannot be reached or is not writable.
            DiskError: The disk is full or the folder is not writable.
        """
        scratch = resume if isinstance(resume, Path) else None
        storage = storage_of(place, "run", scratch)
        try:
            return cls._open(storage, bool(resume), bring=scratch is None)
        except BaseException:
            if scratch is None:
                storage.leave()
            raise

    @classmethod
    def _open(cls, storage: Storage, resume: bool, bring: bool) -> RunFolder:
        run, location, stored = cls(storage.folder, storage), storage.called(), storage.names(hidden=not resume)
        if run.path.exists() and not run.path.is_dir():
            raise ConfigError(f"run folder {location} is a file; choose another name")
        if resume:
            storage.adopt(own_files(stored))
        if resume and bring:
            run._bring(stored)
        if resume and not run.holds_run():
            raise ConfigError(f"there is no run to resume in {location}; check the name, or start without --resume")
        run._lock = lock(run.path)
        if not resume and (
            run.holds_run() or any(name.split("/")[0] in (CONFIG, METRICS, CHECKPOINTS) for name in stored)
        ):
            run.close()
            raise taken_error(location)
        # The writer file alone is no obstacle: a process that was killed before it began left it.
        others = [] if resume else [name for name in stored if name != WRITER_FILE]
        if others:
            run.close()
            some = ", ".join(others[:SHOWN]) + (f" and {len(others) - SHOWN} more" if len(others) > SHOWN else "")
            raise ConfigError(f"run: {location} is not empty, it holds {some}; choose an unused name")
        with disk_errors(run.path):
            run.checkpoints.mkdir(exist_ok=True)
            for folder in (run.path, run.checkpoints, run.structures, run.evaluation):
                remove_leftovers(folder)
        # Fail now, not after the first iteration, if the storage is not writable.
        storage.write(WRITER_FILE, writer().encode())
        return run

    def holds_run(self) -> bool:
        """Return whether a run was started here."""
        return any((self.path / name).exists() for name in (CONFIG, METRICS)) or bool(self._names())

    def save_checkpoint(self, name: str, writer: Callable[[Path], None], keep: int) -> Path:
        """Write a checkpoint, completely or not at all, and point `last` to it.

        Then remove old checkpoints: only the `keep` newest, by the number in their names, and those that `best` and
        `last` point to stay.

        Args:
            name: Folder under `checkpoints/`, such as `iteration_000010`; higher numbers are newer.
            writer: Writes the checkpoint's files into the folder it is given.
            keep: Number of newest checkpoints to keep, at least 1.

        Returns:
            The checkpoint's folder.

        Raises:
            ValueError: `keep` is less than 1.
            DiskError: The disk is full or the folder is not writable; earlier checkpoints are untouched.
        """
        if keep < 1:
            raise ValueError(f"keep must be at least 1, not {keep}")
        folder = self.checkpoints / name
        with replace_folder(folder) as temporary:
            writer(temporary)
            files = {
                path.relative_to(temporary).as_posix(): {"size": path.stat().st_size, "sha256": sha256_of(path)}
                for path in sorted(temporary.rglob("*"))
                if path.is_file()
            }
            write_json(temporary / MANIFEST, {"files": files})
        point(self.checkpoints / "last", name)
        self._keep = keep
        for old in self._outdated(self._names()):
            remove_folder(self.checkpoints / old)
        return folder

    def store(self) -> None:
        """Bring a run at a URL up to date with its scratch folder. Does nothing for other runs.

        The manifest of a checkpoint is stored after its files, and `best` and `last` after all checkpoints. Only then
        are old checkpoints removed. A failure is a warning; the next call stores what is missing.
        """
        try:
            self._store()
        except StorageError as error:
            logger.warning("%s; the run continues in %s and will be stored at its next checkpoint", error, self.path)

    def latest_checkpoint(self) -> Path | None:
        """Return the newest intact checkpoint, skipping damaged ones with a warning; None if there is none at all.

        A stored checkpoint without a manifest does not count: a process was killed while storing or removing it.

        Raises:
            ModelError: There are checkpoints, but none is intact.
            StorageError: The URL of the run cannot be reached.
        """
        names: list[str] = []
        for folder in self._candidates():
            names.insert(0, folder.name)
            try:
                verify(folder, self.named(folder))
            except ModelError as error:
                logger.warning("skipping a damaged checkpoint: %s", error)
            else:
                return folder
        if names:
            raise ModelError(
                f"none of the checkpoints in {self.named(self.checkpoints)} is intact ({', '.join(names)}), so "
                "this run cannot be resumed; start a new one"
            )
        return None

    def point_best(self, name: str) -> None:
        """Point `checkpoints/best` to the checkpoint `name`.

        Raises:
            ModelError: There is no such checkpoint.
        """
        if not (self.checkpoints / name / MANIFEST).is_file():
            raise ModelError(f"no checkpoint {name} in {self.checkpoints}")
        point(self.checkpoints / "best", name)

    def mend_pointers(self, latest: Path, is_best: Callable[[Path], bool]) -> None:
        """Point `last` to the checkpoint that a run resumes from, and `best` to an intact one.

        If `best` is lost, it becomes the newest checkpoint up to `latest` that was the best when it was written, or
        else `latest`, with a warning.

        Args:
            latest: Result of `latest_checkpoint`.
            is_best: Tells whether a checkpoint was the best when it was written.

        Raises:
            StorageError: The URL of the run cannot be reached.
        """
        if self.pointed_at("last") != latest.name:
            point(self.checkpoints / "last", latest.name)
        best = self.pointed_at("best")
        if best is not None and is_whole(self.checkpoints / best):
            return
        older = (path for path in self._candidates() if by_number(path.name) <= by_number(latest.name))
        chosen = next((path.name for path in older if is_whole(path) and is_best(path)), None)
        self.point_best(latest.name if chosen is None else chosen)
        what = f"{latest.name}, the last" if chosen is None else f"{chosen}, the newest that was the best when written"
        logger.warning("%s was lost; it is now %s", self.named(self.checkpoints / "best"), what)

    def forget_checkpoints(self, goes: Callable[[str], bool]) -> None:
        """Remove the checkpoints whose names `goes` selects, and the pointers to them."""
        names = [name for name in self._names() if goes(name)]
        for pointer in POINTERS:
            if self.pointed_at(pointer) in names:
                (self.checkpoints / pointer).unlink()
        for name in names:
            remove_folder(self.checkpoints / name)

    def pointed_at(self, pointer: str) -> str | None:
        """Return the name of the checkpoint that the link `best` or `last` points to, or None without that link."""
        link = self.checkpoints / pointer
        return os.readlink(link) if link.is_symlink() else None

    def close(self) -> None:
        """Release the lock."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def named(self, path: Path) -> Location:
        """Return the name of a file or folder of the run for users: a path or a URL."""
        return self.storage.called(path.relative_to(self.path).as_posix())

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Release the lock, store the run unless it was stopped at once, and remove a scratch folder.

        Raises:
            StorageError: The run cannot be stored, and nothing else went wrong. The message names the scratch folder,
                which stays.
        """
        self.close()
        failure: StorageError | None = None
        if not isinstance(error, KeyboardInterrupt):
            try:
                self._store()
            except StorageError as problem:
                failure = problem
        if failure is None and not self._behind:
            self.storage.leave()
            return
        location, rest = self.storage.called(), f"The missing files are kept in {self.path}"
        message = f"{location} is not up to date: {failure or 'stopped before it was stored'}. {rest}; store them by: "
        message += command(self._verb(), "--resume", self.path, override("run", location))
        if error is None or isinstance(error, Interrupted):
            raise StorageError(message) from failure
        logger.error("%s", message)

    def _verb(self) -> str:
        """Return the command that resumes the run, judging by the names of its checkpoints."""
        return "pretrain" if any(name.startswith("epoch") for name in self._names()) else "train"

    def _names(self) -> list[str]:
        if not self.checkpoints.is_dir():
            return []
        folders = (path for path in self.checkpoints.iterdir() if path.is_dir() and not path.is_symlink())
        return in_order(path.name for path in folders if not path.name.startswith("."))

    def _candidates(self) -> Iterator[Path]:
        """Yield the checkpoints, newest first, fetching each on demand; warn of incomplete ones."""
        stored, here = self.storage.names(), self._names()
        for name in reversed(in_order({*here, *checkpoints_of(stored)})):
            folder = self.checkpoints / name
            if name not in here and f"{CHECKPOINTS}/{name}/{MANIFEST}" not in stored:
                logger.warning("%s is not a complete checkpoint: it has no %s", self.named(folder), MANIFEST)
                continue
            self._bring_checkpoint(name, stored)
            yield folder

    def _outdated(self, names: list[str]) -> list[str]:
        """Return the checkpoints to be removed among some."""
        pinned = {self.pointed_at(pointer) for pointer in POINTERS}
        return [] if self._keep is None else [name for name in names[: -self._keep] if name not in pinned]

    def _store(self) -> None:
        self._behind = True
        pointers = {pointer: name for pointer in POINTERS if (name := self.pointed_at(pointer)) is not None}
        upload(self.storage, self.path, self._names(), pointers, self._outdated)
        self._behind = False

    def _bring(self, stored: list[str], with_best: bool = True) -> None:
        """Fetch a stored run into a new scratch folder; of its checkpoints only the best, and that `with_best`."""
        self.storage.get(own_files(stored))
        for pointer, name in read_pointers(self.storage).items():
            self.checkpoints.mkdir(exist_ok=True)
            point(self.checkpoints / pointer, name)
        best = self.pointed_at("best")
        if best is not None and with_best:
            self._bring_checkpoint(best, stored)

    def _bring_checkpoint(self, name: str, stored: list[str]) -> None:
        if not (self.checkpoints / name).is_dir():
            self.storage.get(files_of(name, stored))


@contextmanager
def copy_run(url: str) -> Iterator[RunFolder]:
    """Yield a copy of the run at a URL, without its checkpoints, to read within the block. Stores nothing.

    Raises:
        ConfigError: There is no run at the URL.
        StorageError: The URL cannot be reached.
    """
    storage = storage_of(url)
    try:
        run = RunFolder(storage.folder, storage)
        run._bring(storage.names(), with_best=False)
        if not run.holds_run():
            raise ConfigError(f"there is no run in {url} to report on")
        yield run
    finally:
        storage.leave()


def taken_error(place: Location) -> ConfigError:
    """Return the error that a folder already holds a run."""
    return ConfigError(f"{place} already holds a run; choose another name, or resume that run with --resume")
