"""Schedules given as text, and learned ones as files of their own.

A learned schedule is a folder with `schedule.json`, which is for people to read (its settings, its origin, and 1 + s(t)
on a grid), and its weights, `weights.safetensors`. It works with any base model.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from pydantic import Field, TypeAdapter, ValidationError

from omatg_ray.assets import asset, require
from omatg_ray.errors import ConfigError, ModelError
from omatg_ray.policy.hand_made import HAND_MADE, HandMadeSchedule, LinearSchedule, StepSizes
from omatg_ray.policy.settings import AnyHandMade, Curve, LearnedScheduleSettings
from omatg_ray.run.checkpoints import DESCRIPTION_FILE, WEIGHTS_FILE
from omatg_ray.run.location import Location, is_bundled, is_remote
from omatg_ray.run.storage import files_at
from omatg_ray.run.sync import fetch_model
from omatg_ray.settings import Settings

if TYPE_CHECKING:
    from omatg_ray.policy.schedule import LearnedSchedule, Schedule

FORMAT: Final = "omatg_ray.schedule.1"
SCHEDULE_FILE = "schedule.json"
FOLDER = "schedule"
"""Folder, within a run folder, of the schedule that the run learned."""

NONE, OWN = "none", "own"
KINDS = tuple(str(cls.model_fields["kind"].default) for cls in HAND_MADE)
HELP = (
    "none · linear:pos=5,cell=2 (velocity times 1 + s(t), with s at t = 1) · quadratic:, cosine: and constant: with "
    "the same keys, and limit=0.6 (no lengthened step takes more of what is left of a linear path) · steps:power=2 "
    "(unequal steps instead of a scale) · a learned one: its folder, or the run or model that learned it, or bundled"
)


class ScheduleDescription(Settings):
    """Content of `schedule.json`.

    Attributes:
        curves: 1 + s(t), for some examples if it depends on features.
    """

    format: Literal["omatg_ray.schedule.1"] = FORMAT
    schedule: LearnedScheduleSettings
    curves: list[Curve] = Field([])
    provenance: dict[str, Any] = Field({})


def save_schedule(schedule: LearnedSchedule, folder: Path, provenance: Mapping[str, Any]) -> None:
    """Write both files into an existing folder."""
    from safetensors.torch import save_file

    from omatg_ray.policy.schedule import curves

    description = ScheduleDescription(schedule=schedule.settings, curves=curves(schedule), provenance=dict(provenance))
    save_file({k: v.detach().cpu().contiguous() for k, v in schedule.state_dict().items()}, folder / WEIGHTS_FILE)
    (folder / SCHEDULE_FILE).write_text(json.dumps(description.model_dump(mode="json"), indent=1) + "\n")


def read_schedule(text: Location) -> Schedule | None:
    """Return the schedule that a text names; None for "own", which leaves a model its own.

    Args:
        text: One of `HELP`, or "own".

    Raises:
        ConfigError: The text is neither a kind nor a location, or its keys are wrong.
        DataError: A file of the bundled schedule is missing or damaged.
        ModelError: There is no learned schedule at that location, or it cannot be read.
        StorageError: A URL cannot be reached.
    """
    if text == OWN:
        return None
    if text == NONE:
        return LinearSchedule()
    kind, _, keys = str(text).partition(":")
    if kind in KINDS and not is_remote(text):
        return _hand_made(str(text), kind, keys)
    return learned_schedule(text)


def _hand_made(text: str, kind: str, keys: str) -> Schedule:
    if not keys:
        raise ConfigError(
            f"schedule {text!r} needs values, as in {'steps:power=2' if kind == 'steps' else kind + ':pos=5,cell=2'}"
        )
    values: dict[str, str] = {}
    for word in keys.split(","):
        key, equals, value = (part.strip() for part in word.partition("="))
        if not equals:
            raise ConfigError(f"schedule {text!r}: {word!r} is not of the form key=value; known schedules: {HELP}")
        if key == "kind" or key in values:
            raise ConfigError(f"schedule {text!r}: {key} is given twice")
        values[key] = value
    try:
        schedule: Schedule | None = TypeAdapter(AnyHandMade).validate_python({"kind": kind, **values})
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, problem['loc']))} {problem['msg'].removeprefix('Value error, ')}".strip()
            for problem in error.errors()
        )
        raise ConfigError(f"schedule {text!r}: {problems}") from error
    assert schedule is not None
    return schedule


def brief(schedule: HandMadeSchedule | StepSizes) -> str:
    """Return the text for a hand-made schedule; the inverse of `read_schedule`."""
    values = schedule.model_dump()
    kind = values.pop("kind")
    return f"{kind}:" + ",".join(f"{key}={value:g}" for key, value in values.items())


def learned_schedule(location: Location) -> LearnedSchedule:
    """Read the learned schedule in a folder or at a URL: of a schedule, a run, or a model; or the bundled one.

    Raises:
        ConfigError: The folder does not exist.
        DataError: A file of the bundled one is missing or damaged.
        ModelError: There is no learned schedule, or it cannot be read.
        StorageError: The URL cannot be reached.
    """
    if is_bundled(location):
        return _read(asset("schedule", location))
    if is_remote(location):
        for url in (str(location), f"{location}/{FOLDER}"):
            if SCHEDULE_FILE in files_at(url):
                with fetch_model(url, SCHEDULE_FILE) as copy:
                    return _read(copy)
        return _of_model(location)
    folder = Path(location)
    for path in (folder, folder / FOLDER):
        if (path / SCHEDULE_FILE).is_file():
            return _read(path)
    require_schedule(location)
    if folder.name == SCHEDULE_FILE:
        return learned_schedule(folder.parent)
    if not (folder / DESCRIPTION_FILE).exists() and not (folder / "checkpoints").exists():
        raise ModelError(
            f"{location} is not a learned schedule (no {SCHEDULE_FILE}), and neither a model nor a run that has one"
        )
    return _of_model(location)


def require_schedule(location: Location) -> None:
    """Check that the folder of a learned schedule exists; URLs are not checked.

    Raises:
        ConfigError: The folder does not exist.
        DataError: A bundled set has none.
    """
    if is_bundled(location):
        require("schedule", location)
    elif not is_remote(location) and not Path(location).exists():
        raise ConfigError(
            f"schedule {str(location)!r}: there is no such folder, and it is none of {', '.join((OWN, NONE, *KINDS))} "
            "with their keys (e.g. linear:pos=5,cell=2). Name a learned schedule by its folder, or by that of the run "
            "that learned it, which must be trained first (omatg-ray train configs/annealing_energy.yaml)"
        )


def _of_model(location: Location) -> LearnedSchedule:
    from omatg_ray.model.flow_model import FlowModel
    from omatg_ray.policy.schedule import LearnedSchedule

    schedule = FlowModel.load(location).schedule
    if not isinstance(schedule, LearnedSchedule):
        raise ModelError(
            f"{location} learned no schedule (no {SCHEDULE_FILE}, and its {DESCRIPTION_FILE} names none); train one "
            "with policy.variant=annealing"
        )
    return schedule


def read_description(folder: Path) -> ScheduleDescription:
    """Read the `schedule.json` of a folder.

    Raises:
        ModelError: It is missing or not such a description.
    """
    path = folder / SCHEDULE_FILE
    try:
        return ScheduleDescription.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} is not a schedule of this version: {error}") from error


def _read(folder: Path) -> LearnedSchedule:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from omatg_ray.policy.schedule import LearnedSchedule

    description = read_description(folder)
    schedule = LearnedSchedule(description.schedule)
    try:
        schedule.load_state_dict(load_file(folder / WEIGHTS_FILE))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise ModelError(f"{folder / WEIGHTS_FILE} does not hold the schedule of {SCHEDULE_FILE}: {error}") from error
    return schedule.requires_grad_(False)
