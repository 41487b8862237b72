"""OMatG's published models: fetched from the Hugging Face hub, imported once, and cached.

A model is a folder in a repository of the organisation OMatG, with `checkpoint.ckpt` and `train.yaml`:
OMatG/MP-20-CSP/Trig-SDE-Gamma is the folder Trig-SDE-Gamma of https://huggingface.co/OMatG/MP-20-CSP.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path

from omatg_ray.errors import ModelError
from omatg_ray.run.atomic import replace_folder
from omatg_ray.run.checkpoints import DESCRIPTION_FILE
from omatg_ray.run.home import cache_folder
from omatg_ray.run.versions import installed

logger = logging.getLogger(__name__)

CHECKPOINT_FILE, CONFIG_FILE = "checkpoint.ckpt", "train.yaml"
"""File names in OMatG's published models."""
IMPORT_FORMAT = 1
"""Increase it when the same files give a different model than before, so that older imports are not reused."""
HUB_NAME = re.compile(r"(OMatG/[\w.-]+)/([\w.-]+)")


def is_hub_name(name: str | Path) -> bool:
    """Return whether a name is that of a published model, OMatG/REPOSITORY/FOLDER, and not of a local path."""
    return HUB_NAME.fullmatch(str(name)) is not None and not Path(name).exists()


def fetch(name: str | Path) -> Path:
    """Import a published model and return its folder.

    Files fetched before are not fetched again, and are found without a network.

    Raises:
        ModelError: The name is malformed, the hub cannot be reached or has no such model, the model cannot be imported,
            or there is no cache folder.
    """
    match = HUB_NAME.fullmatch(str(name))
    if match is None:
        raise ModelError(f"{name} is not the name of a published model, OMatG/REPOSITORY/FOLDER")
    repository, folder = match[1], match[2]
    cache = cache_folder()
    if cache is None:
        raise ModelError(
            f"there is no folder to cache {name} in, as there is no home folder; set XDG_CACHE_HOME to a folder"
        )
    files = _snapshot(repository, folder) / folder
    checkpoint, config = files / CHECKPOINT_FILE, files / CONFIG_FILE
    missing = [file.name for file in (checkpoint, config) if not file.is_file()]
    if missing:
        raise ModelError(
            f"{name}: the repository {repository} on the hub has no {folder}/{missing[0]}; "
            f"https://huggingface.co/{repository}/tree/main lists its models"
        )
    # The snapshot's folder is named after its commit. Other versions of this package may import it differently.
    own = installed(["omatg-ray"]).get("omatg-ray", "source")
    target = cache / repository / folder / f"{files.parent.name[:12]}-{own}-{IMPORT_FORMAT}"
    if not (target / DESCRIPTION_FILE).is_file():
        # The result must not depend on training crystals that happen to lie in the working directory.
        from omatg_ray.omatg.read import import_omatg

        imported = import_omatg(checkpoint, config, find_data=False)
        with replace_folder(target) as aside:
            imported.model.save(aside)
        for note in imported.notes:
            logger.warning("%s: %s", name, note)
    return target


def _snapshot(repository: str, folder: str) -> Path:
    from huggingface_hub import snapshot_download

    patterns = [f"{folder}/{file}" for file in (CHECKPOINT_FILE, CONFIG_FILE)]
    try:
        return Path(snapshot_download(repository, allow_patterns=patterns))
    except Exception as error:  # the hub's client raises many kinds: its own, HTTP, socket and file errors
        reason = str(error).strip().splitlines()
        raise ModelError(
            f"{repository}/{folder}: there is no such folder here, and {repository} cannot be fetched from the hub "
            f"({reason[0] if reason else type(error).__name__}). Without a network, fetch {CHECKPOINT_FILE} and "
            f"{CONFIG_FILE} elsewhere and use `omatg-ray import-omatg`"
        ) from error
