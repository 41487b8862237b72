"""Keys of settings that name a location, and one walk over them. Apart from `location.py`, which needs no pydantic."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import BaseModel, BeforeValidator, PlainSerializer, PlainValidator

from omatg_ray.run.location import BUNDLED, Location, as_location, expanded, is_bundled, is_remote
from omatg_ray.tree import written

Kind = Literal["run", "crystals", "model", "schedule", "potential", "file"]
S = TypeVar("S", bound=BaseModel)


@dataclass(frozen=True)
class Locates:
    """Annotation of a key whose value is a location.

    Attributes:
        kind: What lies there.
    """

    kind: Kind


def _named(value: object) -> Location:
    """A whole number is a name, too."""
    return as_location(str(value) if type(value) is int else value)


def _word_or_path(model: object) -> Location | None:
    """Keeps the word apart from the folder `./bundled`, which as paths are the same."""
    if model is None or is_bundled(model):
        return model
    if isinstance(model, str | Path | int):
        return _named(model)
    raise ValueError(f"a model or run folder, or {BUNDLED}, not {model!r}")


def _local(value: object) -> Path:
    location = _named(value)
    if is_remote(location):
        raise ValueError(f"a folder, not the URL {location}")
    return Path(location)


_Written = PlainSerializer(written, when_used="json")
"""As text, paths are such that they are read back."""
_Expanded = BeforeValidator(lambda value: expanded(value) if isinstance(value, str) else value)

RunLocation = Annotated[Location, PlainValidator(_named), _Written, Locates("run")]
"""A folder to write, or its URL."""
CrystalsLocation = Annotated[Location, PlainValidator(_named), _Written, Locates("crystals")]
"""A file or folder of crystals, or its URL."""
ModelLocation = Annotated[Location, PlainValidator(_word_or_path), _Written, Locates("model")]
"""The folder of a model or a run, its URL, or the word `bundled`."""
ScheduleLocation = Annotated[Location, PlainValidator(_word_or_path), _Written, Locates("schedule")]
"""The same, of a learned schedule."""
PotentialLocation = Annotated[str, _Expanded, Locates("potential")]
"""The folder of a MatGL potential, the name of one, or the word `bundled`."""
LocalFile = Annotated[Path, _Expanded, _Written, Locates("file")]
"""A file or folder to read."""
LocalFolder = Annotated[Path, PlainValidator(_local), _Written]
"""A folder, for what cannot be written at URLs."""


def locations(settings: BaseModel) -> dict[str, tuple[Location, Kind]]:
    """Every location that settings name, and what lies there, by dotted keys."""
    found: dict[str, tuple[Location, Kind]] = {}

    def note(key: str, location: Location, kind: Kind) -> Location:
        found[key] = location, kind
        return location

    relocated(settings, note)
    return found


def relocated(settings: S, move: Callable[[str, Location, Kind], Location], above: str = "") -> S:
    """Settings with every location that they name where `move` says.

    Args:
        settings: Settings, with groups, and dictionaries or lists of groups or locations.
        move: Is given the dotted key, the location, and what lies there.
        above: What stands before the keys, with a point at its end.
    """

    def moved(key: str, value: Any, locates: Locates | None) -> Any:
        if isinstance(value, BaseModel):
            return relocated(value, move, f"{key}.")
        if isinstance(value, Mapping):
            return {name: moved(f"{key}.{name}", inner, locates) for name, inner in value.items()}
        if isinstance(value, list):
            return [moved(key, inner, locates) for inner in value]
        return value if locates is None or value is None else move(key, value, locates.kind)

    fields = type(settings).model_fields
    return settings.model_copy(
        update={
            name: moved(f"{above}{name}", value, _mark((fields[name].annotation, *fields[name].metadata)))
            for name, value in settings
        }
    )


def _mark(annotations: tuple[Any, ...]) -> Locates | None:
    """The mark among annotations, or in the parts of a union."""
    for annotation in annotations:
        if isinstance(annotation, Locates):
            return annotation
        found = _mark((*getattr(annotation, "__metadata__", ()), *get_args(annotation)))
        if found is not None:
            return found
    return None
