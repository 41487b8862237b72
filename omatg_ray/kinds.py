"""Settings that come in kinds: a field that holds one of several classes, told apart by the key `kind`."""

from __future__ import annotations

import difflib
from typing import Any

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from omatg_ray.settings import Settings


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
