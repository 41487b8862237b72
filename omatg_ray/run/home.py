"""The user's home, which containers and batch systems do not always have."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

NOWHERE = "/dev/null"
"""Stands for the home of a user without one: nothing is ever in it, and nothing can be written there."""


def name_home() -> None:
    """Sets HOME where nobody knows it, as of a user id without an account: libraries only work where there is one."""
    if os.path.expanduser("~") == "~":
        os.environ["HOME"] = NOWHERE


def home() -> Path | None:
    """The user's home, which may not exist; None for a user without one."""
    try:
        found = Path.home()
    except RuntimeError:
        return None
    return None if found == Path(NOWHERE) else found


def import_with_home(load: Callable[[], object], folder: str) -> bool:
    """Imports a library that makes a folder in the home when it is imported, with a home on loan where there is none.

    Nothing is imported where the library can do this by itself.

    Args:
        load: Imports the library.
        folder: What it makes in the home.

    Returns:
        Whether a home was lent, which is gone by now, and with it the folder.

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
