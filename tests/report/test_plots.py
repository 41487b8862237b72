from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from omatg_ray.report.panels import PRETRAINING, REINFORCEMENT, rewards
from omatg_ray.report.plots import (
    INK,
    Curve,
    Panel,
    banded_lines,
    energy_histogram,
    rmse_histogram,
    running_mean,
    svg,
    values,
)


def axes_of(figure: Figure | None) -> Axes:
    assert figure is not None
    return figure.axes[0]


def points(line: Line2D) -> list[list[float]]:
    x, y = (np.asarray(values, dtype=float) for values in line.get_data())
    return np.stack([x, y], axis=1).tolist()


def train(step: int, **values: float | None) -> dict[str, Any]:
    return {"kind": "train", "step": step, **values}


def curves(
    lines: list[dict[str, Any]], shown: list[Curve], ylabel: str = "value", best: int | None = None
) -> Figure | None:
    return Panel("", tuple(shown), ylabel, marks_best=True).figure(lines, best)


def point(x: float, mean: float, low: float | None = None, high: float | None = None) -> tuple[float, dict[str, Any]]:
    return x, {"mean": mean, "low": low, "high": high}


def test_curves_show_the_points_of_their_kind_and_leave_out_null() -> None:
    lines = [
        train(1, loss=3.0),
        train(2, loss=None),
        train(3, loss=1.0),
        {"kind": "validation", "step": 2, "loss": 9.0},
    ]
    axes = axes_of(curves(lines, [Curve("train", "loss", "loss"), Curve("train", "absent", "absent")]))
    (line,) = axes.get_lines()
    assert points(line) == [[1, 3], [3, 1]]


def test_curves_without_numbers_are_no_figure() -> None:
    lines = [train(1, loss=None), train(2)]
    assert curves(lines, [Curve("train", "loss", "loss")]) is None
    assert curves([], [Curve("train", "loss", "loss")]) is None
    assert energy_histogram({"before": [None, None]}) is None
    assert energy_histogram({}) is None


def test_band_is_the_spread_around_the_curve() -> None:
    lines = [train(1, mean=2.0, std=0.5), train(2, mean=3.0, std=0.25)]
    axes = axes_of(curves(lines, [Curve("train", "mean", "mean", spread="std")]))
    corners = {tuple(corner) for corner in np.asarray(axes.collections[0].get_paths()[0].vertices).tolist()}
    assert {(1, 1.5), (1, 2.5), (2, 2.75), (2, 3.25)} <= corners


def test_a_spread_of_other_steps_is_left_out() -> None:
    lines = [train(1, mean=2.0, std=0.5), train(2, mean=3.0)]
    axes = axes_of(curves(lines, [Curve("train", "mean", "mean", spread="std")]))
    assert not axes.collections


def test_best_is_marked_on_the_first_curve() -> None:
    lines = [{"kind": "validation", "step": step, "energy": 1.0 / (1 + step)} for step in (0, 5, 10)]
    shown = [Curve("validation", "energy", "energy")]
    marked = axes_of(curves(lines, shown, best=5)).get_lines()[-1]
    assert points(marked) == [[5.0, pytest.approx(1 / 6)]]
    assert "5" in str(marked.get_label())
    assert len(axes_of(curves(lines, shown, best=7)).get_lines()) == 1


def test_running_mean() -> None:
    np.testing.assert_allclose(running_mean(np.array([0.0, 3.0, 6.0, 0.0, 9.0]), 1), [0, 3, 3, 5, 9])
    line = np.linspace(0.0, 1.0, 30)
    np.testing.assert_allclose(running_mean(line, 4), line)


def test_values_are_finite_numbers() -> None:
    lines = [
        train(1, x=1.0),
        train(2, x=None),
        train(3),
        train(4, x=float("nan")),
        train(5, x=float("inf")),
        train(6, x=2),
    ]
    steps, numbers = values(lines, "train", "x")
    assert steps.tolist() == [1, 6] and numbers.tolist() == [1, 2]
    assert [len(found) for found in values(lines, "train", "y")] == [0, 0]


def test_histogram_counts_every_valid_structure_once() -> None:
    rng = np.random.default_rng(0)
    before: list[float | None] = [*rng.normal(0.2, 0.1, 200).tolist(), 500.0, None]
    after: list[float | None] = rng.normal(0.0, 0.05, 150).tolist()
    axes = axes_of(energy_histogram({"before": before, "after": after}))
    heights = [patch.get_height() for patch in axes.patches if hasattr(patch, "get_height")]
    assert sum(heights) == 201 + 150
    labels = axes.get_legend_handles_labels()[1]
    assert labels == ["before: 201 valid of 202", "after: 150 valid of 150"]
    assert axes.get_xlim()[1] < 5.0


def test_svg_can_stand_in_a_page() -> None:
    figure = curves([train(1, loss=3.0), train(2, loss=1.0)], [Curve("train", "loss", "loss")], "loss & more")
    assert figure is not None
    text = svg(figure)
    assert "http" not in text and INK not in text and "currentColor" in text
    root = ElementTree.fromstring(text.replace("<svg", '<svg xmlns:xlink="x"', 1))
    assert root.tag == "svg" and root.get("viewBox")
    assert "loss & more" in "".join(root.itertext())


@pytest.mark.parametrize("panel", [*PRETRAINING, *REINFORCEMENT], ids=lambda panel: panel.title)
def test_panels_draw_what_the_run_logs(panel: Any) -> None:
    """One line of every kind with every name of the schema: no picture names a metric that nobody writes."""
    names = {
        "pretrain": "loss loss_pos loss_cell val_loss val_loss_pos val_loss_cell lr time_epoch",
        "train": "reward_mean reward_std energy_mean energy_median invalid_share failed_share groups_skipped loss "
        "policy_loss_pos policy_loss_cell kl_pos kl_cell clip_fraction_pos clip_fraction_cell log_ratio_max grad_norm "
        "sigma_pos sigma_cell diversity second_rank_correlation second_shift gradient_limited "
        "matching_pos matching_cell",
        "validation": "n match_rate rmse crmse relative_energy_mean relative_energy_median relative_energy_mean_capped "
        "invalid_share reward_mean",
    }
    lines = [
        {"kind": kind, "step": step, **dict.fromkeys(of_kind.split(), 0.5)}
        for kind, of_kind in names.items()
        for step in (1, 2)
    ]
    axes = axes_of(panel.figure(lines, best=2))
    lines_drawn = len(panel.shown) + panel.marks_best
    assert len(axes.get_lines()) == lines_drawn


def test_a_sum_of_rewards_has_a_panel_for_each_part() -> None:
    assert rewards({"energy": 1.0}) == ()
    energy, watched = rewards({"energy": 1.0, "crmse": 0.0})
    assert (energy.title, energy.caption) == ("Reward: energy", "Weight 1.")
    assert (watched.title, watched.caption) == ("Reward: crmse", "Weight 0: only monitored.")
    lines = [{"kind": "train", "step": step, "reward_crmse_mean": -0.1 * step} for step in (1, 2)]
    assert axes_of(watched.figure(lines)).get_lines()[0].get_ydata().tolist() == pytest.approx([-0.1, -0.2])
    assert energy.figure(lines) is None


def test_parts_and_values_of_a_reward_are_drawn_for_rollouts_and_validations() -> None:
    line = {"reward_mean": 1.0, "reward_std": 0.1, "reward_flat_mean": -3.0, "reward_flat.length_mean": 3.0}
    lines = [{"kind": kind, "step": step, **line} for kind in ("train", "validation") for step in (1, 2)]
    panels = rewards({"flat": 1.0}, (name for line in lines for name in line))
    assert [panel.title for panel in panels] == ["Reward: flat", "Behind the reward: flat.length"]
    assert [panel.ylabel for panel in panels] == ["reward", "flat.length"]
    for panel, height in zip(panels, (-3.0, 3.0), strict=True):
        drawn = axes_of(panel.figure(lines)).get_lines()
        assert [line.get_label() for line in drawn] == ["rollouts", "validation"]
        assert all(line.get_ydata().tolist() == [height] * 2 for line in drawn)


def test_lines_with_bands_over_a_logarithm() -> None:
    lines = {
        "a": [point(5, 0.5, 0.4, 0.6), point(50, 0.3, 0.2, 0.4)],
        "b": [point(50, 0.1)],
        **{f"more {number}": [point(5, 0.2), point(50, 0.2)] for number in range(4)},
    }
    figure = banded_lines(lines, "grid points", "cRMSE", log=True)
    assert figure is not None
    (axes,) = figure.axes
    assert axes.get_xscale() == "log"
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["5", "50"]
    assert axes.get_lines()[0].get_ydata().tolist() == [0.5, 0.3]
    # Where colours begin again, lines are dashed.
    assert axes.get_lines()[5].get_color() == axes.get_lines()[0].get_color()
    assert axes.get_lines()[5].get_linestyle() == "--"
    band = axes.collections[0].get_paths()[0].vertices[:, 1]
    assert (band.min(), band.max()) == (0.2, 0.6)
    assert banded_lines({"b": [point(50, 0.1)]}, "grid points", "cRMSE") is None


@pytest.mark.parametrize("percent", [False, True])
def test_axes_of_shares_end_at_0_and_1(percent: bool) -> None:
    lines = [{"kind": "validation", "step": step, "rate": rate} for step, rate in enumerate((0.02, 0.9, 1.0))]
    shown = (Curve("validation", "rate", "rate"),)
    panel = Panel("", shown, "rate", percent=percent, share=not percent)
    assert axes_of(panel.figure(lines)).get_ylim() == (0.0, 1.0)
    low, high = axes_of(panel.figure(lines[1:])).get_ylim()
    assert high == 1.0 and (low == 0.0 if percent else 0.8 < low < 0.9)
    banded = banded_lines({"a": [point(1, 0.01), point(2, 1.0)]}, "samples", "share", percent, share=not percent)
    assert axes_of(banded).get_ylim() == (0.0, 1.0)


def test_capped_means_have_a_picture_without_what_is_not_capped() -> None:
    lines = [
        {"kind": "validation", "step": s, "relative_energy_mean_capped": 3.0 - s, "relative_energy_median": 900.0}
        for s in (0, 1)
    ]
    (capped,) = (panel for panel in REINFORCEMENT if "capped mean" in panel.title)
    low, high = axes_of(capped.figure(lines, best=0)).get_ylim()
    assert 1.5 < low < 2.0 and 3.0 < high < 3.5
    labels = [str(line.get_label()) for line in axes_of(capped.figure(lines, best=0)).get_lines()]
    assert labels == ["capped mean", "best: the base"]
    assert "the mean can exceed the cap" in capped.caption


def test_histogram_of_matches() -> None:
    figure = rmse_histogram({"a": [0.1, 0.2, None], "b": [None, None, None]})
    assert figure is not None
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert labels == ["a: 2 matched of 3", "b: 0 matched of 3"]
    assert rmse_histogram({"a": [None]}) is None


def test_energies_above_a_bound_share_the_last_bin() -> None:
    figure = energy_histogram({"a": [0.0, 1.0, 30.0, 40.0]}, highest=5.0)
    assert figure is not None
    assert "all above 5: a 2" in figure.axes[0].get_xlabel()


def test_long_noisy_curves_are_drawn_thin_below_their_running_mean():
    numbers = [0.1 * step + (-1) ** step for step in range(80)]
    lines = [{"kind": "train", "step": step, "reward_mean": number} for step, number in enumerate(numbers)]
    figure = curves(lines, [Curve("train", "reward_mean", "mean", smooth=True)])
    measured, mean = axes_of(figure).get_lines()
    assert points(measured) == [[step, number] for step, number in enumerate(numbers)]
    assert measured.get_linewidth() < mean.get_linewidth()
    # Two points on either side (80 / 40), and fewer at the ends.
    expected = {0: numbers[0], 1: sum(numbers[:3]) / 3, 40: sum(numbers[38:43]) / 5, 79: numbers[79]}
    assert {step: points(mean)[step][1] for step in expected} == pytest.approx(expected)
