"""The checkpoints of a run: what tells a whole one, their order, and which of them a model is read from."""

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
"""What the folder of a model holds."""
CHECKPOINT = re.compile(r"[a-z]+_[0-9]+")


def model_folder(place: Path) -> Path:
    """Where the files of a model are: in the folder itself, or in the best checkpoint of a run.

    Raises:
        ModelError: There is none.
    """
    for folder in (place, place / CHECKPOINTS / "best"):
        if (folder / DESCRIPTION_FILE).is_file():
            return folder
    raise ModelError(f"{place}: no model here (a model folder holds {DESCRIPTION_FILE} and {WEIGHTS_FILE})")


def verify(folder: Path, called: Location | None = None) -> None:
    """Check a checkpoint's files against its manifest.

    Args:
        folder: The checkpoint.
        called: What messages call it, if that is not its path.

    Raises:
        ModelError: The checkpoint or a file of it is missing, or a file is not as it was written.
    """
    called = folder if called is None else called
    if not folder.is_dir():
        raise ModelError(f"there is no checkpoint {called}")
    try:
        files = {str(name): (entry["size"], entry["sha256"]) for name, entry in _read_files(folder / MANIFEST).items()}
    except FileNotFoundError:
        raise ModelError(f"{called} is no complete checkpoint: it has no {MANIFEST}") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{called}/{MANIFEST} is damaged; use another checkpoint") from error
    for name, (size, sha256) in files.items():
        path = folder / name
        if not path.is_file():
            raise ModelError(f"{called}/{name} is missing; use another checkpoint")
        if path.stat().st_size != size or sha256_of(path) != sha256:
            raise ModelError(
                f"{called}/{name} is not as it was written (its {MANIFEST} differs); use another checkpoint"
            )


def is_whole(checkpoint: Path) -> bool:
    """Whether `verify` finds nothing."""
    try:
        verify(checkpoint)
    except ModelError:
        return False
    return True


def _read_files(manifest: Path) -> dict[str, dict[str, object]]:
    files: dict[str, dict[str, object]] = json.loads(manifest.read_text(encoding="utf-8"))["files"]
    return files


def sha256_of(path: Path) -> str:
    """The checksum of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def in_order(names: Iterable[str]) -> list[str]:
    """Names of checkpoints, oldest first."""
    return sorted(names, key=by_number)


def by_number(name: str) -> list[str | int]:
    """A key that sorts names by the numbers in them."""
    return [int(part) if index % 2 else part for index, part in enumerate(re.split(r"(\d+)", name))]
