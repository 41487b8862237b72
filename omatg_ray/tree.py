"""Plain values of settings as text: YAML read without surprises, `key=value` overrides, YAML written.

Words without quotes are what YAML 1.2 makes of them: `no`, `2026-11-28`, `12:30` and `010` stay text, and the type of
the key decides what it means, so that a number may be written with a leading zero and a folder be called 001.
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
"""What words without quotes mean, and how they begin."""


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers = {}  # noqa: RUF012 - PyYAML's way of keeping those of a class apart

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
                    f"the key {key.value} is there twice, {where}; leave one out, the first would be lost"
                )
            lines[key.value] = line
        return node


class _Dumper(yaml.SafeDumper):
    """Puts quotes where YAML 1.1 or 1.2 would take text for something else."""


for _tag, (_pattern, _first) in PLAIN.items():
    _Loader.add_implicit_resolver(_tag, re.compile(rf"^({_pattern})$"), list(_first))
_float, _digits = PLAIN["tag:yaml.org,2002:float"]
_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(rf"^({_float})$"), list(_digits))


def parse(text: str) -> Any:
    """Plain values of a YAML document.

    Raises:
        ConfigError: It is none, or a mapping in it has a key twice; says where.
    """
    return _guarded(text, lambda loader: loader.get_single_data())


def parse_value(text: str) -> Any:
    """The value of an override: YAML in which nothing is a comment, so that names may hold a #.

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
            raise ConfigError(f"{rest!r} follows the value; leave it out, or put what it belongs to in quotes")
        return loader.construct_document(node)

    return _guarded(text, read)


def _guarded(text: str, read: Callable[[_Loader], Any]) -> Any:
    try:
        loader = _Loader(text)
        try:
            return read(loader)
        finally:
            loader.dispose()
    except (yaml.YAMLError, ValueError, AttributeError) as error:  # the latter of values that do not fit their tag
        raise ConfigError(f"not valid YAML: {error}") from error


def dump(tree: Any, flow: bool = False) -> str:
    """YAML which `parse`, and any other reader, reads back."""
    text = yaml.dump(tree, Dumper=_Dumper, sort_keys=False, default_flow_style=flow)
    return text.removesuffix("...\n") if flow else text


def override(key: str, value: object) -> str:
    """`key=value` for a command line, with the value in quotes where it would be read as something else than text."""
    text = written(value) if isinstance(value, Path) else str(value)
    try:
        same = parse_value(text) == text
    except ConfigError:
        same = False
    return f"{key}={text if same else json.dumps(text, ensure_ascii=False)}"


def set_key(tree: dict[str, Any], key: str, value: Any) -> None:
    """Puts a value at a dotted key.

    Raises:
        ConfigError: What is above the key is no group of keys.
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


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Values of nested dictionaries under dotted keys."""
    out: dict[str, Any] = {}
    for key, value in tree.items():
        out |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return out


def written(place: Path | str) -> str:
    """A place as a text that `as_location` reads back: what begins with ~ and is no home has ./ before it."""
    text = str(place)
    return f"./{text}" if isinstance(place, Path) and text.startswith("~") else text
