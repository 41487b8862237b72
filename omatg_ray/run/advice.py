"""Commands that messages advise."""

from __future__ import annotations

import shlex


def command(*words: object) -> str:
    """A call of this program that a shell takes as it is printed, whatever is in the names."""
    return shlex.join(["omatg-ray", *map(str, words)])
