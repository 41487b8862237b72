"""The user's folder for data that can be computed or fetched again."""

from __future__ import annotations

import os
from pathlib import Path

from omatg_ray.run.home import home


def cache_folder() -> Path | None:
    """Return `omatg_ray` in `XDG_CACHE_HOME`, or else in `~/.cache`; None for a user without a home."""
    root = os.environ.get("XDG_CACHE_HOME")
    if root:
        return Path(root) / "omatg_ray"
    own = home()
    return None if own is None else own / ".cache" / "omatg_ray"
