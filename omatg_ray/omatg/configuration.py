"""OMatG's configuration files, read as Lightning's command line does: classes by name, with their arguments."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from omatg_ray.errors import ModelError


@dataclass(frozen=True)
class Configured:
    """A class named in a configuration: `{class_path: ..., init_args: {...}}`, or its path alone.

    Attributes:
        name: Last part of the path.
        arguments: Arguments in the file; the others have OMatG's defaults.
        where: Key in the file, for messages.
    """

    name: str
    arguments: dict[str, Any]
    where: str

    def get(self, argument: str, default: Any) -> Any:
        """Return an argument, or `default`, which should be OMatG's own."""
        return self.arguments.get(argument, default)

    def number(self, argument: str, default: float) -> float:
        """Return a numeric argument.

        Raises:
            ModelError: The value is not a number.
        """
        value = self.get(argument, default)
        try:
            # YAML reads 1e-3 as a string, because it lacks a decimal point.
            return float(value)
        except (TypeError, ValueError):
            raise ModelError(f"{self.where}.{argument} must be a number, not {value!r}") from None

    def child(self, argument: str) -> Configured:
        """Return an argument that is itself a class.

        Raises:
            ModelError: It is missing or names no class.
        """
        return read_section(self.get(argument, None), f"{self.where}.{argument}")

    def only(self, known: Iterable[str]) -> None:
        """Refuse all arguments but the known ones.

        Raises:
            ModelError: Names the first unknown one.
        """
        unknown = sorted(set(self.arguments) - set(known))
        if unknown:
            raise ModelError(f"{self.where}.{unknown[0]}: this argument of {self.name} is not supported")


def read_section(value: Any, where: str) -> Configured:
    """Read a class from its path, or from a mapping with `class_path` and `init_args`.

    Raises:
        ModelError: The value is neither, or the path leads outside OMatG.
    """
    if isinstance(value, str):
        value = {"class_path": value}
    path = value.get("class_path") if isinstance(value, dict) else None
    if not isinstance(path, str):
        raise ModelError(f"{where}: a class path is missing (found {_short(value)})")
    arguments = value.get("init_args") or {}
    if not isinstance(arguments, dict):
        raise ModelError(f"{where}.init_args must be a mapping, not {_short(arguments)}")
    package, _, name = path.rpartition(".")
    if package and package.split(".")[0] != "omg":
        raise ModelError(f"{where}: {path} is not a class of OMatG")
    return Configured(name, arguments, where)


def read_configuration(path: Path) -> dict[str, Any]:
    """Read a configuration file.

    Raises:
        ModelError: The file cannot be read or has no section `model`.
    """
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ModelError(f"{path} is not a YAML file (the checkpoint comes first, its configuration second)") from error
    except yaml.YAMLError as error:
        raise ModelError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(tree, dict) or not isinstance(tree.get("model"), dict):
        raise ModelError(f"{path} is not an OMatG configuration: it has no section `model`")
    return tree


def section(tree: dict[str, Any], key: str, where: str) -> Any:
    """Return the value of a required key.

    Raises:
        ModelError: The key is missing.
    """
    if tree.get(key) is None:
        raise ModelError(f"{where}.{key} is missing")
    return tree[key]


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
