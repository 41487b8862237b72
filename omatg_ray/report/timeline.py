"""The picture of one iteration on Ray: who worked when, and who waited for whom."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from omatg_ray.report.plots import INK, actor_order, dress, legend, role_colours
from omatg_ray.run.timeline import Actor, Span, Timeline

WIDTH, HEIGHT_OF_ROW = 11.4, 0.24
NAMED_ROWS = 40
"""Up to so many actors are named each; of more, only their roles."""
HIGHEST = 9.0
SHARE = 0.1
"""Share of an iteration from which something is worth saying."""
GAP = 0.15
"""Part of a row's height that stays free."""


def draw_timeline(timeline: Timeline) -> Figure | None:
    """One row per actor, coloured by role, over the seconds of the iteration; None where nobody worked."""
    rows = _rows(timeline)
    if not timeline.spans:
        return None
    height = min(max(len(rows) * HEIGHT_OF_ROW, 1.0), HIGHEST) + 0.9
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    axes = figure.add_subplot()
    dress(axes, "time since the iteration began (s)", "")
    axes.grid(visible=False, axis="y")
    axes.grid(axis="x", color=INK, alpha=0.12, linewidth=0.8)
    colours = role_colours(role for role, _ in rows)
    # The edge keeps two requests apart that follow each other without a pause.
    edge = 0.4 if len(rows) <= NAMED_ROWS else 0.0
    for row, ((role, _), spans) in enumerate(rows.items()):
        bars = [(span.start, span.end - span.start) for span in spans]
        place = (row + GAP, 1 - 2 * GAP)
        axes.broken_barh(bars, place, facecolors=colours[role], edgecolors=INK, linewidths=edge, alpha=0.9)
    axes.set_xlim(0.0, timeline.seconds)
    axes.set_ylim(len(rows), 0)
    if len(rows) <= NAMED_ROWS:
        axes.set_yticks(np.arange(len(rows)) + 0.5, [f"{role} {index}" for role, index in rows])
    else:
        places = {role: [row for row, (own, _) in enumerate(rows) if own == role] for role in colours}
        middles = [float(np.mean(found)) + 0.5 for found in places.values()]
        axes.set_yticks(middles, [f"{role} ({len(found)})" for role, found in places.items()])
    axes.tick_params(axis="y", length=0)
    shown = [Patch(facecolor=colour, label=role) for role, colour in colours.items()]
    legend(axes, shown)
    return figure


def describe_timeline(timeline: Timeline) -> str:
    """What the picture shows, in words: who worked how much, and for whom the others waited."""
    rows, seconds = _rows(timeline), timeline.seconds
    roles = list(role_colours(role for role, _ in rows))
    shares, alone = dict[str, float](), dict[str, float]()
    anybody = _covered(timeline.spans, seconds)
    for role in roles:
        members = [_covered(spans, seconds) for actor, spans in rows.items() if actor[0] == role]
        shares[role] = sum(members) / len(members) / seconds
        alone[role] = anybody - _covered([span for span in timeline.spans if span.role != role], seconds)
    said = ", ".join(f"{role} {share:.0%}" for role, share in shares.items())
    text = [f"Iteration {timeline.iteration}, {seconds:.2f} s. Share of it in which actors computed: {said}."]
    waited_for = [f"{role} actors for {alone[role]:.2f} s" for role in roles if alone[role] >= SHARE * seconds]
    if len(roles) > 1 and waited_for:
        text.append(f"Alone at work: {', '.join(waited_for)}; the others wait for them then.")
    elif len(roles) > 1:
        text.append(f"No role has all others wait for it for {SHARE:.0%} of the time or longer.")
    if seconds - anybody >= SHARE * seconds:
        text.append(f"For {seconds - anybody:.2f} s no actor works: the driver does, or something is on its way.")
    return " ".join(text)


def _rows(timeline: Timeline) -> dict[Actor, list[Span]]:
    """What was done by everyone who was there at the end or has worked, sorted by the stage that they work in."""
    found: dict[Actor, list[Span]] = {actor: [] for actor in timeline.actors}
    for span in timeline.spans:
        found.setdefault((span.role, span.actor), []).append(span)
    return {actor: found[actor] for actor in sorted(found, key=actor_order)}


def _covered(spans: Iterable[Span], seconds: float) -> float:
    """Seconds in which at least one of some spans lasts, within an iteration."""
    covered = end = 0.0
    for span in sorted(spans, key=lambda one: one.start):
        stop = min(span.end, seconds)
        covered += max(0.0, stop - max(span.start, end))
        end = max(end, stop)
    return covered
