"""OMatG's published models: fetched from the Hugging Face hub, imported once, and kept in a cache folder.

A model is a folder in a repository of the organisation OMatG, with `checkpoint.ckpt` and `train.yaml`:
OMatG/MP-20-CSP/Trig-SDE-Gamma is the folder Trig-SDE-Gamma of https://huggingface.co/OMatG/MP-20-CSP.
"""

from __future__ import annotations

import logging
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from omatg_ray.errors import ModelError
from omatg_ray.run.atomic import replace_folder
from omatg_ray.run.cache import cache_folder
from omatg_ray.run.checkpoints import DESCRIPTION_FILE

logger = logging.getLogger(__name__)

CHECKPOINT_FILE, CONFIG_FILE = "checkpoint.ckpt", "train.yaml"
IMPORT_FORMAT = 1
"""Goes up when the same files give another model than before, so that models imported earlier are not taken for it."""
HUB_NAME = re.compile(r"(OMatG/[\w.-]+)/([\w.-]+)")


def is_hub_name(name: str | Path) -> bool:
    """Whether this names a published model: OMatG/REPOSITORY/FOLDER, and no such folder exists here."""
    return HUB_NAME.fullmatch(str(name)) is not None and not Path(name).exists()


def fetch(name: str | Path) -> Path:
    """The folder of a published model, imported.

    What was fetched before is not fetched again, and also found without a network.

    Raises:
        ModelError: The hub cannot be reached, has no such model, the model cannot be imported, or there is no folder
            to keep it in.
    """
    match = HUB_NAME.fullmatch(str(name))
    if match is None:
        raise ModelError(f"{name} is no name of a published model, OMatG/REPOSITORY/FOLDER")
    repository, folder = match[1], match[2]
    cache = cache_folder()
    if cache is None:
        raise ModelError(f"{name} has no folder to be kept in: there is no home folder; set XDG_CACHE_HOME to one")
    files = _snapshot(repository, folder) / folder
    checkpoint, config = files / CHECKPOINT_FILE, files / CONFIG_FILE
    missing = [file.name for file in (checkpoint, config) if not file.is_file()]
    if missing:
        raise ModelError(
            f"{name}: the repository {repository} on the hub has no {folder}/{missing[0]}; "
            f"https://huggingface.co/{repository}/tree/main lists its models"
        )
    # The snapshot's folder is called by its commit. Another version of this package may import it differently.
    place = cache / repository / folder / f"{files.parent.name[:12]}-{_own_version()}-{IMPORT_FORMAT}"
    if not (place / DESCRIPTION_FILE).is_file():
        # Training crystals that happen to lie here are no part of what the name says.
        from omatg_ray.omatg.read import import_omatg

        imported = import_omatg(checkpoint, config, find_data=False)
        with replace_folder(place) as aside:
            imported.model.save(aside)
        for note in imported.notes:
            logger.warning("%s: %s", name, note)
    return place


def _snapshot(repository: str, folder: str) -> Path:
    from huggingface_hub import snapshot_download

    wanted = [f"{folder}/{file}" for file in (CHECKPOINT_FILE, CONFIG_FILE)]
    try:
        return Path(snapshot_download(repository, allow_patterns=wanted))
    except Exception as error:  # the hub's client lets through many kinds: its own, those of HTTP, of sockets, of files
        reason = str(error).strip().splitlines()
        raise ModelError(
            f"{repository}/{folder}: there is no such folder here, and {repository} cannot be fetched from the hub "
            f"({reason[0] if reason else type(error).__name__}). Without a network, fetch {CHECKPOINT_FILE} and "
            f"{CONFIG_FILE} elsewhere and use `omatg-ray import-omatg`"
        ) from error


def _own_version() -> str:
    try:
        return version("omatg-ray")
    except PackageNotFoundError:
        return "source"
