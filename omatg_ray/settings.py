"""Base of all settings: frozen, documented field by field, strict about unknown keys.

Each part of the package declares its settings beside the code that uses them; `omatg_ray.config` combines them.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, get_args, get_origin

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, ValidationError, model_validator
from pydantic_core import CoreSchema, core_schema

from omatg_ray.errors import ConfigError
from omatg_ray.hints import elsewhere, hint_at, nearest, same_meaning, same_purpose
from omatg_ray.tree import dump

FieldName = Literal["pos", "cell"]
FIELDS: tuple[FieldName, ...] = ("pos", "cell")
"""The two generated fields of a crystal; `crystal.fields` holds the operations on them."""


class Settings(BaseModel):
    """A frozen group of configuration keys. `model_dump()` returns plain Python values.

    A group given in part keeps the defaults of its parent for the rest: `kl_weight: {cell: 0}` leaves `kl_weight.pos`
    at the parent's default.

    Attributes:
        renamed: Current names of keys by their former ones; files with former names still work (`current_key`).
        hints_within: By section, the first parts of the only keys that an unknown key in it may have been meant as.
    """

    renamed: ClassVar[Mapping[str, str]] = {}
    hints_within: ClassVar[Mapping[str, frozenset[str]]] = {}

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _keep_defaults_of_groups(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        values = dict(current_names(cls, values))
        for name, field in cls.model_fields.items():
            group = values.get(name)
            if isinstance(field.default, Settings) and isinstance(group, dict):
                values[name] = _merge(field.default.model_dump(), group)
            elif isinstance(field.default, Settings) and name in values and group is None:
                # YAML names the group, with nothing below it.
                del values[name]
        return values

    @classmethod
    def from_tree(cls, tree: dict[str, Any], source: str = "config") -> Self:
        """Build settings from plain values; `source` is their name in messages.

        Raises:
            ConfigError: A key is unknown, mistyped or out of range. The message names the key and, for unknown keys,
                the nearest valid one.
        """
        with explain_errors(source, cls):
            return cls.model_validate(tree)


def _merge(default: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    merged = {
        key: _merge(default[key], value) if isinstance(default.get(key), dict) and isinstance(value, dict) else value
        for key, value in changes.items()
    }
    return default | merged


def current_key(model: type[BaseModel] | None, key: str, value: Any, above: str = "") -> tuple[str, Any]:
    """Return a dotted key and its value under current names, with a warning for each former name.

    Args:
        model: The settings that the key belongs to; None leaves everything unchanged.
        key: Dotted key of a value or a group, e.g. `ray.request_timeout`.
        value: A plain value, or the mapping of a group.
        above: Prefix of the key in its file, ending in a dot; for messages.

    Raises:
        ConfigError: A mapping has a key under both names.
    """
    names = ""
    for old in key.split("."):
        new = getattr(model, "renamed", {}).get(old, old)
        if new != old and value is not None:  # the files of runs have all keys
            warnings.warn(f"{above}{names}{old} is now {above}{names}{new}; the old name still works", stacklevel=2)
        model, names = _model_at(model, [new]) if model is not None else None, f"{names}{new}."
    return names.removesuffix("."), current_names(model, value, above + names)


def current_names(model: type[BaseModel] | None, tree: Any, above: str = "") -> Any:
    """Return a tree of settings under current names, as `current_key` does; anything else is returned unchanged.

    Raises:
        ConfigError: A mapping has a key under both names.
    """
    if model is None or not isinstance(tree, dict):
        return tree
    for old, new in getattr(model, "renamed", {}).items():
        if old in tree and new in tree:
            raise ConfigError(f"{above}{old} is now {above}{new}, and both are given; leave out {above}{old}")
    # Keys that are not plain names are refused later, by validation.
    return dict(
        current_key(model, key, value, above) if isinstance(key, str) and "." not in key else (key, value)
        for key, value in tree.items()
    )


class Kinds:
    """Annotation of a field that holds an instance of one of several classes, each with its own default of `kind`.

    In YAML and JSON the value is a mapping with `kind` and the keys of that class, or the kind alone as a word, which
    means the defaults of its class. It is written as the word if all keys have their defaults. Errors name the
    offending key by its path in the file. Give such a field a `default_factory`: the keys of a `default` would be
    merged into those of another kind.

    Args:
        classes: The classes, all derived from the type of the field.
        default: The class of a mapping without `kind`, and of null.
        optional: Whether the field may be null.

    Example:
        >>> class Paths(Settings):                                                        # doctest: +SKIP
        ...     pos: Annotated[FieldPath, Kinds(Linear, Mirror, default=Linear)] = Field(default_factory=Linear)
        >>> Paths(pos="linear") == Paths(pos={"kind": "linear"})                          # doctest: +SKIP
        True
    """

    def __init__(self, *classes: type[Settings], default: type[Settings] | None = None, optional: bool = False) -> None:
        self.classes = {str(cls.model_fields["kind"].default): cls for cls in classes}
        self.default, self.optional = default, optional

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Return the schema that pydantic requests from annotations."""
        writer = core_schema.plain_serializer_function_ser_schema(self._write)
        return core_schema.no_info_plain_validator_function(self._read, serialization=writer)

    def _read(self, value: Any) -> Settings | None:
        if value is None and self.optional:
            return None
        if isinstance(value, Settings) and isinstance(value, tuple(self.classes.values())):
            return value
        if value is None and self.default is not None:
            return self.default()
        if isinstance(value, str):
            value = {"kind": value}
        elif isinstance(value, dict) and self.default is not None:
            value = {"kind": self.default.model_fields["kind"].default} | value
        names = ", ".join(self.classes)
        if not isinstance(value, dict) or "kind" not in value:
            raise ValueError(f"give its kind, one of {names}, as a word or with further keys, not {value!r}")
        kind = value["kind"]
        if not isinstance(kind, str) or kind not in self.classes:
            raise ValueError(f"unknown kind {kind!r}; {hint_at(kind, self.classes, f'known: {names}')}")
        cls = self.classes[kind]
        for key in sorted(value.keys() - cls.model_fields.keys(), key=str):
            keys = ", ".join(name for name in cls.model_fields if name != "kind")
            hint = hint_at(key, cls.model_fields, f"valid keys: {keys or 'none'}")
            raise ValueError(f"{kind} has no key {key}; {hint}")
        # pydantic prefixes these errors with the path of the field.
        return cls.model_validate(value)

    def _write(self, value: Settings | None) -> Any:
        if value is None:
            return None
        kind = type(value).model_fields["kind"].default
        return {"kind": kind} | value.model_dump(exclude_none=True) if value.model_dump(exclude_defaults=True) else kind


NOT_A_GROUP = ("model_type", "model_attributes_type", "dict_type")
"""Types of pydantic's errors where a value stands for a group of keys."""


@contextmanager
def explain_errors(source: str, model: type[BaseModel]) -> Iterator[None]:
    """Turn pydantic's errors into a ConfigError that names each key and, for unknown ones, the nearest valid key."""
    try:
        yield
    except ValidationError as error:
        lines = "\n".join(f"  {_explain(model, problem)}" for problem in error.errors())
        raise ConfigError(f"{source}:\n{lines}") from error


def _model_at(model: type[BaseModel], location: Iterable[int | str]) -> type[BaseModel] | None:
    """Return the settings class at a location, looking through optional groups and dictionaries of groups."""
    hint: Any = model
    for part in location:
        if _is_model(hint):
            field = hint.model_fields.get(str(part))
            hint = field.annotation if field else None
        else:
            hint = get_args(hint)[1] if _is_dict(hint) else None
        # An optional group is a union with None.
        hint = next((a for a in get_args(hint) if _is_model(a)), hint) if not _is_dict(hint) else hint
    return hint if _is_model(hint) else None


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _is_dict(annotation: Any) -> bool:
    return get_origin(annotation) is dict


def _explain(model: type[BaseModel], problem: Any) -> str:
    location = [str(part) for part in problem["loc"]]
    key = ".".join(location)
    if problem["type"] == "extra_forbidden":
        parent = _model_at(model, location[:-1])
        names = list(parent.model_fields) if parent else []
        return f"unknown key {key}: {_hint(model, location, names)}"
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] in NOT_A_GROUP and (group := _model_at(model, location)):
        first, *others = group.model_fields
        keys = ", ".join([f"{key}.{first}", *others])
        parent = _model_at(model, location[:-1])
        optional = parent is not None and type(None) in get_args(parent.model_fields[location[-1]].annotation)
        off = f", or {key}=null to go without" if optional else ""
        return f"{key}: has keys of its own: set {keys}{off} (got {problem['input']!r})"
    if problem["type"] == "missing":
        return f"{key}: missing, and it has no default"
    if not location:
        # Checks that involve several keys name these themselves.
        return message
    return f"{key}: {message} (got {problem['input']!r})" if problem["type"] != "value_error" else f"{key}: {message}"


def _hint(model: type[BaseModel], location: list[str], names: list[str]) -> str:
    """Return what was probably meant: another word for it there, or elsewhere, or one that is spelled alike there.

    From a section that `hints_within` restricts, nothing is suggested that has no effect there.
    """
    *above, name = location
    if same := same_meaning(name, names):
        meant = [".".join([*above, same])]
    else:
        within = model.hints_within.get(location[0]) if issubclass(model, Settings) else None
        keys = [key for key in _keys(model) if within is None or key.split(".")[0] in within]
        meant = elsewhere(".".join(location), keys)
    if not meant and (near := same_purpose(name, names) or nearest(name, names)):
        meant = [".".join([*above, near])]
    return f"did you mean {' or '.join(meant)}?" if meant else f"valid keys: {', '.join(names)}"


def _keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Yield all dotted keys of values, without those in dictionaries and of kinds."""
    for name in model.model_fields:
        group = _model_at(model, [name])
        if group is None or _is_dict(model.model_fields[name].annotation):
            yield f"{prefix}{name}"
        else:
            yield from _keys(group, f"{prefix}{name}.")


def documented_keys(defaults: BaseModel, prefix: str = "") -> list[tuple[str, str, str]]:
    """Return all keys with their default and description, for `omatg-ray config`."""
    rows: list[tuple[str, str, str]] = []
    for name, field in type(defaults).model_fields.items():
        value, annotation = getattr(defaults, name), field.annotation
        # The keys of such a field depend on its kind, and the kind alone implies their defaults.
        in_kinds = any(isinstance(mark, Kinds) for mark in field.metadata)
        if isinstance(annotation, type) and issubclass(annotation, BaseModel) and not in_kinds:
            rows += documented_keys(value, f"{prefix}{name}.")
        else:
            plain = defaults.model_dump(mode="json", include={name}).get(name) if in_kinds else value
            rows.append((f"{prefix}{name}", _plain(plain), field.description or ""))
            group = None if in_kinds or value is not None else _model_at(type(defaults), [name])
            # What a section holds that is null by default, too.
            for key, inner in group.model_fields.items() if group is not None else ():
                default = "(required)" if inner.is_required() else _plain(inner.default)
                rows.append((f"{prefix}{name}.{key}", default, inner.description or ""))
    return rows


def _plain(value: Any) -> str:
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    if isinstance(value, dict):
        value = {k: v.model_dump(mode="json") if isinstance(v, BaseModel) else v for k, v in value.items()}
    return dump(str(value) if isinstance(value, Path) else value, flow=True).strip()
