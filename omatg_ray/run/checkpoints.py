"""Checkpoints of a run: their verification, their order, and the one that a model is read from."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from pathlib import Path

from omatg_ray.errors import ModelError
from omatg_ray.run.location import Location

CHECKPOINTS, MANIFEST = "checkpoints", "manifest.json"
POINTERS = ("best", "last")
DESCRIPTION_FILE, WEIGHTS_FILE = "model.json", "weights.safetensors"
"""Files in the folder of a model."""
CHECKPOINT = re.compile(r"[a-z]+_[0-9]+")


def model_folder(place: Path) -> Path:
    """Return the folder with the files of a model: the folder itself, or the best checkpoint of a run.

    Raises:
        ModelError: Neither holds a model.
    """
    for folder in (place, place / CHECKPOINTS / "best"):
        if (folder / DESCRIPTION_FILE).is_file():
            return folder
    raise ModelError(f"{place}: no model here (a model folder holds {DESCRIPTION_FILE} and {WEIGHTS_FILE})")


def verify(folder: Path, called: Location | None = None) -> None:
    """Check the files of a checkpoint against its manifest.

    Args:
        folder: The checkpoint.
        called: Its name in messages, if not its path.

    Raises:
        ModelError: The checkpoint or one of its files is missing, or a file has changed since it was written.
    """
    called = folder if called is None else called
    if not folder.is_dir():
        raise ModelError(f"there is no checkpoint {called}")
    try:
        entries = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"].items()
        files = {str(name): (entry["size"], entry["sha256"]) for name, entry in entries}
    except FileNotFoundError:
        raise ModelError(f"{called} is not a complete checkpoint: it has no {MANIFEST}") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{called}/{MANIFEST} is damaged; use another checkpoint") from error
    for name, (size, sha256) in files.items():
        path = folder / name
        if not path.is_file():
            raise ModelError(f"{called}/{name} is missing; use another checkpoint")
        if path.stat().st_size != size or sha256_of(path) != sha256:
            raise ModelError(
                f"{called}/{name} has changed since it was written (its {MANIFEST} differs); use another checkpoint"
            )


def is_whole(checkpoint: Path) -> bool:
    """Return whether `verify` accepts a checkpoint."""
    try:
        verify(checkpoint)
    except ModelError:
        return False
    return True


def sha256_of(path: Path) -> str:
    """Return the SHA-256 checksum of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def in_order(names: Iterable[str]) -> list[str]:
    """Sort names of checkpoints, oldest first."""
    return sorted(names, key=by_number)


def by_number(name: str) -> list[str | int]:
    """Return a key that sorts names by the numbers in them."""
    return [int(part) if index % 2 else part for index, part in enumerate(re.split(r"(\d+)", name))]
