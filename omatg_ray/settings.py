"""Base of all settings: frozen, documented field by field, unknown keys refused.

Every part of the package declares its settings beside the code that uses them; `omatg_ray.config` puts them together.
"""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args, get_origin

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, ValidationError, model_validator
from pydantic_core import CoreSchema, core_schema

from omatg_ray.errors import ConfigError
from omatg_ray.tree import dump

FieldName = Literal["pos", "cell"]
FIELDS: tuple[FieldName, ...] = ("pos", "cell")
"""The two generated fields of a crystal; `crystal.fields` has what is done to them."""


class Settings(BaseModel):
    """A frozen group of configuration keys. `model_dump()` gives plain Python values.

    A group that is given in part keeps the defaults of its parent for the rest: `kl_weight: {cell: 0}` leaves
    `kl_weight.pos` at what the parent declares.

    Attributes:
        renamed: Keys by the names that they had before; files with these keep working (`current`).
    """

    renamed: ClassVar[Mapping[str, str]] = {}

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _keep_defaults_of_groups(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        values = dict(current_names(cls, values))
        for name, field in cls.model_fields.items():
            given = values.get(name)
            if isinstance(field.default, Settings) and isinstance(given, dict):
                values[name] = _merged(field.default.model_dump(), given)
            elif isinstance(field.default, Settings) and name in values and given is None:
                # A group that is named in YAML with nothing below it.
                del values[name]
        return values


def _merged(default: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    both = {
        key: _merged(default[key], value) if isinstance(default.get(key), dict) and isinstance(value, dict) else value
        for key, value in given.items()
    }
    return default | both


def current(model: type[BaseModel] | None, key: str, value: Any, above: str = "") -> tuple[str, Any]:
    """A dotted key and its value under the names that keys have today; warns of each that has an old one.

    Args:
        model: The settings that the key belongs to; None where there are none, and all stays as it is.
        key: Of a value or of a group, e.g. `ray.request_timeout`.
        value: A plain value, or the mapping of a group.
        above: What stands before the key in a file, with a point at its end; for messages.

    Raises:
        ConfigError: A mapping has a key under both names.
    """
    names = ""
    for old in key.split("."):
        new = getattr(model, "renamed", {}).get(old, old)
        if new != old:
            warnings.warn(f"{above}{names}{old} is now {above}{names}{new}; the old name still works", stacklevel=2)
        model, names = _model_at(model, [new]) if model is not None else None, f"{names}{new}."
    return names.removesuffix("."), current_names(model, value, above + names)


def current_names(model: type[BaseModel] | None, tree: Any, above: str = "") -> Any:
    """A tree of settings under the names that keys have today, as `current`; anything else as it is."""
    if model is None or not isinstance(tree, dict):
        return tree
    for old, new in getattr(model, "renamed", {}).items():
        if old in tree and new in tree:
            raise ConfigError(f"{above}{old} is now {above}{new}, and both are given; leave out {above}{old}")
    # Other keys than names are refused where the tree is validated.
    return dict(
        current(model, key, value, above) if isinstance(key, str) and "." not in key else (key, value)
        for key, value in tree.items()
    )


class Kinds:
    """Annotation of a field that holds an instance of one of several classes, each with its own default of `kind`.

    In YAML and JSON it is a mapping with `kind` and the keys of that class, or the kind alone, as a word, which stands
    for the defaults of its class. It is written as the word where that says everything. Errors name the key at fault
    by its path in the file. Give such a field a `default_factory`: the keys of a `default` would be kept beside those
    of another kind.

    Args:
        classes: The classes, all derived from the one that the field is typed with.
        default: The one that is meant where a mapping has no `kind`, or where there is nothing.
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
        """What pydantic asks of annotations."""
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
            near = difflib.get_close_matches(str(kind), list(self.classes), n=1)
            hint = f"did you mean {near[0]}?" if near else f"known: {names}"
            raise ValueError(f"unknown kind {kind!r}; {hint}")
        cls = self.classes[kind]
        for key in sorted(value.keys() - cls.model_fields.keys(), key=str):
            near = difflib.get_close_matches(str(key), list(cls.model_fields), n=1)
            keys = ", ".join(name for name in cls.model_fields if name != "kind")
            hint = f"did you mean {near[0]}?" if near else f"valid keys: {keys or 'none'}"
            raise ValueError(f"{kind} has no key {key}; {hint}")
        # pydantic puts the path of the field before those of the errors in here.
        return cls.model_validate(value)

    def _write(self, value: Settings | None) -> Any:
        if value is None:
            return None
        kind = type(value).model_fields["kind"].default
        return {"kind": kind} | value.model_dump(exclude_none=True) if value.model_dump(exclude_defaults=True) else kind


@contextmanager
def explain_errors(source: str, model: type[BaseModel]) -> Iterator[None]:
    """Turns what pydantic says of settings into a ConfigError that names each key and, if unknown, the nearest one."""
    try:
        yield
    except ValidationError as error:
        lines = "\n".join(f"  {_explain(model, problem)}" for problem in error.errors())
        raise ConfigError(f"{source}:\n{lines}") from error


def _model_at(model: type[BaseModel], location: Iterable[int | str]) -> type[BaseModel] | None:
    """The settings class that a location leads to, through optional groups and dictionaries of groups."""
    current: Any = model
    for part in location:
        if _is_model(current):
            field = current.model_fields.get(str(part))
            current = field.annotation if field else None
        else:
            current = get_args(current)[1] if _is_dict(current) else None
        # An optional group is a union with None.
        current = next((a for a in get_args(current) if _is_model(a)), current) if not _is_dict(current) else current
    return current if _is_model(current) else None


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
        near = difflib.get_close_matches(location[-1], names, n=1, cutoff=0.4)
        hint = f"did you mean {'.'.join([*location[:-1], near[0]])}?" if near else f"valid keys: {', '.join(names)}"
        return f"unknown key {key}: {hint}"
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "missing":
        return f"{key}: missing, and it has no default"
    if not location:
        # What is checked of several keys together names them itself.
        return message
    return f"{key}: {message} (got {problem['input']!r})" if problem["type"] != "value_error" else f"{key}: {message}"


def documented_keys(defaults: BaseModel, prefix: str = "") -> list[tuple[str, str, str]]:
    """All keys with their default and description, for `omatg-ray config`."""
    rows: list[tuple[str, str, str]] = []
    for name, field in type(defaults).model_fields.items():
        value, annotation = getattr(defaults, name), field.annotation
        # What comes in kinds has other keys in each, and its kind alone says which defaults are meant.
        in_kinds = any(isinstance(mark, Kinds) for mark in field.metadata)
        if isinstance(annotation, type) and issubclass(annotation, BaseModel) and not in_kinds:
            rows += documented_keys(value, f"{prefix}{name}.")
        else:
            plain = defaults.model_dump(mode="json", include={name}).get(name) if in_kinds else value
            rows.append((f"{prefix}{name}", _plain(plain), field.description or ""))
    return rows


def _plain(value: Any) -> str:
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    if isinstance(value, dict):
        value = {k: v.model_dump(mode="json") if isinstance(v, BaseModel) else v for k, v in value.items()}
    return dump(str(value) if isinstance(value, Path) else value, flow=True).strip()
