"""Sections of a run's report on where the time went: stages, actors, one iteration on a timeline."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from omatg_ray.errors import DataError
from omatg_ray.report.page import card, format_number, grid, soft, table
from omatg_ray.report.plots import (
    COLOURS,
    DASHES,
    INK,
    NORMAL,
    SMOOTH_FROM,
    WIDE,
    Points,
    dressed,
    legend,
    running_mean,
    values,
)
from omatg_ray.run.folder import RunFolder
from omatg_ray.run.text import counted
from omatg_ray.run.timeline import Actor, Span, Timeline

STAGES = ("rollout", "reward", "learn", "weights", "validation")
ROLES = ("rollout", "reward", "learner")
"""Roles of actors, in the order, and hence the colours, of their stages."""
FEW_ACTORS = len(DASHES)
"""Up to this many actors get a curve each."""
STARTUP = {
    "startup_cluster": "connected to the cluster after {:.1f} s",
    "startup_actors": "all actors ready {:.1f} s later",
    "startup_first_trajectory": "first trajectory back {:.1f} s after the start, loading and validation aside",
}

HEIGHT_OF_ROW = 0.24
NAMED_ROWS = 40
"""Up to this many actors are labelled one by one; beyond, only their roles are."""
HIGHEST = 9.0
SHARE = 0.1
"""Smallest share of an iteration worth mentioning."""
GAP = 0.15
"""Share of a row's height that stays free."""


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
    return card("", draw_timeline(timeline), escape(describe_timeline(timeline)))


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
    seconds = {form: values(lines, "train", name)[1] for name, form in STARTUP.items()}
    spent = [form.format(known[-1]) for form, known in seconds.items() if len(known)]
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
    clauses = []
    for kind, what in (("replaced", "actors replaced"), ("retried", "requests sent again")):
        totals = {role: int(values(lines, "train", f"{kind}_{role}")[1].sum()) for role in ROLES}
        counts = [f"{role} {count}" for role, count in totals.items() if count]
        clauses += [f"{what}: {', '.join(counts)}"] if counts else []
    return [f"Failures that the run recovered from: {'; '.join(clauses)}."] if clauses else []


def stage_times(lines: Sequence[Mapping[str, Any]]) -> dict[str, Points]:
    """Return steps and seconds by stage, for the stages that took any time."""
    times = {stage: values(lines, "train", f"time_{stage}") for stage in STAGES}
    return {stage: entry for stage, entry in times.items() if entry[1].sum() > 0}


def stacked_times(lines: Sequence[Mapping[str, Any]]) -> Figure | None:
    """Stack the seconds of the stages of every iteration; return None if there are none."""
    times = stage_times(lines)
    if not times:
        return None
    figure, (axes,) = dressed(NORMAL, ("iteration", "time (s)"), whole=True)
    steps, table = _on_common_steps(list(times.values()))
    edges = np.append(steps, steps[-1] + 1) - 0.5
    tops = np.nan_to_num(table).cumsum(axis=0)
    bottoms = [np.zeros(len(steps)), *tops[:-1]]
    colours = dict(zip(STAGES, COLOURS, strict=True))
    for stage, top, bottom in zip(times, tops, bottoms, strict=True):
        axes.stairs(top, edges, baseline=bottom, fill=True, color=colours[stage], label=stage, linewidth=0)
    legend(axes)
    return figure


def _on_common_steps(several: Sequence[Points]) -> tuple[np.ndarray, np.ndarray]:
    """Return all steps (n,), and values in a row for each of several (m, n), NaN at steps that it lacks."""
    steps = np.unique(np.concatenate([own_steps for own_steps, _ in several]))
    table = np.full((len(several), len(steps)), np.nan)
    for row, (own_steps, numbers) in zip(table, several, strict=True):
        row[np.searchsorted(steps, own_steps)] = numbers
    return steps, table


def actor_order(actor: Actor) -> tuple[int, str, int]:
    """Return the sort key of an actor (role and index), by the stage it works in."""
    role, index = actor
    return ROLES.index(role) if role in ROLES else len(ROLES), role, index


def role_colours(roles: Iterable[str]) -> dict[str, str]:
    """Return the colour of each role present, in the order of the stages."""
    present = set(roles)
    known = dict.fromkeys((*ROLES, *sorted(present)))
    colours = {role: COLOURS[number % len(COLOURS)] for number, role in enumerate(known)}
    return {role: colour for role, colour in colours.items() if role in present}


def idle_shares(lines: Sequence[Mapping[str, Any]]) -> dict[Actor, Points]:
    """Return steps and idle shares (0 to 1) by role and index, for every actor that has any."""
    names = {name for line in lines if line["kind"] == "train" for name in line}
    actors = [(match[1], int(match[2])) for name in names if (match := re.fullmatch(r"idle_(\w+)_(\d+)", name))]
    shares = {
        (role, index): values(lines, "train", f"idle_{role}_{index}") for role, index in sorted(actors, key=actor_order)
    }
    return {actor: entry for actor, entry in shares.items() if len(entry[1])}


def idle_curves(found: Mapping[Actor, Points]) -> Figure | None:
    """Draw the result of `idle_shares` over the iterations; return None if it is empty.

    Few actors get a curve each. With more, every role gets its median and a band from its lowest to its highest.
    """
    if not found:
        return None
    few = len(found) <= FEW_ACTORS
    figure, (axes,) = dressed(NORMAL if few else WIDE, ("iteration", "idle share"), whole=True, percent=True)
    axes.set_ylim(0.0, 1.0)
    colours = role_colours(role for role, _ in found)

    def smooth(numbers: np.ndarray) -> np.ndarray:
        return running_mean(numbers, len(numbers) // 40) if len(numbers) >= SMOOTH_FROM else numbers

    groups: dict[Actor, list[Points]] = {}
    for (role, index), entry in found.items():
        groups.setdefault((role, index if few else 0), []).append(entry)
    for (role, index), members in groups.items():
        steps, table = _on_common_steps(members)
        label = f"{role} {index}" if few else role if len(members) == 1 else f"{role}: median of {len(members)}"
        axes.plot(
            steps,
            smooth(np.nanmedian(table, axis=0)),
            color=colours[role],
            linestyle=DASHES[index % len(DASHES)],
            linewidth=1.5 if few else 1.8,
            marker="o" if len(steps) == 1 else None,
            markersize=4,
            label=label,
        )
        if not few:
            low, high = smooth(np.nanmin(table, axis=0)), smooth(np.nanmax(table, axis=0))
            axes.fill_between(steps, low, high, color=colours[role], alpha=0.15, linewidth=0)
    legend(axes)
    return figure


def draw_timeline(timeline: Timeline) -> Figure | None:
    """Draw one row per actor, coloured by role, over the seconds of the iteration; None if no actor worked."""
    rows = _rows(timeline)
    if not timeline.spans:
        return None
    height = min(max(len(rows) * HEIGHT_OF_ROW, 1.0), HIGHEST) + 0.9
    figure, (axes,) = dressed((WIDE[0], height), ("time since the iteration began (s)", ""), along="x")
    colours = role_colours(role for role, _ in rows)
    # The edge separates two requests without a pause between them.
    edge = 0.4 if len(rows) <= NAMED_ROWS else 0.0
    for row, ((role, _), spans) in enumerate(rows.items()):
        bars = [(span.start, span.end - span.start) for span in spans]
        extent = (row + GAP, 1 - 2 * GAP)
        axes.broken_barh(bars, extent, facecolors=colours[role], edgecolors=INK, linewidths=edge, alpha=0.9)
    axes.set_xlim(0.0, timeline.seconds)
    axes.set_ylim(len(rows), 0)
    if len(rows) <= NAMED_ROWS:
        axes.set_yticks(np.arange(len(rows)) + 0.5, [f"{role} {index}" for role, index in rows])
    else:
        rows_of = {role: [row for row, (own, _) in enumerate(rows) if own == role] for role in colours}
        middles = [float(np.mean(own_rows)) + 0.5 for own_rows in rows_of.values()]
        axes.set_yticks(middles, [f"{role} ({len(own_rows)})" for role, own_rows in rows_of.items()])
    axes.tick_params(axis="y", length=0)
    shown = [Patch(facecolor=colour, label=role) for role, colour in colours.items()]
    legend(axes, shown)
    return figure


def describe_timeline(timeline: Timeline) -> str:
    """Describe the picture in words: how much each role worked, and which roles the others waited for."""
    rows, seconds = _rows(timeline), timeline.seconds
    roles = list(role_colours(role for role, _ in rows))
    shares, alone = dict[str, float](), dict[str, float]()
    any_actor = _covered(timeline.spans, seconds)
    for role in roles:
        members = [_covered(spans, seconds) for actor, spans in rows.items() if actor[0] == role]
        shares[role] = sum(members) / len(members) / seconds
        alone[role] = any_actor - _covered([span for span in timeline.spans if span.role != role], seconds)
    listed = ", ".join(f"{role} {share:.0%}" for role, share in shares.items())
    text = [f"Iteration {timeline.iteration}, {seconds:.2f} s. Share of it in which actors computed: {listed}."]
    waited_for = [f"{role} actors for {alone[role]:.2f} s" for role in roles if alone[role] >= SHARE * seconds]
    if len(roles) > 1 and waited_for:
        text.append(f"Alone at work: {', '.join(waited_for)}; meanwhile the others wait.")
    elif len(roles) > 1:
        text.append(f"No role keeps all others waiting for {SHARE:.0%} of the time or longer.")
    if seconds - any_actor >= SHARE * seconds:
        text.append(f"For {seconds - any_actor:.2f} s no actor works: the driver does, or data is in transit.")
    return " ".join(text)


def _rows(timeline: Timeline) -> dict[Actor, list[Span]]:
    """Group the spans by actor, for all actors that worked or were there at the end, sorted by stage."""
    spans_of: dict[Actor, list[Span]] = {actor: [] for actor in timeline.actors}
    for span in timeline.spans:
        spans_of.setdefault((span.role, span.actor), []).append(span)
    return {actor: spans_of[actor] for actor in sorted(spans_of, key=actor_order)}


def _covered(spans: Iterable[Span], seconds: float) -> float:
    """Return the seconds of an iteration that at least one of the spans covers."""
    covered = end = 0.0
    for span in sorted(spans, key=lambda span: span.start):
        stop = min(span.end, seconds)
        covered += max(0.0, stop - max(span.start, end))
        end = max(end, stop)
    return covered
