"""The state of a search, kept after every round: courses and plans as JSON, archive and sampler as tensors."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from omatg_ray.errors import ConfigError
from omatg_ray.run.atomic import replace_folder
from omatg_ray.search.loop import Course, SearchLoop

WORDS: Final = "search.json"
TENSORS: Final = "state.safetensors"


def save_state(folder: Path, loop: SearchLoop, identity: Mapping[str, Any]) -> None:
    """Replace the state in a folder.

    Args:
        folder: Folder of the state.
        loop: The search, between two rounds.
        identity: What may not change when it goes on.

    Raises:
        DiskError: It cannot be written.
    """
    courses = {name: _as_json(course) for name, course in loop.courses.items()}
    words = {"search": identity, "courses": courses, "plans": loop.plans, "unlearned": loop.unlearned}
    text = json.dumps(words, allow_nan=False)
    tensors = {f"archive/{name}": value for name, value in loop.archive.state_dict().items()}
    tensors |= {f"sampler/{name}": value for name, value in loop.sampler.state_dict().items()}
    folder.parent.mkdir(parents=True, exist_ok=True)
    with replace_folder(folder) as temporary:
        (temporary / WORDS).write_text(text, encoding="utf-8")
        own = {name: value.detach().cpu().clone().contiguous() for name, value in tensors.items()}
        save_file(own, temporary / TENSORS)


def load_state(folder: Path, loop: SearchLoop, identity: Mapping[str, Any]) -> None:
    """Restore what `save_state` wrote.

    Raises:
        ConfigError: There is none, it cannot be read, or it is that of a search with another identity.
        ModelError: It belongs to another network.
    """
    if not (folder / WORDS).is_file():
        raise ConfigError(f"--resume: there is no search in {folder.parent}; leave it out to start one")
    try:
        kept = json.loads((folder / WORDS).read_text(encoding="utf-8"))
        tensors = load_file(folder / TENSORS)
    except (OSError, ValueError, SafetensorError) as error:
        raise ConfigError(f"--resume: the state in {folder} cannot be read: {error}") from error
    before = kept["search"]
    if before.get("format") != identity["format"]:
        raise ConfigError(f"--resume: the search in {folder.parent} was written by another version; begin it anew")
    changed = [key for key in identity if identity[key] != before.get(key)]
    if changed:
        said = "; ".join(f"{key}: {before.get(key)} before, {identity[key]} now" for key in changed)
        raise ConfigError(f"--resume: the search in {folder.parent} is another one ({said}); give the same options")
    for name, values in kept["courses"].items():
        _restore(loop.courses[name], values)
    loop.unlearned = kept["unlearned"]
    loop.plans = [[(name, number) for name, number in plan] for plan in kept["plans"]]
    parts: dict[str, dict[str, Any]] = {"archive": {}, "sampler": {}}
    for key, value in tensors.items():
        part, _, name = key.partition("/")
        parts[part][name] = value
    loop.archive.load_state_dict(parts["archive"])
    loop.sampler.load_state_dict(parts["sampler"])


def _as_json(course: Course) -> dict[str, Any]:
    """Return all of a course but its cells; JSON lacks infinity, the best energy before there is one."""
    values = {field.name: getattr(course, field.name) for field in dataclasses.fields(course) if field.name != "cells"}
    history = [(*numbers, best if math.isfinite(best) else None) for *numbers, best in course.history]
    return values | {"history": history, "best": course.best if math.isfinite(course.best) else None}


def _restore(course: Course, values: Mapping[str, Any]) -> None:
    for name, value in values.items():
        setattr(course, name, value)
    course.best = math.inf if values["best"] is None else values["best"]
    course.history = [
        (samples, evaluations, seconds, math.inf if best is None else best)
        for samples, evaluations, seconds, best in values["history"]
    ]
