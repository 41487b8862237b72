"""Runs and models at URLs: what is stored of a run and brought up to date, and copies to read."""

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
# What a run writes besides checkpoints, and what it calls these. All else at its URL, such as a run below, is not its.
OWN = re.compile(
    r"(config\.yaml|(versions|actors|timeline|tracking)\.json|metrics\.jsonl|report\.html"
    r"|tensorboard/[^/]+|evaluation/[^/]+\.json|(structures|data)/[^/]+\.extxyz"
    r"|schedule/(schedule\.json|weights\.safetensors))"
)
FORGOTTEN = ("tensorboard/", "evaluation/", "structures/")
"""Where a run that goes on removes files. Anything else that is gone was taken from it, as by a cleaner of TMPDIR."""

logger = logging.getLogger(__name__)


def upload(
    storage: Storage,
    folder: Path,
    checkpoints: Sequence[str],
    pointers: Mapping[str, str],
    outdated: Callable[[list[str]], list[str]],
) -> None:
    """Brings what is stored of a run up to date with its folder, so that a whole checkpoint is there at every moment.

    Args:
        storage: Where the run is kept.
        folder: Its scratch folder.
        checkpoints: Those in there, oldest first.
        pointers: What `best` and `last` point to.
        outdated: Which of some stored checkpoints go.

    Raises:
        StorageError: It cannot be reached, or may not be written to.
    """
    files = _files(folder)
    # What Weights & Biases keeps there is for its own service, which writes and removes it at any time.
    plain = [name for name in files if not name.startswith((f"{CHECKPOINTS}/", "wandb/"))]
    # Without a configuration there is no run to go on with, and with the versions its crystals are whole.
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
        # If this is interrupted, what is left must not look like a checkpoint.
        storage.remove(f"{CHECKPOINTS}/{checkpoint}/{MANIFEST}")
        storage.remove(f"{CHECKPOINTS}/{checkpoint}")


@contextmanager
def fetched_model(url: str, description: str) -> Iterator[Path]:
    """A copy of the model at a URL for as long as the block lasts: a model folder, a checkpoint, or a run's best.

    Args:
        url: URL of the folder; `best` and `last` of a run's checkpoints are known too.
        description: The file that every model folder has.

    Raises:
        ModelError: There is no model, or a file of a checkpoint is not as it was written.
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
    """Files below a folder, as paths below it, without hidden ones; links are not followed."""
    found = []
    for root, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        paths = (Path(root) / name for name in names if not name.startswith("."))
        found += [path.relative_to(folder).as_posix() for path in paths if not path.is_symlink()]
    return sorted(found)


def own_files(stored: Iterable[str]) -> list[str]:
    """Those of some files that a run wrote, without checkpoints."""
    return [name for name in stored if OWN.fullmatch(name)]


def checkpoints_of(stored: Iterable[str]) -> list[str]:
    """Names of the checkpoints that some files belong to."""
    parts = (name.split("/") for name in stored)
    names = {part[1] for part in parts if part[0] == CHECKPOINTS and len(part) > 2}
    return in_order(name for name in names if CHECKPOINT.fullmatch(name))


def files_of(checkpoint: str, stored: Iterable[str]) -> list[str]:
    """Those of some files that belong to a checkpoint."""
    return [name for name in stored if name.startswith(f"{CHECKPOINTS}/{checkpoint}/")]


def read_pointers(storage: Storage) -> dict[str, str]:
    """Where `best` and `last` of a run at a URL point to, as far as that is known."""
    try:
        found = json.loads(storage.read(POINTERS_FILE) or b"{}")
        return {name: found[name] for name in POINTERS if name in found and CHECKPOINT.fullmatch(found[name])}
    except (ValueError, TypeError):
        logger.warning("%s is damaged: nobody knows which checkpoint was the best", storage.called(POINTERS_FILE))
        return {}
