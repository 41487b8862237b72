"""Records of the inputs of results, so that results of other inputs are never reused."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from omatg_ray.model.flow_model import DESCRIPTION_FILE, WEIGHTS_FILE
from omatg_ray.run.atomic import write_json


def fingerprint(*paths: Path) -> str:
    """Return a short hash of the contents of files."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def of_model(folder: Path) -> str:
    """Return the fingerprint of a sampler: a model folder, or the best checkpoint of a run folder."""
    if not (folder / WEIGHTS_FILE).is_file():
        folder = folder / "checkpoints" / "best"
    return fingerprint(folder / WEIGHTS_FILE, folder / DESCRIPTION_FILE)


def require_same(path: Path, inputs: dict[str, Any]) -> None:
    """Record the inputs of the results beside `path`, or compare them with an earlier record.

    Raises:
        SystemExit: The results have other inputs; names them.
    """
    if path.exists():
        before = json.loads(path.read_text(encoding="utf-8"))
        other = [key for key in inputs if before.get(key) != inputs[key]]
        if other:
            raise SystemExit(
                f"{path.parent} holds results of another {', '.join(other)} ({before.get(other[0])} instead of "
                f"{inputs[other[0]]}): name another folder, or remove it"
            )
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, inputs)
