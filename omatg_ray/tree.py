"""Plain values of settings as text: reading YAML without surprises, `key=value` overrides, writing YAML.

Unquoted words mean what YAML 1.2 says: `no`, `2026-11-28`, `12:30` and `010` stay text. The type of the key then
decides their meaning, so a number may have a leading zero and a folder may be called 001.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from omatg_ray.errors import ConfigError

MERGE = "tag:yaml.org,2002:merge"
PLAIN = {
    "tag:yaml.org,2002:bool": (r"true|True|TRUE|false|False|FALSE", "tTfF"),
    "tag:yaml.org,2002:int": (r"-?(0|[1-9][0-9]*)", "-0123456789"),
    "tag:yaml.org,2002:float": (
        r"[-+]?([0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+.0123456789",
    ),
    "tag:yaml.org,2002:null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    MERGE: (r"<<", "<"),
}
"""Patterns of unquoted words that are not text, and the characters they begin with."""


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers = {}  # noqa: RUF012 - PyYAML's way to give a class resolvers of its own

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        lines: dict[str, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == MERGE:
                continue
            line = key.start_mark.line + 1
            if key.value in lines:
                where = f"in lines {lines[key.value]} and {line}" if line > lines[key.value] else f"in line {line}"
                raise ConfigError(
                    f"the key {key.value} is there twice, {where}; leave one out, or the first would be lost"
                )
            lines[key.value] = line
        return node


class _Dumper(yaml.SafeDumper):
    """A dumper that quotes text which YAML 1.1 or 1.2 would read as something else."""


for _tag, (_pattern, _first) in PLAIN.items():
    _Loader.add_implicit_resolver(_tag, re.compile(rf"^({_pattern})$"), list(_first))
_float, _digits = PLAIN["tag:yaml.org,2002:float"]
_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(rf"^({_float})$"), list(_digits))


def parse(text: str) -> Any:
    """Return the plain values of a YAML document.

    Raises:
        ConfigError: The text is not valid YAML, or a mapping has a key twice; the message says where.
    """
    return _read_yaml(text, lambda loader: loader.get_single_data())


def parse_value(text: str) -> Any:
    """Return the value of an override: YAML without comments, so that names may contain a #.

    Raises:
        ConfigError: As `parse`; or something follows the value.
    """

    def read(loader: _Loader) -> Any:
        node = loader.get_single_node()
        if node is None:
            return text.strip() or None
        rest = text[node.end_mark.index :].strip()
        if rest.startswith("#"):
            if isinstance(node, yaml.ScalarNode) and node.style is None:
                return text.strip()
            raise ConfigError(f"{rest!r} follows the value; leave it out, or quote the whole value")
        return loader.construct_document(node)

    return _read_yaml(text, read)


def _read_yaml(text: str, read: Callable[[_Loader], Any]) -> Any:
    try:
        loader = _Loader(text)
        try:
            return read(loader)
        finally:
            loader.dispose()
    except (yaml.YAMLError, ValueError, AttributeError) as error:  # the last two: a value does not fit its tag
        raise ConfigError(f"not valid YAML: {error}") from error


def dump(tree: Any, flow: bool = False) -> str:
    """Return YAML that `parse`, like any other reader, reads back."""
    text = yaml.dump(tree, Dumper=_Dumper, sort_keys=False, default_flow_style=flow)
    return text.removesuffix("...\n") if flow else text


def override(key: str, value: object) -> str:
    """Return `key=value` for a command line, with the value in quotes if it would not be read as text."""
    text = path_as_text(value) if isinstance(value, Path) else str(value)
    try:
        same = parse_value(text) == text
    except ConfigError:
        same = False
    return f"{key}={text if same else json.dumps(text, ensure_ascii=False)}"


def set_key(tree: dict[str, Any], key: str, value: Any) -> None:
    """Set the value at a dotted key.

    Raises:
        ConfigError: Something above the key is not a group of keys.
    """
    *parents, last = key.split(".")
    node = tree
    for parent in parents:
        child = node.get(parent)
        if child is None:
            child = node[parent] = {}
        if not isinstance(child, dict):
            raise ConfigError(f"{parent} is a value, not a group of keys")
        node = child
    node[last] = value


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested dictionaries to values under dotted keys."""
    out: dict[str, Any] = {}
    for key, value in tree.items():
        out |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return out


def path_as_text(location: Path | str) -> str:
    """Return a location as text that `as_location` reads back: a path that begins with a literal ~ gets a ./ prefix."""
    text = str(location)
    return f"./{text}" if isinstance(location, Path) and text.startswith("~") else text
