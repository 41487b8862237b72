"""Sections of a run's report on where the time went: stages, actors, one iteration on a timeline."""

from __future__ import annotations

import json
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from omatg_ray.errors import DataError
from omatg_ray.report.page import card, format_number, grid, soft, table
from omatg_ray.report.plots import (
    FEW_ACTORS,
    ROLES,
    Points,
    actor_order,
    idle_curves,
    idle_shares,
    stacked_times,
    stage_times,
    values,
)
from omatg_ray.report.timeline import describe_timeline, draw_timeline
from omatg_ray.run.folder import RunFolder
from omatg_ray.run.text import counted
from omatg_ray.run.timeline import Actor, Timeline

STARTUP = {
    "startup_cluster": "connected to the cluster after {:.1f} s",
    "startup_actors": "all actors ready {:.1f} s later",
    "startup_first_trajectory": "first trajectory back {:.1f} s after the start, loading and validation aside",
}


def _read_actors(path: Path, missing: list[str]) -> dict[Actor, dict[str, Any]]:
    """Read the entries of `actors.json`, by role and index."""
    entries = read_json(path)
    try:
        if not isinstance(entries, list):
            raise TypeError
        return {(str(actor["role"]), int(actor["index"])): actor for actor in entries}
    except (TypeError, KeyError, ValueError):
        missing.append(f"{path.name}, which cannot be read" if path.exists() else path.name)
        return {}


def read_json(path: Path) -> Any:
    """Read a JSON file, with NaN as None; return None if it cannot be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"), parse_constant=lambda _: None)
    except (OSError, ValueError):
        return None


def times_section(lines: list[dict[str, Any]]) -> str:
    """Show how long the stages of an iteration took."""
    figure, rows = stacked_times(lines), []
    for stage, (_, seconds) in stage_times(lines).items():
        ran = seconds[seconds > 0]
        rows.append([stage, f"{np.median(ran):.2f}", f"{seconds.sum():,.0f}", str(len(ran))])
    boxes = [card("", figure), table(["stage", "median (s)", "total (s)", "iterations"], rows)]
    return grid(boxes) if rows else ""


def timeline_section(run: RunFolder, missing: list[str]) -> str:
    """Show the last iteration before the newest checkpoint of a run on Ray."""
    path = run.timeline_path
    if not path.exists():
        return ""  # a run in one process, or one that did no iteration
    try:
        timeline = Timeline.read(path)
    except DataError:
        missing.append(f"{path.name}, which cannot be read")
        return ""
    figure = draw_timeline(timeline)
    return card("", figure, escape(describe_timeline(timeline)))


def actors_section(run: RunFolder, lines: list[dict[str, Any]], missing: list[str]) -> str:
    """Show every actor: where it runs, how busy it was, and what failed."""
    path = run.actors_path
    shares = idle_shares(lines)
    if not shares and not path.exists():
        return ""  # a run in one process
    described = _read_actors(path, missing)
    rows = _actor_rows(shares, described)
    if not rows:
        return ""
    head = ["actor", "node", "device", "threads", "ready (s)", "median busy"]
    note = soft(" ".join([*_startup(lines, described), *_failures(lines)]))
    figure = idle_curves(shares)
    caption = (
        "Share of an iteration's time, validation aside, in which an actor did not compute; waiting for input and "
        "sending output count as idle."
    )
    if len(shares) <= FEW_ACTORS:
        return grid([card("", figure, caption), table(head, rows)], note)
    shown = card("", figure, f"{caption} The bands reach from the busiest to the idlest actor of a role.")
    return f"{note}{shown}{table(head, rows, folded='All actors')}"


def _actor_rows(shares: Mapping[Actor, Points], described: Mapping[Actor, dict[str, Any]]) -> list[list[str]]:
    """Return table rows for the actors that logged idle shares or are described."""
    rows = []
    for actor in sorted({*shares, *described}, key=actor_order):
        info = described.get(actor, {})
        node, device, threads = (info.get(key) for key in ("node", "device", "threads"))
        # Several nodes of a cluster may share one machine.
        where = f"{node} ({info['node_id'][:6]})" if info.get("node_id") else node
        texts = ["–" if text is None else str(text) for text in (where, device, threads)]
        busy = 1.0 - float(np.median(shares[actor][1])) if actor in shares else None
        ready = format_number(info.get("ready_seconds"), "{:.1f}")
        rows.append([" ".join(map(str, actor)), *texts, ready, format_number(busy, "{:.0%}")])
    return rows


def _startup(lines: list[dict[str, Any]], described: Mapping[Actor, dict[str, Any]]) -> list[str]:
    """Return sentences on the number of actors, their start and their imports."""
    sentences = []
    nodes = {info.get("node_id") for info in described.values()} - {None}
    if nodes:
        sentences.append(f"{counted(len(described), 'actor')} on {counted(len(nodes), 'node')}.")
    seconds = {name: values(lines, "train", name)[1] for name in STARTUP}
    spent = [form.format(seconds[name][-1]) for name, form in STARTUP.items() if len(seconds[name])]
    if spent:
        sentences.append(f"At the last start: {', '.join(spent)}.")
    imported: dict[str, set[str]] = {}
    for actor in sorted(described, key=actor_order):
        imported.setdefault(actor[0], set()).update(described[actor].get("imports") or ())
    if any(imported.values()):
        of_roles = (f"{role}: {', '.join(sorted(names)) or 'none'}" for role, names in imported.items())
        sentences.append(f"Heavy imports of {'; '.join(of_roles)}.")
    return sentences


def _failures(lines: list[dict[str, Any]]) -> list[str]:
    """Return a sentence on replaced actors and requests sent again, if there were any."""
    totals = {
        kind: {role: int(values(lines, "train", f"{kind}_{role}")[1].sum()) for role in ROLES}
        for kind in ("replaced", "retried")
    }
    clauses = []
    for kind, noun, verb in (("replaced", "actor", "replaced"), ("retried", "request", "sent again")):
        counts = [f"{role} {count}" for role, count in totals[kind].items() if count]
        if counts:
            clauses.append(f"{noun}s {verb}: {', '.join(counts)}")
    return [f"Failures that the run recovered from: {'; '.join(clauses)}."] if clauses else []
