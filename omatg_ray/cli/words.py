"""Words of a command line: paths, and overrides of keys, in any order."""

from __future__ import annotations

import os
from collections.abc import Iterable


def key_of(override: str) -> str:
    """The key that an override sets."""
    return override.partition("=")[0].strip()


def is_override(word: str) -> bool:
    """Whether a word of a command line sets a key, and is not the path of a file: `lr=1e-4/config.yaml` may be one."""
    return "=" in word and "/" not in key_of(word) and not os.path.isfile(word)


def told_apart(words: Iterable[str]) -> tuple[list[str], list[str]]:
    """Paths of files, and overrides, of a command line that may hold both in any order."""
    files: list[str] = []
    overrides: list[str] = []
    for word in words:
        (overrides if is_override(word) else files).append(word)
    return files, overrides
