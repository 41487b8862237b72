"""Pictures of schedules: the factor on the velocity of each field over the time of the flow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from omatg_ray.crystal.fields import FIELDS
from omatg_ray.policy.hand_made import LinearSchedule
from omatg_ray.policy.schedule import curves
from omatg_ray.policy.settings import Curve
from omatg_ray.report.plots import COLOURS, DASHES, INK, WIDE, dressed, legend

TITLES = {"pos": "positions", "cell": "lattices"}
SLOPES = (2.0, 5.0, 10.0)
"""Slopes of hand-made schedules to compare with."""


def draw_schedules(shown: Mapping[str, Sequence[Curve]]) -> Figure:
    """Draw 1 + s(t) of positions and of lattices, over hand-made linear schedules (`SLOPES`).

    Args:
        shown: Curves by name of the schedule; all curves of a schedule have one colour.
    """
    figure, row = dressed(WIDE, *(("t", f"1 + s(t), {TITLES[field]}") for field in FIELDS))
    for axes, field in zip(row, FIELDS, strict=True):
        values = [value for curves_of in shown.values() for curve in curves_of for value in getattr(curve, field)]
        axes.set_ylim(1.1 * min(0.0, *values), 1.15 * max(1.5, *values))
        for slope in SLOPES:
            for curve in curves(LinearSchedule(pos=slope, cell=slope)):
                axes.plot(curve.t, getattr(curve, field), color=INK, alpha=0.25, linewidth=0.9, linestyle=":")
        axes.axhline(1.0, color=INK, linewidth=0.8, alpha=0.5)
        for (name, curves_of), colour in zip(shown.items(), COLOURS, strict=False):
            for curve, dash in zip(curves_of, DASHES, strict=False):
                label = ", ".join(filter(None, (name, curve.of)))
                axes.plot(curve.t, getattr(curve, field), color=colour, linestyle=dash, label=label)
        legend(axes)
    return figure
