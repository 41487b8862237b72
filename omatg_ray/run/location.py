"""Locations as settings and command lines name them: a path, a URL, or the name of a bundled set."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final, Literal, TypeGuard, get_args

from omatg_ray.run.home import home

URL = re.compile(r"[a-z][a-z0-9+.-]+://[^/]+", re.IGNORECASE)
VARIABLE = re.compile(r"\$(?P<brace>\{)?(?P<name>[A-Za-z_]\w*)(?(brace)\})")


Location = Path | str
"""A path, or a string with a URL or the name of a bundled set."""


def is_remote(location: object) -> TypeGuard[str]:
    """Return whether a location is a URL. A `Path` never is."""
    return isinstance(location, str) and URL.match(location) is not None


def as_location(value: object) -> Location:
    """Return a path, or a URL as a string without a trailing slash.

    Raises:
        ValueError: The value is neither; or as `expand`.
    """
    if isinstance(value, str):
        value = expand(value.removeprefix("file://"))
        if "://" in value and not is_remote(value):
            raise ValueError(f"{value} is not a valid URL; it must be of the form s3://bucket/path")
        return value.rstrip("/") if is_remote(value) else Path(value)
    if isinstance(value, Path):
        return value
    hint = "; a name that reads as a number or as true needs ./ before it" if isinstance(value, bool | float) else ""
    raise ValueError(f"a path or a URL, not {value!r}{hint}")


def expand(text: str) -> str:
    """Expand `~` or `~USER` to the home, and `$NAME` or `${NAME}` to values of the environment.

    A name that exists literally, such as a folder called `$x`, is left unchanged.

    Raises:
        ValueError: There is no such user, the user has no home, or a variable is not set in the environment.
    """
    if text.startswith("~"):
        path = os.path.expanduser(text)
        if path.startswith("~") or (text[1:2] in ("", "/") and home() is None):
            user = text.partition("/")[0]
            raise ValueError(
                f"{text}: {user} has no home on this machine; a name that begins like this needs ./ before it"
            )
        text = path
    names = list(VARIABLE.finditer(text))
    if not names or os.path.exists(text[: names[-1].end()] + text[names[-1].end() :].partition("/")[0]):
        return text

    def value_of(name: re.Match[str]) -> str:
        value = os.environ.get(name["name"])
        if not value:
            raise ValueError(f"{text}: {name[0]} is not set in the environment")
        return value

    return VARIABLE.sub(value_of, text)


def join_location(location: Location, name: str) -> Location:
    """Return the location of a file or folder below another."""
    return f"{location}/{name}" if is_remote(location) else Path(location) / name


SetName = Literal["bundled-prototypes", "bundled-periodic"]
BundledName = Literal["bundled", SetName]
BUNDLED: Final = "bundled"
PERIODIC: Final = "bundled-periodic"
PROTOTYPES: Final = "bundled-prototypes"
BUNDLED_NAMES: Final[tuple[BundledName, ...]] = get_args(BundledName)
NO_POTENTIAL: Final = "none"
"""Word in place of a potential: no energies."""


def is_bundled(name: object) -> TypeGuard[BundledName]:
    """Return whether a name is `bundled` or names a bundled set. A `Path` never does, so `./bundled` stays a folder."""
    return isinstance(name, str) and name in BUNDLED_NAMES


def meant(word: BundledName) -> SetName:
    """Return the set that a word stands for."""
    return PERIODIC if word == BUNDLED else word


def bundled_set(name: object) -> BundledName | None:
    """Return the bundled set that a name stands for, or that a name of a model belongs to (`bundled/base`)."""
    of, slash, model = name.partition("/") if isinstance(name, str) else ("", "", "")
    return of if is_bundled(of) and (not slash or model in ("base", "reinforced")) else None


def as_base(name: Location) -> Location:
    """Return the base of a bundled set for the name of the set, which elsewhere stands for its best model."""
    return f"{name}/base" if is_bundled(name) else name


def absolute_name(name: Location) -> str:
    """Return the name of a model or potential for records: the word, a URL, or a folder's absolute path."""
    return str(name) if bundled_set(name) or is_remote(name) else str(Path(name).expanduser().absolute())
