from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.patches import StepPatch

from omatg_ray.report.actors import (
    NAMED_ROWS,
    describe_timeline,
    draw_timeline,
    idle_curves,
    idle_shares,
    stacked_times,
)
from omatg_ray.report.plots import COLOURS, svg
from omatg_ray.run.timeline import Span, Timeline
from tests.report.test_plots import axes_of, points, train


def serial() -> Timeline:
    """Ten seconds: rollouts in two, the last second of which is also scored, and an update of four."""
    spans = (
        Span("rollout", 0, "rollout", 0.0, 1.0),
        Span("rollout", 0, "rollout", 1.0, 2.0),
        Span("rollout", 1, "rollout", -1.0, 2.0),
        Span("reward", 0, "score", 1.0, 2.5),
        Span("learner", 0, "update", 4.0, 8.0),
    )
    return Timeline(3, 10.0, (("learner", 0), ("reward", 0), ("rollout", 0), ("rollout", 1), ("rollout", 2)), spans)


def bars(figure: Figure | None) -> dict[str, list[tuple[float, float]]]:
    """Beginnings and ends of the bars in every row, by its label."""
    assert figure is not None
    axes = figure.axes[0]
    labels = [label.get_text() for label in axes.get_yticklabels()]
    return {
        label: [(path.vertices[:, 0].min(), path.vertices[:, 0].max()) for path in collection.get_paths()]
        for label, collection in zip(labels, axes.collections, strict=True)
    }


def test_every_actor_has_a_row_with_its_work() -> None:
    figure = draw_timeline(serial())
    assert bars(figure) == {
        "rollout 0": [(0.0, 1.0), (1.0, 2.0)],
        "rollout 1": [(-1.0, 2.0)],
        "rollout 2": [],
        "reward 0": [(1.0, 2.5)],
        "learner 0": [(4.0, 8.0)],
    }
    assert figure is not None and figure.axes[0].get_xlim() == (0.0, 10.0)
    top, bottom = figure.axes[0].get_ylim()[::-1]
    assert (top, bottom) == (0.0, 5.0)


def test_rows_of_a_role_have_one_colour_and_roles_different_ones() -> None:
    figure = draw_timeline(serial())
    assert figure is not None
    first, second, _, reward, learner = (one.get_facecolor().tolist() for one in figure.axes[0].collections)
    assert first[0] == second[0] and len({str(one[0]) for one in (first, reward, learner)}) == 3


def test_many_actors_are_named_by_role() -> None:
    spans = tuple(Span("rollout", index, "rollout", 0.0, 1.0) for index in range(NAMED_ROWS))
    figure = draw_timeline(Timeline(1, 2.0, (("learner", 0),), spans))
    assert figure is not None
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels == [f"rollout ({NAMED_ROWS})", "learner (1)"]
    assert figure.get_size_inches()[1] < 12


def test_nothing_is_no_picture() -> None:
    assert draw_timeline(Timeline(1, 2.0, (("rollout", 0),), ())) is None


def test_words_say_who_worked_and_who_waited() -> None:
    """Rollouts: 2 s, 2 s and 0 s of 10 s, for 1 s alone; rewards 1.5 s, for 0.5 s alone; the learner 4 s."""
    assert describe_timeline(serial()) == (
        "Iteration 3, 10.00 s. Share of it in which actors computed: rollout 13%, reward 15%, learner 40%. "
        "Alone at work: rollout actors for 1.00 s, learner actors for 4.00 s; meanwhile the others wait. "
        "For 3.50 s no actor works: the driver does, or data is in transit."
    )


@pytest.mark.parametrize("overlap", [0.0, 5.0])
def test_who_works_side_by_side_is_not_waited_for(overlap: float) -> None:
    spans = (Span("rollout", 0, "rollout", 0.0, 5.0 + overlap), Span("learner", 0, "update", 5.0 - overlap, 10.0))
    text = describe_timeline(Timeline(1, 10.0, (), spans))
    assert ("No role keeps all others waiting" in text) == (overlap == 5.0)
    assert ("Alone at work: rollout actors for 5.00 s, learner actors for 5.00 s" in text) == (not overlap)
    assert "no actor works" not in text


def test_stacked_times_add_up() -> None:
    lines = [
        train(1, time_rollout=5.0, time_reward=1.0, time_learn=3.0, time_validation=0.0),
        train(2, time_rollout=6.0, time_reward=None, time_learn=2.0, time_validation=7.0),
    ]
    patches = [patch for patch in axes_of(stacked_times(lines)).patches if isinstance(patch, StepPatch)]
    tops = {patch.get_label(): patch.get_data()[0].tolist() for patch in patches}
    assert tops == {"rollout": [5, 6], "reward": [6, 6], "learn": [9, 8], "validation": [9, 15]}
    assert patches[0].get_data()[1].tolist() == [0.5, 1.5, 2.5]


def test_a_stage_has_its_colour_in_every_run() -> None:
    """Handing out weights is a stage of runs on Ray only."""
    alone = [train(1, time_rollout=5.0, time_learn=3.0, time_validation=2.0)]
    on_ray = [train(1, time_rollout=5.0, time_reward=1.0, time_learn=3.0, time_weights=0.5, time_validation=2.0)]
    colours = []
    for lines in (alone, on_ray):
        patches = axes_of(stacked_times(lines)).patches
        colours.append({str(patch.get_label()): patch.get_facecolor() for patch in patches})
    assert list(colours[0]) == ["rollout", "learn", "validation"]
    assert list(colours[1]) == ["rollout", "reward", "learn", "weights", "validation"]
    assert colours[0].items() <= colours[1].items()
    assert len(set(colours[1].values())) == 5


def idle(step: int, **shares: list[float | None]) -> dict[str, Any]:
    of_actors = {f"idle_{role}_{index}": share for role, found in shares.items() for index, share in enumerate(found)}
    return train(step, **of_actors)


def test_few_actors_have_a_curve_each_in_the_order_of_their_stages() -> None:
    lines = [
        idle(1, learner=[0.5], reward=[0.75, None], rollout=[0.25, 0.125]),
        idle(2, learner=[0.25], reward=[0.5, None], rollout=[None, 0.5]),
        {"kind": "validation", "step": 2, "idle_rollout_9": 0.5},
    ]
    axes = axes_of(idle_curves(idle_shares(lines)))
    assert {str(line.get_label()): points(line) for line in axes.get_lines()} == {
        "rollout 0": [[1, 0.25]],
        "rollout 1": [[1, 0.125], [2, 0.5]],
        "reward 0": [[1, 0.75], [2, 0.5]],
        "learner 0": [[1, 0.5], [2, 0.25]],
    }
    assert list(idle_shares(lines)) == [("rollout", 0), ("rollout", 1), ("reward", 0), ("learner", 0)]
    assert [line.get_color() for line in axes.get_lines()] == [COLOURS[0], COLOURS[0], COLOURS[1], COLOURS[2]]
    looks = {(line.get_color(), str(line.get_linestyle())) for line in axes.get_lines()}
    assert len(looks) == 4


def test_many_actors_have_a_median_and_a_band_per_role() -> None:
    rng = np.random.default_rng(0)
    shares = rng.random((3, 12))
    lines = [idle(step, rollout=row.tolist(), learner=[0.5]) for step, row in enumerate(shares, start=1)]
    lines[1]["idle_rollout_3"] = None
    present = np.delete(shares[1], 3)
    axes = axes_of(idle_curves(idle_shares(lines)))
    rollout, learner = axes.get_lines()
    assert rollout.get_label() == "rollout: median of 12" and learner.get_label() == "learner"
    sorted_rows = [np.sort(shares[0]), np.sort(present), np.sort(shares[2])]
    medians = [(row[5] + row[6]) / 2 if len(row) == 12 else row[5] for row in sorted_rows]
    np.testing.assert_allclose(points(rollout), list(zip((1, 2, 3), medians, strict=True)))
    corners = {tuple(corner) for corner in np.asarray(axes.collections[0].get_paths()[0].vertices).tolist()}
    assert {(step, row[end]) for step, row in enumerate(sorted_rows, start=1) for end in (0, -1)} <= corners


@pytest.mark.parametrize("count", [1, 8, 9, 40])
def test_every_curve_of_actors_is_in_the_legend(count: int) -> None:
    figure = idle_curves(idle_shares([idle(step, rollout=[0.5] * count) for step in range(1, 101)]))
    assert figure is not None
    (axes,) = figure.axes
    legend = axes.get_legend()
    assert legend is not None and len(legend.get_texts()) == len(axes.get_lines()) == (count if count <= 8 else 1)
    np.testing.assert_allclose([line.get_ydata() for line in axes.get_lines()], 0.5)
    dashed = set(re.findall(r"stroke-dasharray: ([^;\"]+)", svg(figure)))
    assert len(dashed) == len(axes.get_lines()) - 1


def test_no_actors_no_figure() -> None:
    assert stacked_times([train(1, loss=None), train(2)]) is None
    assert idle_curves(idle_shares([train(1, time_rollout=1.0), idle(2, rollout=[None])])) is None
