"""The folder that a run writes: its lay-out, its lock and its checkpoints.

A run folder holds `config.yaml`, `versions.json`, `metrics.jsonl`, `report.html` and the folders `tensorboard`,
`evaluation` (JSON), `structures` (extxyz) and `checkpoints`, where `best` and `last` are links to checkpoints. A run on
Ray leaves `actors.json` and `timeline.json` too.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import logging
import os
import re
import socket
from collections.abc import Callable
from pathlib import Path
from typing import IO

from omatg_ray.errors import ConfigError, ModelError
from omatg_ray.run.atomic import disk_errors, point, remove_folder, remove_leftovers, replace_folder, write_json

MANIFEST = "manifest.json"
POINTERS = ("best", "last")
CONFIG, VERSIONS, METRICS, CHECKPOINTS = "config.yaml", "versions.json", "metrics.jsonl", "checkpoints"
ACTORS, TIMELINE = "actors.json", "timeline.json"

logger = logging.getLogger(__name__)


class RunFolder:
    """Paths and checkpoints of one run. Made with `RunFolder(path)` it reads; `create` also locks it for writing.

    Args:
        path: The folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self._lock: IO[str] | None = None

    @classmethod
    def create(cls, path: Path, resume: bool) -> RunFolder:
        """Make a run folder, or open one to go on with its run, and lock it until `close` or the process ends.

        The lock keeps other processes out; a process opens a run folder once.

        Raises:
            ConfigError: The folder holds a run and `resume` is false, holds none and `resume` is true, is a file, or
                another process writes it.
            OmatgRayError: The disk is full or the folder may not be written to.
        """
        run = cls(path)
        if run.path.exists() and not run.path.is_dir():
            raise ConfigError(f"run folder {path} is a file; choose another name")
        if resume and not run.holds_run():
            raise ConfigError(f"there is no run to go on with in {path}; check the name, or start without --resume")
        with disk_errors(run.path):
            run.path.mkdir(parents=True, exist_ok=True)
            run._lock = _lock(run.path)
        if not resume and run.holds_run():
            run.close()
            raise ConfigError(f"{path} already holds a run; choose another name, or go on with that run by --resume")
        with disk_errors(run.path):
            run.checkpoints.mkdir(exist_ok=True)
            for folder in (run.path, run.checkpoints, run.structures, run.evaluation):
                remove_leftovers(folder)
        return run

    @property
    def config_path(self) -> Path:
        """The resolved configuration, as YAML."""
        return self.path / CONFIG

    @property
    def versions_path(self) -> Path:
        """What `omatg_ray.run.versions.versions` returned, as JSON."""
        return self.path / VERSIONS

    @property
    def metrics_path(self) -> Path:
        """What `omatg_ray.run.metrics.MetricsLog` writes."""
        return self.path / METRICS

    @property
    def actors_path(self) -> Path:
        """What is known of the actors of a run on Ray, as JSON: those that were there last."""
        return self.path / ACTORS

    @property
    def timeline_path(self) -> Path:
        """What the actors of a run on Ray did in the iteration before its newest checkpoint: a `Timeline`."""
        return self.path / TIMELINE

    @property
    def checkpoints(self) -> Path:
        return self.path / CHECKPOINTS

    @property
    def structures(self) -> Path:
        """Generated and reference structures, as extxyz."""
        return self.path / "structures"

    @property
    def evaluation(self) -> Path:
        """Results of evaluations, as JSON."""
        return self.path / "evaluation"

    def holds_run(self) -> bool:
        """Whether a run was started here."""
        return any((self.path / name).exists() for name in (CONFIG, METRICS)) or bool(self._names())

    def save_checkpoint(self, name: str, writer: Callable[[Path], None], keep: int) -> Path:
        """Write a checkpoint that is either complete or not there, and let `last` point to it.

        Afterwards the oldest checkpoints go, by the number in their names, until `keep` are left besides those that
        `best` and `last` point to.

        Args:
            name: Folder under `checkpoints/`, such as `iteration_000010`; higher numbers are newer.
            writer: Writes the checkpoint's files into the folder that it is given.
            keep: How many of the newest checkpoints stay, at least 1.

        Returns:
            The checkpoint's folder.

        Raises:
            OmatgRayError: The disk is full or the folder may not be written to; earlier checkpoints are untouched.
        """
        if keep < 1:
            raise ValueError(f"keep must be at least 1, not {keep}")
        folder = self.checkpoints / name
        with replace_folder(folder) as temporary:
            writer(temporary)
            files = {
                path.relative_to(temporary).as_posix(): {"size": path.stat().st_size, "sha256": _sha256(path)}
                for path in sorted(temporary.rglob("*"))
                if path.is_file()
            }
            write_json(temporary / MANIFEST, {"files": files})
        point(self.checkpoints / "last", name)
        pinned = {self.pointed_at(pointer) for pointer in POINTERS}
        for old in self._names()[:-keep]:
            if old not in pinned:
                remove_folder(self.checkpoints / old)
        return folder

    def latest_checkpoint(self) -> Path | None:
        """The newest checkpoint that is whole; damaged ones are skipped with a warning. None if there is none."""
        for name in reversed(self._names()):
            try:
                verify(self.checkpoints / name)
            except ModelError as error:
                logger.warning("skipping a damaged checkpoint: %s", error)
            else:
                return self.checkpoints / name
        return None

    def point_best(self, name: str) -> None:
        """Let `checkpoints/best` point to the checkpoint `name`.

        Raises:
            ModelError: There is no such checkpoint.
        """
        if not (self.checkpoints / name / MANIFEST).is_file():
            raise ModelError(f"no checkpoint {name} in {self.checkpoints}")
        point(self.checkpoints / "best", name)

    def pointed_at(self, pointer: str) -> str | None:
        """Name of the checkpoint that the link `best` or `last` points to, None without that link."""
        link = self.checkpoints / pointer
        return os.readlink(link) if link.is_symlink() else None

    def close(self) -> None:
        """Release the lock."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _names(self) -> list[str]:
        if not self.checkpoints.is_dir():
            return []
        folders = (path for path in self.checkpoints.iterdir() if path.is_dir() and not path.is_symlink())
        return sorted((path.name for path in folders if not path.name.startswith(".")), key=_by_number)


def verify(folder: Path) -> None:
    """Check a checkpoint's files against its manifest.

    Raises:
        ModelError: The checkpoint or a file of it is missing, or a file is not as it was written.
    """
    if not folder.is_dir():
        raise ModelError(f"there is no checkpoint {folder}")
    manifest = folder / MANIFEST
    try:
        files = {str(name): (entry["size"], entry["sha256"]) for name, entry in _read_files(manifest).items()}
    except FileNotFoundError:
        raise ModelError(f"{folder} is no complete checkpoint: it has no {MANIFEST}") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{manifest} is damaged; use another checkpoint") from error
    for name, (size, sha256) in files.items():
        path = folder / name
        if not path.is_file():
            raise ModelError(f"{path} is missing; use another checkpoint")
        if path.stat().st_size != size or _sha256(path) != sha256:
            raise ModelError(f"{path} is not as it was written (its {MANIFEST} differs); use another checkpoint")


def _read_files(manifest: Path) -> dict[str, dict[str, object]]:
    files: dict[str, dict[str, object]] = json.loads(manifest.read_text(encoding="utf-8"))["files"]
    return files


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _by_number(name: str) -> list[str | int]:
    return [int(part) if index % 2 else part for index, part in enumerate(re.split(r"(\d+)", name))]


def _lock(folder: Path) -> IO[str]:
    # lockf and not flock: a process forked from the writer must not keep the lock when the writer is gone
    file = open(folder / ".lock", "a+", encoding="utf-8")  # noqa: SIM115 - open as long as the lock is held
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            file.seek(0)
            owner = file.read().strip() or "another process"
            file.close()
            raise ConfigError(f"{folder} is being written by {owner}; wait for it or choose another name") from None
        logger.warning("%s cannot be locked (%s): let no second process write it", folder, error.strerror)
        return file
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}")
    file.flush()
    return file
