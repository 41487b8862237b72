"""Picture of one iteration on Ray: when each actor worked, and which actors waited for which."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from omatg_ray.report.plots import INK, WIDE, actor_order, dressed, legend, role_colours
from omatg_ray.run.timeline import Actor, Span, Timeline

HEIGHT_OF_ROW = 0.24
NAMED_ROWS = 40
"""Up to this many actors are labelled one by one; beyond, only their roles are."""
HIGHEST = 9.0
SHARE = 0.1
"""Smallest share of an iteration worth mentioning."""
GAP = 0.15
"""Share of a row's height that stays free."""


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
