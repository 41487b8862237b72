"""Commands that messages suggest."""

from __future__ import annotations

import shlex


def command(*words: object) -> str:
    """Return a command line of this program, quoted so that a shell accepts it as printed."""
    return shlex.join(["omatg-ray", *map(str, words)])


def install(extra: str) -> str:
    """Return the command that installs the packages of an extra (`pyproject.toml`): in a checkout, and elsewhere."""
    return f"pip install -c constraints.txt -e '.[{extra}]' in a checkout, else pip install 'omatg-ray[{extra}]'"
