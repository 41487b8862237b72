"""Report of a run: one HTML file with its numbers and pictures, which loads nothing from elsewhere."""

from __future__ import annotations

import re
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from omatg_ray.errors import ConfigError, DataError, ModelError
from omatg_ray.evaluate.change import changes
from omatg_ray.evaluate.metrics import CAPPED, measured_columns
from omatg_ray.model.flow_model import FlowModel
from omatg_ray.model.schedule import SCHEDULE_FILE, read_description
from omatg_ray.policy.features import STEPS_SHOWN
from omatg_ray.policy.schedule import curves
from omatg_ray.report.actors import actors_section, read_json, timeline_section, times_section
from omatg_ray.report.drawing import read_crystals
from omatg_ray.report.page import (
    ABSURD,
    ABSURD_NOTE,
    card,
    crystal_card,
    format_number,
    grid,
    page,
    soft,
    spread,
    table,
    with_warning,
)
from omatg_ray.report.panels import PRETRAINING, REINFORCEMENT, rewards
from omatg_ray.report.plots import energy_histogram
from omatg_ray.report.rewards import rewards_of
from omatg_ray.report.schedules import SLOPES, draw_schedules
from omatg_ray.run.advice import command
from omatg_ray.run.atomic import write_text
from omatg_ray.run.folder import RunFolder
from omatg_ray.run.metrics import read_metrics
from omatg_ray.tree import parse

COUNTS = ("n", "n_polymorphic")
"""Metrics that count the rows behind other metrics; they get no column if they are all the same."""
BEST_IS_BASE = "Best is the base: no validation was better than the first, so the rows before and after are the same."


def write_report(run_folder: Path) -> Path:
    """Write `report.html` into the folder of a training or pretraining run; the report names missing inputs.

    Reads `config.yaml`, `versions.json`, `metrics.jsonl`, `evaluation/*.json`, `actors.json` and `timeline.json` (if
    the run was on Ray) and `structures/{before,after,reference}.extxyz` from that folder.

    Returns:
        Path of the report.

    Raises:
        DataError: `run_folder` is not a folder.
        OmatgRayError: The report cannot be written.
    """
    if not run_folder.is_dir():
        raise DataError(f"there is no run folder {run_folder}")
    run = RunFolder(run_folder)
    missing: list[str] = []
    lines = _metrics(run.metrics_path, missing)
    evaluations = _evaluations(run.evaluation, missing)
    tested = {line["kind"] for line in lines} != {"pretrain"} and _setting(run, "test", "limit") != 0
    expected: list[str] = missing if tested else []
    sections = [
        ("Before and after", _table(evaluations, expected)),
        ("Relative energies before and after", _energies(evaluations, expected)),
        *_schedule(run, evaluations, missing),
        ("Over the run", _curves(run, lines, missing)),
        ("Time of every iteration", times_section(lines)),
        ("When actors worked", timeline_section(run, missing)),
        ("Actors", actors_section(run, lines, missing)),
        ("Crystals before and after", _crystals(run, evaluations, expected)),
        ("How it was run", _settings(run, missing)),
    ]
    notes = soft(f"Not in this run folder: {'; '.join(missing)}.") if missing else ""
    path = run.path / "report.html"
    write_text(path, page(run.path.resolve().name, _summary(lines), sections, notes))
    return path


# --- reading ------------------------------------------------------------------------------------------------------


def _metrics(path: Path, missing: list[str]) -> list[dict[str, Any]]:
    try:
        return read_metrics(path)
    except DataError as error:
        missing.append(str(error) if path.exists() else path.name)
        return []


def _evaluations(folder: Path, missing: list[str]) -> dict[str, dict[str, Any]]:
    """Read the evaluations, by file name; before and after come first."""
    evaluations: dict[str, dict[str, Any]] = {}
    order = {"before": 0, "after": 1}
    for path in sorted(folder.glob("*.json"), key=lambda path: (order.get(path.stem, 2), path.stem)):
        evaluation = read_json(path)
        if isinstance(evaluation, dict):
            evaluations[path.stem] = evaluation
        else:
            missing.append(f"{path.name}, which cannot be read")
    return evaluations


# --- sections -----------------------------------------------------------------------------------------------------


def _summary(lines: list[dict[str, Any]]) -> str:
    parts = []
    for kind, unit in (("pretrain", "epochs of pretraining"), ("train", "iterations of reinforcement")):
        steps = [line["step"] for line in lines if line["kind"] == kind]
        if steps:
            parts.append(f"{max(steps):,} {unit}")
    return soft(", ".join(parts)) if parts else ""


def _table(evaluations: dict[str, dict[str, Any]], missing: list[str]) -> str:
    missing.extend(f"{name} evaluation" for name in ("before", "after") if name not in evaluations)
    if not evaluations:
        return ""
    metrics_of = {name: evaluation.get("metrics") or {} for name, evaluation in evaluations.items()}
    columns = measured_columns(metrics_of.values())
    settings = {"grid points (evaluations)": "steps", "noise": "noise", "seed": "seed"}
    cells = {title: [_text(one, key) for one in evaluations.values()] for title, key in settings.items()}
    for key, column in columns.items():
        cells[column.title] = [format_number(metrics.get(key), column.form) for metrics in metrics_of.values()]
    # Values that all rows share take no column.
    shareable = {*settings, *(columns[key].title for key in COUNTS if key in columns)}
    shown = {title: texts for title, texts in cells.items() if title not in shareable or len(set(texts)) > 1}
    common = [f"{title}: {texts[0]}" for title, texts in cells.items() if title not in shown and texts[0]]
    labels = [str(evaluation.get("label", name)) for name, evaluation in evaluations.items()]
    rows = [list(row) for row in zip(labels, *shown.values(), strict=True)]
    note = (
        "Energies in eV/atom relative to the reference of the same row, by the same potential. "
        f"{CAPPED} RMSE over matched structures; cRMSE counts an unmatched one as the matcher's tolerance."
    )
    if "match_any" in columns:
        note += (
            " Polymorphs of a structure are the crystals of the data set with the same atoms in a cell, if there are at"
            " least two; it matches the lowest if that is its closest match among them."
        )
    if common:
        note = f"All rows: {', '.join(common)}. {note}"
    said = [BEST_IS_BASE] if _same(evaluations) else _changes(evaluations)
    paragraphs = "".join(f"<p>{escape(text)}</p>" for text in said)
    return table(["", *shown], rows, paragraphs + soft(note)) + rewards_of(labels, list(evaluations.values()))


def _same(evaluations: Mapping[str, Mapping[str, Any]]) -> bool:
    """Return whether the same crystals were generated before and after."""
    rows = [evaluations.get(name, {}).get("per_structure") for name in ("before", "after")]
    return bool(rows[0]) and rows[0] == rows[1]


def _text(evaluation: Mapping[str, Any], key: str) -> str:
    """Format a setting of an evaluation; for grid points, with the number of network evaluations."""
    value = evaluation.get(key)
    if key == "steps" and isinstance(value, int):
        return f"{value} ({value - 1})"
    return "" if value is None else str(value)


def _changes(evaluations: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Describe the change from before to after, with intervals; empty if one is missing or rows are not paired."""
    if not {"before", "after"} <= evaluations.keys():
        return []
    measured = changes(evaluations["before"], evaluations["after"])
    texts = [str(change).replace("-", "−") for change in measured]
    return ["After minus before, with 95 % intervals (paired bootstrap over compositions):", *texts] if texts else []


def _curves(run: RunFolder, lines: list[dict[str, Any]], missing: list[str]) -> str:
    kinds = {line["kind"] for line in lines}
    link = re.search(r"\d+$", run.pointed_at("best") or "")
    best = int(link.group()) if link else None
    cards = []
    reinforcement = (*REINFORCEMENT, *rewards(_weights(run), (name for line in lines for name in line)))
    for panels, shown in ((PRETRAINING, "pretrain" in kinds), (reinforcement, kinds != {"pretrain"})):
        for panel in panels if shown else ():
            figure = panel.figure(lines, best)
            if figure is None:
                missing.extend([] if panel.optional else [f"numbers for “{panel.title}”"])
            else:
                cards.append(card(panel.title, figure, panel.caption))
    return grid(cards)


def _weights(run: RunFolder) -> dict[str, float]:
    """Read the weights of the rewards by name from `config.yaml`; empty if it is missing or cannot be read."""
    try:
        return {str(name): float(weight) for name, weight in _setting(run, "reward", "weights").items()}
    except (TypeError, AttributeError, ValueError):
        return {}


def _setting(run: RunFolder, *names: str) -> Any:
    """Read a value of `config.yaml`; None if it is missing or cannot be read."""
    try:
        value = parse(run.config_path.read_text(encoding="utf-8"))
        for name in names:
            value = value[name]
    except (OSError, ConfigError, KeyError, TypeError, ValueError):
        return None
    return value


def _energies(evaluations: dict[str, dict[str, Any]], missing: list[str]) -> str:
    relative = {name: _per_structure(evaluations, name).get("relative_energy") for name in ("before", "after")}
    figure = energy_histogram({name: energies for name, energies in relative.items() if energies}, ABSURD)
    missing.extend(["relative energies per structure"] if figure is None else [])
    return card("", figure, "Per structure, by the same potential; dotted: the reference.")


def _schedule(
    run: RunFolder, evaluations: Mapping[str, Mapping[str, Any]], missing: list[str]
) -> list[tuple[str, str]]:
    """Build the section on the schedule of a run's best model, learned in this run or frozen; empty without one."""
    learned = (run.schedule / SCHEDULE_FILE).exists()
    annealed = evaluations.get("after", {}).get("annealing") or {"kind": "none"}
    if not learned and annealed.get("kind") == "none":
        return []
    try:
        schedule = None if learned else FlowModel.load(run.path).schedule
        evaluated_at = evaluations.get("after", {}).get("steps")
        grids = [evaluated_at] if isinstance(evaluated_at, int) else STEPS_SHOWN
        shown = read_description(run.schedule).curves if learned else schedule and curves(schedule, grids)
    except ModelError:
        missing.append("a readable " + (SCHEDULE_FILE if learned else "model with its schedule"))
        return []
    if not shown:
        return []
    slopes = ", ".join(f"{slope:g}" for slope in SLOPES)
    caption = f"Factor on the base's velocity. Dotted: hand-made 1 + slope · t, slopes {slopes}."
    if learned:
        caption += f" Use it with any base model: {escape(command('generate', 'MODEL', '--schedule', run.path))}"
    name, title = ("learned", "The learned schedule") if learned else ("frozen", "The schedule it was trained with")
    return [(title, card("", draw_schedules({name: shown}), caption))]


def _crystals(run: RunFolder, evaluations: dict[str, dict[str, Any]], missing: list[str]) -> str:
    columns = {name: read_crystals(run.structures / f"{name}.extxyz") for name in ("before", "after", "reference")}
    missing.extend(f"readable structures/{name}.extxyz" for name, crystals in columns.items() if not crystals)
    columns = {name: crystals for name, crystals in columns.items() if crystals}
    if not columns:
        return ""
    rows = min(len(crystals) for crystals in columns.values())
    formulas = [atoms.get_chemical_formula("metal") for atoms in next(iter(columns.values()))[:rows]]
    cards = {
        index: {name: (crystals[index], _caption(evaluations, name, index)) for name, crystals in columns.items()}
        for index in spread(formulas)
    }
    note = (
        "Compositions are evenly spaced in the file, not chosen by result. Energies in eV/atom, and relative to the "
        f"reference. {ABSURD_NOTE}"
    )
    if _same(evaluations):
        note = f"{BEST_IS_BASE} {note}"
    return grid([crystal_card(formulas[row], drawn, f"row {row}") for row, drawn in cards.items()], soft(note))


def _settings(run: RunFolder, missing: list[str]) -> str:
    parts = []
    for title, path in (("Configuration", run.config_path), ("Versions", run.versions_path)):
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, ValueError):
            missing.append(path.name)
            continue
        parts.append(f"<details><summary>{title}</summary><pre>{escape(text)}</pre></details>")
    return "".join(parts)


# --- small pieces -------------------------------------------------------------------------------------------------


def _per_structure(evaluations: dict[str, dict[str, Any]], name: str) -> dict[str, list[Any]]:
    columns = evaluations.get(name, {}).get("per_structure", {})
    return columns if isinstance(columns, dict) else {}


def _caption(evaluations: dict[str, dict[str, Any]], name: str, index: int) -> str:
    """Describe structure `index`; the reference's energy follows from an evaluation's relative energies."""
    for source in (name,) if name != "reference" else ("after", "before"):
        known = {
            key: column[index] for key, column in _per_structure(evaluations, source).items() if index < len(column)
        }
        energy, relative = known.get("energy_per_atom"), known.get("relative_energy")
        if name == "reference":
            if energy is not None and relative is not None:
                return format_number(energy - relative, "{:.3f}\n")
        elif not known.get("valid", True):
            return "invalid\n"
        elif energy is not None and relative is not None:
            rmse = known.get("rmse")
            match = "no match" if rmse is None else f"RMSE {rmse:.3f}"
            return f"{format_number(energy, '{:.3f}')} ({with_warning(relative, '{:+.3f}')})\n{match}"
    return ""
