"""Settings keys that name a location, and a walk over them. Separate from `location.py`, which needs no pydantic."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, cast, get_args

from pydantic import BaseModel, BeforeValidator, PlainSerializer, PlainValidator

from omatg_ray.run.location import BUNDLED, Location, as_location, bundled_set, expand, is_bundled, is_remote
from omatg_ray.tree import path_as_text

Kind = Literal["run", "crystals", "model", "schedule", "potential", "file"]
S = TypeVar("S", bound=BaseModel)


@dataclass(frozen=True)
class Locates:
    """Annotation of a key whose value is a location.

    Attributes:
        kind: Kind of thing at the location.
    """

    kind: Kind


def _read_location(value: object) -> Location:
    """Read a location; a whole number is a name, too."""
    return as_location(str(value) if type(value) is int else value)


def _word_or_path(model: object) -> Location | None:
    """Read a location, keeping the word apart from the folder `./bundled`: as paths they would be the same."""
    if model is None or bundled_set(model):
        return cast("Location | None", model)
    if isinstance(model, str | Path | int):
        return _read_location(model)
    raise ValueError(f"a model or run folder, or {BUNDLED}, not {model!r}")


def _schedule(schedule: object) -> Location | None:
    """The same, where only the names of sets are words."""
    return _read_location(schedule) if bundled_set(schedule) and not is_bundled(schedule) else _word_or_path(schedule)


def _local(value: object) -> Path:
    location = _read_location(value)
    if is_remote(location):
        raise ValueError(f"a folder, not the URL {location}")
    return Path(location)


_Written = PlainSerializer(path_as_text, when_used="json")
"""Writes a path as text that is read back as the same path."""
_Expanded = BeforeValidator(lambda value: expand(value) if isinstance(value, str) else value)

RunLocation = Annotated[Location, PlainValidator(_read_location), _Written, Locates("run")]
"""A folder to write, or its URL."""
CrystalsLocation = Annotated[Location, PlainValidator(_read_location), _Written, Locates("crystals")]
"""A file or folder of crystals, or its URL."""
ModelLocation = Annotated[Location, PlainValidator(_word_or_path), _Written, Locates("model")]
"""The folder of a model or a run, its URL, or the name of a bundled set or of a model of one."""
ScheduleLocation = Annotated[Location, PlainValidator(_schedule), _Written, Locates("schedule")]
"""The same for a learned schedule."""
PotentialLocation = Annotated[str, _Expanded, Locates("potential")]
"""The folder or name of a MatGL potential, or the name of a bundled set."""
LocalFile = Annotated[Path, _Expanded, _Written, Locates("file")]
"""A file or folder to read."""
LocalFolder = Annotated[Path, PlainValidator(_local), _Written]
"""A folder for files that cannot be written to URLs."""


def locations(settings: BaseModel) -> dict[str, tuple[Location, Kind]]:
    """Return every location in some settings, and the kind of thing there, by dotted key."""
    by_key: dict[str, tuple[Location, Kind]] = {}

    def note(key: str, location: Location, kind: Kind) -> Location:
        by_key[key] = location, kind
        return location

    relocate(settings, note)
    return by_key


def relocate(settings: S, move: Callable[[str, Location, Kind], Location], above: str = "") -> S:
    """Return settings with every location replaced by the result of `move`.

    Args:
        settings: Settings, with groups, and dictionaries or lists of groups or locations.
        move: Maps the dotted key, the location and the kind of thing there to the new location.
        above: Prefix of the keys, ending in a dot.
    """

    def move_value(key: str, value: Any, locates: Locates | None) -> Any:
        if isinstance(value, BaseModel):
            return relocate(value, move, f"{key}.")
        if isinstance(value, Mapping):
            return {name: move_value(f"{key}.{name}", inner, locates) for name, inner in value.items()}
        if isinstance(value, list):
            return [move_value(f"{key}.{index}", inner, locates) for index, inner in enumerate(value)]
        return value if locates is None or value is None else move(key, value, locates.kind)

    fields = type(settings).model_fields
    return settings.model_copy(
        update={
            name: move_value(f"{above}{name}", value, _mark((fields[name].annotation, *fields[name].metadata)))
            for name, value in settings
        }
    )


def _mark(annotations: tuple[Any, ...]) -> Locates | None:
    """Return the `Locates` among annotations, or in the parts of a union."""
    for annotation in annotations:
        if isinstance(annotation, Locates):
            return annotation
        nested = _mark((*getattr(annotation, "__metadata__", ()), *get_args(annotation)))
        if nested is not None:
            return nested
    return None
