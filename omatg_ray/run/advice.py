"""Commands that messages suggest."""

from __future__ import annotations

import shlex


def command(*words: object) -> str:
    """Return a command line of this program, quoted so that a shell accepts it as printed."""
    return shlex.join(["omatg-ray", *map(str, words)])
