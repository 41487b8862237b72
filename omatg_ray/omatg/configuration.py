"""OMatG's configuration files, as Lightning's command line reads them: classes by name, with their arguments."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from omatg_ray.errors import ModelError


@dataclass(frozen=True)
class Configured:
    """A class that a configuration names: `{class_path: ..., init_args: {...}}`, or its path alone.

    Attributes:
        name: Last part of the path.
        arguments: What is given; the rest has the defaults of OMatG.
        where: Key in the file, for messages.
    """

    name: str
    arguments: dict[str, Any]
    where: str

    def get(self, argument: str, default: Any) -> Any:
        """An argument, or the default of OMatG."""
        return self.arguments.get(argument, default)

    def number(self, argument: str, default: float) -> float:
        """An argument that is a number.

        Raises:
            ModelError: It is none.
        """
        value = self.get(argument, default)
        try:
            # YAML reads 1e-3, which lacks a point, as a text.
            return float(value)
        except (TypeError, ValueError):
            raise ModelError(f"{self.where}.{argument} must be a number, not {value!r}") from None

    def child(self, argument: str) -> Configured:
        """An argument that is itself a class.

        Raises:
            ModelError: It is missing or names no class.
        """
        return configured(self.get(argument, None), f"{self.where}.{argument}")

    def only(self, known: Iterable[str]) -> None:
        """Refuses arguments beyond those that are understood.

        Raises:
            ModelError: Names the first other one.
        """
        unknown = sorted(set(self.arguments) - set(known))
        if unknown:
            raise ModelError(f"{self.where}.{unknown[0]}: {self.name} has no argument of this name that is understood")


def configured(value: Any, where: str) -> Configured:
    """A class from its path, or from a mapping with `class_path` and `init_args`.

    Raises:
        ModelError: It is neither, or the path leads outside of OMatG.
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
        raise ModelError(f"{where}: {path} is no class of OMatG")
    return Configured(name, arguments, where)


def read_configuration(path: Path) -> dict[str, Any]:
    """A configuration file.

    Raises:
        ModelError: It cannot be read or has no section `model`.
    """
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ModelError(f"{path} is no YAML file (a checkpoint comes first, its configuration second)") from error
    except yaml.YAMLError as error:
        raise ModelError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(tree, dict) or not isinstance(tree.get("model"), dict):
        raise ModelError(f"{path} is no configuration of OMatG: it has no section `model`")
    return tree


def section(tree: dict[str, Any], key: str, where: str) -> Any:
    """A key that must be there.

    Raises:
        ModelError: It is missing.
    """
    if tree.get(key) is None:
        raise ModelError(f"{where}.{key} is missing")
    return tree[key]


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
