"""Keys of settings that name a location. Apart from `location.py`, which needs no pydantic."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import PlainSerializer, PlainValidator

from omatg_ray.run.location import BUNDLED, as_place, is_bundled, is_remote
from omatg_ray.tree import written


def _named(value: object) -> Path | str:
    """A whole number is a name, too."""
    return as_place(str(value) if type(value) is int else value)


Written = PlainSerializer(written, when_used="json")
"""As text, paths are such that they are read back."""
Place = Annotated[Path | str, PlainValidator(_named), Written]
"""A path or, as a string, a URL."""


def _local(value: object) -> Path:
    place = _named(value)
    if is_remote(place):
        raise ValueError(f"a folder, not the URL {place}")
    return Path(place)


LocalFolder = Annotated[Path, PlainValidator(_local), Written]
"""A path, for what cannot be written at URLs."""


def _word_or_path(model: object) -> str | Path | None:
    """Keeps the word apart from the folder `./bundled`, which as paths are the same."""
    if model is None or is_bundled(model):
        return model
    if isinstance(model, str | Path | int):
        return _named(model)
    raise ValueError(f"a model or run folder, or {BUNDLED}, not {model!r}")


ModelPlace = Annotated[Path | str, PlainValidator(_word_or_path), Written]
"""The same, or the word `bundled`."""
