"""Runs and models at URLs: storing a run, and temporary copies to read."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from omatg_ray.errors import ModelError
from omatg_ray.run.checkpoints import CHECKPOINT, CHECKPOINTS, MANIFEST, POINTERS, in_order, verify
from omatg_ray.run.storage import PREFIX, RemoteStorage, Storage

CONFIG, VERSIONS = "config.yaml", "versions.json"
POINTERS_FILE = f"{CHECKPOINTS}/pointers.json"
# Files that a run writes besides checkpoints. Anything else at its URL, such as a run below, is not its own.
OWN = re.compile(
    r"(config\.yaml|(versions|actors|timeline|tracking)\.json|metrics\.jsonl|report\.html"
    r"|tensorboard/[^/]+|evaluation/[^/]+\.json|evaluation/cases/[^/]+|(structures|data)/[^/]+\.extxyz"
    r"|schedule/(schedule\.json|weights\.safetensors))"
)
FORGOTTEN = ("tensorboard/", "evaluation/", "structures/")
"""Folders in which a resumed run removes files. Files missing elsewhere were lost, e.g. to a cleaner of TMPDIR."""

logger = logging.getLogger(__name__)


def upload(
    storage: Storage,
    folder: Path,
    checkpoints: Sequence[str],
    pointers: Mapping[str, str],
    outdated: Callable[[list[str]], list[str]],
) -> None:
    """Bring a stored run up to date with its folder, keeping an intact checkpoint stored at every moment.

    Args:
        storage: Storage of the run.
        folder: Its scratch folder.
        checkpoints: Checkpoints in the folder, oldest first.
        pointers: Targets of `best` and `last`.
        outdated: Selects the stored checkpoints to remove.

    Raises:
        StorageError: The storage cannot be reached or is not writable.
    """
    files = _files(folder)
    # Files of Weights & Biases are for its own service, which writes and removes them at any time.
    plain = [name for name in files if not name.startswith((f"{CHECKPOINTS}/", "wandb/"))]
    # The configuration first: no run can be resumed without it. The versions last: they mark its crystals as complete.
    storage.put(sorted(plain, key=lambda name: (name != CONFIG, name == VERSIONS)))
    for checkpoint in reversed(checkpoints):
        storage.put(sorted(files_of(checkpoint, files), key=lambda name: name.endswith(f"/{MANIFEST}")))
    if pointers:
        storage.write(POINTERS_FILE, json.dumps(dict(pointers)).encode())
    stored = storage.names()
    owned = storage.owned()
    for name in stored:
        if name in owned and name.startswith(FORGOTTEN) and name not in plain:
            storage.remove(name)
    for checkpoint in outdated(checkpoints_of(stored)):
        # If interrupted, the rest must not look like a checkpoint.
        storage.remove(f"{CHECKPOINTS}/{checkpoint}/{MANIFEST}")
        storage.remove(f"{CHECKPOINTS}/{checkpoint}")


@contextmanager
def fetch_model(url: str, description: str) -> Iterator[Path]:
    """Yield a copy of the model at a URL for the duration of the block: a model folder, a checkpoint, or a run's best.

    Args:
        url: URL of the folder; may also name `best` or `last` of a run's checkpoints.
        description: The file that every model folder has.

    Raises:
        ModelError: There is no model, or a file of a checkpoint has changed since it was written.
        StorageError: The URL cannot be reached.
    """
    with TemporaryDirectory(prefix=PREFIX) as folder:
        above, _, name = url.rpartition("/")
        run = above.removesuffix(f"/{CHECKPOINTS}")
        if name in POINTERS and run != above:
            chosen = read_pointers(RemoteStorage(run, folder=Path(folder))).get(name, name)
            url = f"{above}/{chosen}"
        storage = RemoteStorage(url, folder=Path(folder))
        stored = storage.names()
        if description not in stored and POINTERS_FILE in stored:
            best = read_pointers(storage).get("best", "best")
            url = f"{url}/{CHECKPOINTS}/{best}"
            storage = RemoteStorage(url, folder=Path(folder))
            stored = storage.names()
        if description not in stored:
            raise ModelError(f"{url}: no model here (a model folder holds {description})")
        storage.get(stored)
        if MANIFEST in stored:
            verify(Path(folder), url)
        yield Path(folder)


def _files(folder: Path) -> list[str]:
    """Return the files below a folder, as paths below it, without hidden files and links."""
    files = []
    for root, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        paths = (Path(root) / name for name in names if not name.startswith("."))
        files += [path.relative_to(folder).as_posix() for path in paths if not path.is_symlink()]
    return sorted(files)


def own_files(stored: Iterable[str]) -> list[str]:
    """Select the files that a run wrote, without checkpoints."""
    return [name for name in stored if OWN.fullmatch(name)]


def checkpoints_of(stored: Iterable[str]) -> list[str]:
    """Return the names of the checkpoints that some files belong to."""
    parts = (name.split("/") for name in stored)
    names = {part[1] for part in parts if part[0] == CHECKPOINTS and len(part) > 2}
    return in_order(name for name in names if CHECKPOINT.fullmatch(name))


def files_of(checkpoint: str, stored: Iterable[str]) -> list[str]:
    """Select the files that belong to a checkpoint."""
    return [name for name in stored if name.startswith(f"{CHECKPOINTS}/{checkpoint}/")]


def read_pointers(storage: Storage) -> dict[str, str]:
    """Return the targets of `best` and `last` of a run at a URL, if known."""
    try:
        targets = json.loads(storage.read(POINTERS_FILE) or b"{}")
        return {name: targets[name] for name in POINTERS if name in targets and CHECKPOINT.fullmatch(targets[name])}
    except (ValueError, TypeError):
        logger.warning("%s is damaged: the best checkpoint is unknown", storage.called(POINTERS_FILE))
        return {}
