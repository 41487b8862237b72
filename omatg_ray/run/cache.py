"""The user's folder of what can be computed or fetched again."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path | None:
    """`omatg_ray` in `XDG_CACHE_HOME`, or else in `~/.cache`; None for a user without a home."""
    root = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(root) if root else Path.home() / ".cache") / "omatg_ray"
    except RuntimeError:
        return None
