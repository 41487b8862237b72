"""`omatg-ray info`: cards of the bundled assets, and descriptions of models and schedules."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, get_args

from omatg_ray import assets
from omatg_ray.assets import AssetName, model_named
from omatg_ray.errors import ModelError
from omatg_ray.model.schedule import SCHEDULE_FILE, read_description
from omatg_ray.policy.hand_made import HandMadeSchedule, LinearSchedule, StepSizes
from omatg_ray.policy.settings import Curve, LearnedScheduleSettings, NoiseSettings
from omatg_ray.run.location import (
    BUNDLED,
    BUNDLED_NAMES,
    BundledName,
    SetName,
    bundled_set,
    is_bundled,
    is_remote,
    meant,
)
from omatg_ray.run.storage import files_at
from omatg_ray.run.sync import fetch_model
from omatg_ray.run.text import as_ranges, counted
from omatg_ray.settings import FIELDS
from omatg_ray.train.early import require_models

OTHERS: Final = tuple(of for of in get_args(SetName) if of != meant(BUNDLED))

if TYPE_CHECKING:
    from omatg_ray.crystal.domain import Domain
    from omatg_ray.model.description import ModelDescription


def overview() -> str:
    """List every asset with its folder, files, size and the first paragraph of its card; and say how to see more.

    Raises:
        DataError: A file of an asset is missing or damaged.
    """
    known = _assets()
    parts = [f"{_summarise(name)}\n{_first_paragraph(assets.card(*known[name]))}" for name in known]
    cards = ", ".join(f"`omatg-ray info {name}`" for name in known)
    return "\n\n".join([*parts, f"Whole cards: {cards}. What a model is made of: `omatg-ray info MODEL`."])


def _assets() -> dict[str, tuple[AssetName, BundledName]]:
    """Return the assets of all sets by the names under which they are shown; those of the default set go without it."""
    return {_shown(name, of): (name, of) for of in (BUNDLED, *OTHERS) for name in assets.has(of)}


def _shown(name: AssetName, of: BundledName) -> str:
    return name if meant(of) == meant(BUNDLED) else f"{of}/{name}"


def _first_paragraph(card: str) -> str:
    """Return the paragraph below the title, indented."""
    paragraphs = [text for text in card.split("\n\n") if text.strip() and not text.startswith("#")]
    lines = paragraphs[0].rstrip(":\n").splitlines() if paragraphs else []
    return "\n".join(f"  {line}" for line in lines)


def _summarise(shown: str) -> str:
    """Return files, size and folder of an asset, in one line."""
    name, of = _assets()[shown]
    files = assets.files(name, of)
    size = sum(path.stat().st_size for path in files)
    return f"{shown}: {len(files)} files, {size / 1e6:.2f} MB, in {assets.root(of) / name}"


def _elements(potential: Path) -> str:
    """Return the number and the symbols of the elements of a potential, from MatGL's description of its network."""
    network = json.loads((potential / "model.json").read_text(encoding="utf-8"))["kwargs"]["model"]
    symbols = network["init_args"]["element_types"]
    return f"{len(symbols)}: {' '.join(symbols)}"


def describe(name: str) -> str:
    """Return the card of an asset, or the contents of `model.json` or `schedule.json` of a model or schedule, in lines.

    Args:
        name: Name of an asset, after that of its set if it is not the default one (`bundled-periodic/base`); a model or
            run folder or its URL (`./base` for a folder that has the name of an asset); or the name of a set.

    Raises:
        DataError: A file of the asset is missing or damaged.
        ModelError: There is no such folder, no model in it, or it cannot be read.
    """
    known = _assets()
    of, _, part = name.partition("/")
    if of in (BUNDLED, meant(BUNDLED)) and part in known:
        name = part
    if name in known:
        what, _ = known[name]
        elements = f"\nelements: {_elements(assets.asset(*known[name]))}" if what == "potential" else ""
        return f"{_summarise(name)}{elements}\n\n{assets.card(*known[name]).rstrip()}"
    if not is_bundled(name) and not is_remote(name) and not Path(name).exists():
        raise ModelError(
            f"info: {name} is none of {', '.join([*known, *BUNDLED_NAMES])}, and there is no model or run folder of "
            "that name"
        )
    if is_remote(name) and SCHEDULE_FILE in files_at(name):
        with fetch_model(name, SCHEDULE_FILE) as copy:
            return describe_schedule(copy, name)
    if not is_bundled(name) and not is_remote(name) and (Path(name) / SCHEDULE_FILE).is_file():
        return describe_schedule(Path(name), name)
    return describe_model(name)


def describe_schedule(folder: Path, name: str) -> str:
    """Describe a learned schedule, in lines of a label and a text.

    Args:
        folder: Folder of its files.
        name: Name to show.

    Raises:
        ModelError: It cannot be read.
    """
    what = read_description(folder)
    rows = {"schedule": f"{name}, {_schedule(what.schedule)}"}
    return _lines(rows | _factors(what.curves) | _provenance(what.provenance))


def _factors(shown: Sequence[Curve]) -> dict[str, str]:
    """Return the factors by which a schedule multiplies velocities, at five times."""
    rows = {}
    for curve in shown:
        for field in FIELDS:
            values = getattr(curve, field)
            text = ", ".join(f"{values[quarter * (len(values) - 1) // 4]:.2f}" for quarter in range(5))
            rows[f"{field}{f', {curve.of}' if curve.of else ''}"] = f"velocity times {text} at t = 0, 1/4, 1/2, 3/4, 1"
    return rows


def describe_model(name: str) -> str:
    """Describe a model, in lines of a label and a text."""
    require_models([name])
    from omatg_ray.model.flow_model import FlowModel
    from omatg_ray.policy.schedule import LearnedSchedule, curves

    model = FlowModel.load(name)
    what = model.description
    parameters = sum(weights.numel() for weights in model.base_network.parameters())
    noise = {field: _noise(what.noise[field]) for field in what.active}
    card = {"card": f"omatg-ray info {_shown(*model_named(name))}: use, figures, limits"} if bundled_set(name) else {}
    rows = {
        "model": f"{name}, {'reinforced' if what.active else 'a base model'}",
        **card,
        "network": f"{parameters:,} parameters{', twice (base and policy)' if 'policy' in model.learned else ''}; "
        + ", ".join(f"{key} {value}" for key, value in what.network.model_dump().items()),
        "paths": ", ".join(f"{key} {value}" for key, value in what.paths.model_dump(mode="json").items()),
        "starts": f"positions {what.base_distribution.pos.kind}, lattices {what.base_distribution.cell.kind}",
        "elements": f"{len(what.elements)}: {' '.join(what.elements)}" if what.elements else "unknown",
        "sizes": f"{as_ranges(what.sizes)} atoms per cell" if what.sizes else "unknown",
        "domain": _domain(what.domain),
        "active": f"{', '.join(what.active)} ({what.variant} policy)" + _gate(what) if what.active else "none",
        "noise": ", ".join(f"{field} {text}" for field, text in noise.items()) or "none",
        "annealing": _schedule(what.schedule),
        "potential": what.potential or "none",
    }
    learned = _factors(curves(model.schedule)) if isinstance(model.schedule, LearnedSchedule) else {}
    return _lines(rows | learned | _provenance(what.provenance))


def _gate(what: ModelDescription) -> str:
    return f" from t = {what.acts_from:g} on, before it as the base" if what.acts_from else ""


def _provenance(values: dict[str, Any], within: str = "") -> dict[str, str]:
    """Return what is known, a line for each value at the top and for each dictionary."""
    rows: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            single = {name: text for name, text in value.items() if not isinstance(text, dict)}
            text = ", ".join(f"{name} {_text(one)}" for name, one in single.items() if one is not None)
            rows |= {f"{within}{key}": text} if text else {}
            nested = {name: one for name, one in value.items() if isinstance(one, dict)}
            rows |= _provenance(nested, f"{within}{key}.")
        elif value is not None:
            rows[f"{within}{key}"] = _text(value)
    return rows


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _lines(rows: dict[str, str]) -> str:
    width = max(map(len, rows))
    return "\n".join(f"{label:<{width}}  {text}" for label, text in rows.items())


def _domain(domain: Domain | None) -> str:
    if domain is None:
        return "unknown"
    numbers = ", ".join(f"{count:,} of {counted(number, 'element')}" for number, count in domain.elements.items())
    return f"{counted(len(domain.pairs), 'pair')} of elements occur together; {domain.crystals:,} crystals: {numbers}"


def _noise(noise: NoiseSettings) -> str:
    size = set() if noise.kind == "learned" else {"hidden", "layers"}
    return ", ".join(f"{key} {value}" for key, value in noise.model_dump(exclude=size).items())


def _schedule(schedule: HandMadeSchedule | StepSizes | LearnedScheduleSettings | None) -> str:
    if schedule is None:
        return "none"
    if isinstance(schedule, LearnedScheduleSettings):
        return f"learned for {', '.join(schedule.fields)}: " + ", ".join(
            f"{key} {value}" for key, value in schedule.model_dump(exclude={"kind", "fields"}).items()
        )
    if isinstance(schedule, LinearSchedule):
        limit = "" if schedule.limit is None else f", no lengthened step more than {schedule.limit:g} of what is left"
        return ", ".join(f"{field} velocity times 1 + {getattr(schedule, field):g} t" for field in FIELDS) + limit
    return ", ".join(f"{key} {value}" for key, value in schedule.model_dump().items())
