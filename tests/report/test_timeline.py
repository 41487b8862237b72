from __future__ import annotations

import pytest
from matplotlib.figure import Figure

from omatg_ray.report.timeline import NAMED_ROWS, describe_timeline, draw_timeline
from omatg_ray.run.timeline import Span, Timeline


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
