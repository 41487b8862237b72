"""Words of a command line: paths and overrides of keys, in any order."""

from __future__ import annotations

import os
from collections.abc import Iterable


def key_of(override: str) -> str:
    """Return the key that an override sets."""
    return override.partition("=")[0].strip()


def is_override(word: str) -> bool:
    """Decide whether a word sets a key rather than names a file; `lr=1e-4/config.yaml` may be a file."""
    return "=" in word and "/" not in key_of(word) and not os.path.isfile(word)


def split_words(words: Iterable[str]) -> tuple[list[str], list[str]]:
    """Separate the words of a command line into paths of files and overrides."""
    files: list[str] = []
    overrides: list[str] = []
    for word in words:
        (overrides if is_override(word) else files).append(word)
    return files, overrides
