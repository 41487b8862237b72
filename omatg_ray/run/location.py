"""Where something lies: a path, a URL, or the word `bundled`; as settings and command lines name it."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final, Literal, TypeGuard

from omatg_ray.run.home import home

URL = re.compile(r"[a-z][a-z0-9+.-]+://[^/]+", re.IGNORECASE)
VARIABLE = re.compile(r"\$(?P<brace>\{)?(?P<name>[A-Za-z_]\w*)(?(brace)\})")


Location = Path | str
"""A path, or as a string a URL or the word `bundled`."""


def is_remote(location: object) -> TypeGuard[str]:
    """Whether this is a URL. A `Path` never is."""
    return isinstance(location, str) and URL.match(location) is not None


def as_location(value: object) -> Location:
    """A path, or a URL as a string without a slash at its end.

    Raises:
        ValueError: It is neither; or as `expanded`.
    """
    if isinstance(value, str):
        value = expanded(value.removeprefix("file://"))
        if "://" in value and not is_remote(value):
            raise ValueError(f"{value} names nothing; a URL is of the form s3://bucket/path")
        return value.rstrip("/") if is_remote(value) else Path(value)
    if isinstance(value, Path):
        return value
    hint = "; what reads as a number or as true is a name with ./ before it" if isinstance(value, bool | float) else ""
    raise ValueError(f"a path or a URL, not {value!r}{hint}")


def expanded(text: str) -> str:
    """A path with the home in place of `~` or `~USER`, and values of the environment in place of `$NAME` or `${NAME}`.

    What is there under the very name that is given, such as a folder called `$x`, keeps it.

    Raises:
        ValueError: There is no such user, the user has no home, or nothing of this name is in the environment.
    """
    if text.startswith("~"):
        path = os.path.expanduser(text)
        if path.startswith("~") or (text[1:2] in ("", "/") and home() is None):
            who = text.partition("/")[0]
            raise ValueError(f"{text}: {who} has no home on this machine; a name that begins so has ./ before it")
        text = path
    names = list(VARIABLE.finditer(text))
    if not names or os.path.exists(text[: names[-1].end()] + text[names[-1].end() :].partition("/")[0]):
        return text

    def value_of(name: re.Match[str]) -> str:
        found = os.environ.get(name["name"])
        if not found:
            raise ValueError(f"{text}: {name[0]} is not set in the environment")
        return found

    return VARIABLE.sub(value_of, text)


def inside(location: Location, name: str) -> Location:
    """A file or folder below a location."""
    return f"{location}/{name}" if is_remote(location) else Path(location) / name


BUNDLED: Final = "bundled"


def is_bundled(name: object) -> TypeGuard[Literal["bundled"]]:
    """Whether this is the word. A `Path` never is, so that `./bundled`, once it is a path, stays a folder."""
    return isinstance(name, str) and name == BUNDLED


def absolute_name(name: Location) -> str:
    """What a record calls a model or a potential: the word, a URL, or a folder's absolute path (`./bundled` is one)."""
    return name if is_bundled(name) or is_remote(name) else str(Path(name).expanduser().absolute())
