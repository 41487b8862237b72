"""The user's home, which is sometimes missing in containers and batch systems, and the folder of caches in it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

NOWHERE = "/dev/null"
"""Stand-in for the home of a user without one: always empty, never writable."""


def name_home() -> None:
    """Set HOME if it is unknown, as for a user id without an account: libraries need one."""
    if os.path.expanduser("~") == "~":
        os.environ["HOME"] = NOWHERE


def home() -> Path | None:
    """Return the user's home, which may not exist, or None for a user without one."""
    try:
        path = Path.home()
    except RuntimeError:
        return None
    return None if path == Path(NOWHERE) else path


def cache_folder() -> Path | None:
    """Return the folder for data that can be computed or fetched again; None for a user without a home.

    It is `omatg_ray` in `XDG_CACHE_HOME`, or else in `~/.cache`.
    """
    root = os.environ.get("XDG_CACHE_HOME")
    if root:
        return Path(root) / "omatg_ray"
    own = home()
    return None if own is None else own / ".cache" / "omatg_ray"


def import_with_home(load: Callable[[], object], folder: str) -> bool:
    """Import a library that makes a folder in the home on import, in a temporary home if there is none.

    Does nothing if the library can make the folder itself.

    Args:
        load: Imports the library.
        folder: Folder that it makes in the home.

    Returns:
        Whether a temporary home was used. By then it is gone, and with it the folder.

    Raises:
        OSError: There is no folder for temporary files either.
    """
    own = os.environ.get("HOME")
    try:
        Path(os.path.expanduser("~"), folder).mkdir(parents=True, exist_ok=True)
    except OSError:
        pass
    else:
        return False
    with TemporaryDirectory(prefix="omatg_ray-") as lent:
        os.environ["HOME"] = lent
        try:
            load()
        finally:
            if own is None:
                del os.environ["HOME"]
            else:
                os.environ["HOME"] = own
    return True
