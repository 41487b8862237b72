"""Settings as users give them: a YAML file or its URL, plus `key=value` overrides."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel

from omatg_ray.errors import ConfigError
from omatg_ray.run.location import Location
from omatg_ray.run.storage import local_copy
from omatg_ray.settings import current_key, current_names
from omatg_ray.tree import parse, parse_value, set_key


def read_tree(path: Location | None, overrides: Sequence[str], model: type[BaseModel]) -> tuple[dict[str, Any], str]:
    """Return the plain values of a YAML file, with `key=value` overrides applied, and the name of their source.

    The file may be at a URL. Keys that `model` has renamed are returned under their new names.

    Raises:
        ConfigError: The file cannot be read or is not a mapping, an override is malformed, or a key is given twice.
        StorageError: A URL cannot be read.
    """
    tree: Any = {}
    if path is not None:
        try:
            with local_copy(path) as file:
                text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"cannot read config {path}: {getattr(error, 'strerror', None) or error}") from error
        try:
            tree = parse(text) or {}
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from error
        if not isinstance(tree, dict):
            raise ConfigError(f"{path} must hold a mapping of keys, not {type(tree).__name__}")
    tree = current_names(model, tree)
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"override {override!r} is not of the form key=value, e.g. rollout.groups=8")
        try:
            set_key(tree, *current_key(model, key.strip(), parse_value(value)))
        except ConfigError as error:
            raise ConfigError(f"override {override!r}: {error}") from error
    sources = [*([str(path)] if path else []), *(["overrides"] if overrides or not path else [])]
    return tree, " and ".join(sources)
