"""What several verbs share: parsers of values, the options of a run, and words: paths or overrides of keys."""

from __future__ import annotations

import argparse
import math
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path

from omatg_ray.run.location import Location, as_location, expand


def number(kind: type[int] | type[float], low: float, above: bool = False) -> Callable[[str], int | float]:
    """Return a parser of finite numbers of at least `low`, or above it."""

    def parse(text: str) -> int | float:
        try:
            value = kind(text)
        except ValueError:
            value = kind(low) - 1
        if not (value > low if above else value >= low) or value == math.inf:
            what = "an integer" if kind is int else "a number"
            bound = f"above {low:g}" if above else f"of at least {low:g}"
            raise argparse.ArgumentTypeError(f"{text!r} is not {what} {bound}")
        return value

    return parse


def numbers(text: str) -> list[int]:
    """Parse numbers of grid points, separated by commas."""
    parse = number(int, 2)
    return [int(parse(part)) for part in text.split(",")]


def weights(text: str) -> tuple[float, ...]:
    """Parse weights separated by commas, each as often as the number after its colon says: 2:3,-1 is 2,2,2,-1."""
    values: list[float] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*([-+]?(?:\d+\.?\d*|\.\d+))\s*(?::\s*([1-9]\d{0,2})\s*)?", part, flags=re.ASCII)
        if match is None:
            raise argparse.ArgumentTypeError(
                f"{part!r} is not a weight; write numbers as 0,3, or 2:3,-1 for three in four of 2 and one of -1"
            )
        values += [float(match[1])] * int(match[2] or 1)
    return tuple(values)


def path_or_word(text: str) -> str:
    """Parse a path, or a word for something bundled or to be fetched."""
    try:
        return expand(text.removeprefix("file://"))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def local_path(text: str) -> Path:
    """Parse a path."""
    return Path(path_or_word(text))


def location(text: str) -> Location:
    """Parse a path or a URL."""
    try:
        return as_location(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def on_error_argument(sub: argparse.ArgumentParser, what: str) -> None:
    """Add the option of verbs that read crystals."""
    sub.add_argument(
        "--on-error",
        choices=("refuse", "skip"),
        default="refuse",
        help=f"unusable {what}: refuse the file and list them (default), or skip them and say how many",
    )


def run_arguments(sub: argparse.ArgumentParser) -> None:
    """Add the options of the verbs that start or resume a run."""
    sub.add_argument("words", nargs="*", metavar="CONFIG | key=value", help="a YAML file, then overrides")
    which = sub.add_mutually_exclusive_group()
    which.add_argument(
        "--resume", type=location, metavar="RUN", help="resume the run in this folder or at this URL, exactly"
    )
    which.add_argument(
        "--continue",
        dest="start_or_resume",
        action="store_true",
        help="start the run named by run=, or resume it if it exists already: for jobs that are retried",
    )
    sub.add_argument("--quiet", action="store_true", help="no progress")
    sub.add_argument("--dry-run", action="store_true", help="print what would run, with time and memory; write nothing")


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


def formula_arguments(what: argparse._MutuallyExclusiveGroup) -> None:
    """Add the options that name formulas to others of which one is required."""
    what.add_argument("--formula", nargs="+", metavar="FORMULA", help="one or more formulas, e.g. TiO2")
    what.add_argument("--formulas", type=local_path, metavar="FILE", help="file with one formula per line")
