"""What is said of the trials of a sweep."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from omatg_ray.errors import DataError
from omatg_ray.report.sweep import trials_table, without_gain, write_sweep
from omatg_ray.report.sweep_plots import importance, learning_curves, parallel_coordinates, pareto_front
from omatg_ray.tune.results import FAILED, FINISHED, STOPPED, WORST, Goal, Sweep, Trial, TrialScore, trial_score

LOW, HIGH = Goal("crmse", "min"), Goal("match_rate", "max")


def validation(step: int, value: float | None, hacked: int = 0, **others: float | None) -> dict[str, Any]:
    return {"kind": "validation", "step": step, "match_rate": value, "hacked": hacked, **others}


def measured(value: float, hacked: int = 0, **others: float) -> dict[str, float]:
    return {"match_rate": value, "hacked": hacked, **others}


def test_a_trial_stands_by_its_best_validation_that_counts() -> None:
    lines = [validation(0, 0.9), {"kind": "train", "step": 10}, validation(10, 0.5), validation(20, 0.7, 1)]
    last = measured(0.7, 1)
    assert trial_score(lines, [HIGH], True) == TrialScore(last, measured(0.5), 10, True, WORST)
    assert trial_score(lines, [HIGH], False) == TrialScore(last, last, 20, True, -0.7)
    low = Goal("match_rate", "min")
    assert trial_score(lines, [low], False) == TrialScore(last, measured(0.5), 10, True, 0.7)
    nothing = [*lines, validation(30, None)]
    assert trial_score(nothing, [low], False) == TrialScore({"hacked": 0}, measured(0.5), 10, True, WORST)
    assert trial_score(lines, [HIGH], False, since=10) == TrialScore(last, last, 20, True, -0.7)
    assert trial_score(lines[:1], [HIGH], True) == TrialScore()


def test_of_several_metrics_the_first_decides_which_validation_counts() -> None:
    lines = [
        validation(0, 0.9, crmse=0.1),
        validation(10, 0.8, crmse=0.4),
        validation(20, 0.6, crmse=0.3),
        validation(30, None, crmse=0.2),
        validation(40, 0.7, 1, crmse=0.2),
        validation(50, 0.5, crmse=0.35),
    ]
    last = measured(0.5, crmse=0.35)
    assert trial_score(lines, [LOW, HIGH], True) == TrialScore(last, measured(0.6, crmse=0.3), 20, True, 0.35)
    assert trial_score(lines, [HIGH, LOW], True) == TrialScore(last, measured(0.8, crmse=0.4), 10, True, -0.5)
    assert trial_score(lines, [LOW, HIGH], False) == TrialScore(last, measured(0.7, 1, crmse=0.2), 40, True, 0.35)


def sweep_of(bests: list[float | None], goal: Goal = LOW, **values: list[Any]) -> Sweep:
    found: list[dict[str, float] | None] = [None if best is None else {goal.metric: best} for best in bests]
    trials = [
        Trial(f"{i:05d}", {key: several[i] for key, several in values.items()}, FINISHED, 4, best or {}, best, 4)
        for i, best in enumerate(found)
    ]
    return Sweep([goal], trials)


def test_the_best_is_the_lowest_or_the_highest() -> None:
    bests = [0.3, None, 0.1, 0.2]
    low, high = sweep_of(bests, lr=[1, 2, 3, 4]), sweep_of(bests, HIGH, lr=[1, 2, 3, 4])
    assert [trial.name[-1] for trial in low.ranked] == ["2", "3", "0", "1"]
    assert [trial.name[-1] for trial in high.ranked] == ["0", "3", "2", "1"]
    assert low.best is not None and low.best.name == "00002"
    assert sweep_of([None, None], lr=[1, 2]).best is None


def test_the_front_is_what_no_other_is_better_than() -> None:
    """Of a grid of 4 x 4 with a corner cut off; less of the first number and more of the second is better."""
    corners = [(i, j) for i in range(4) for j in range(4) if j - i <= 1]
    trials = [
        Trial(f"{i:05d}", {}, FINISHED, 4, {}, {"crmse": low, "match_rate": high}, 4)
        for i, (low, high) in enumerate(corners)
    ]
    trials += [Trial("1", {}, FAILED), replace(trials[0], name="twin")]
    sweep = Sweep([LOW, HIGH], trials)
    assert [corners[int(trial.name)] for trial in sweep.front] == [(0, 1), (1, 2), (2, 3)]
    assert sweep.best == sweep.front[0] == sweep.ranked[0]
    assert sweep.ranked[:3] == sweep.front and sweep.ranked[-1].name == "1" and len(sweep.ranked) == len(trials)
    # By the first metric alone the best one would be dominated.
    assert Sweep([LOW], trials).best == trials[0] != sweep.best


def test_importance_is_the_squared_rank_correlation_or_eta_squared() -> None:
    bests: list[float | None] = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    found = importance(
        sweep_of(
            bests,
            rising=[1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0],
            falling=[6, 5, 4, 3, 2, 1],
            swapped=[2, 1, 4, 3, 6, 5],
            word=["a", "a", "a", "b", "b", "b"],
            same=[1, 1, 1, 1, 1, 1],
        ),
        LOW,
    )
    assert "same" not in found
    assert found["rising"][:2] == pytest.approx((1.0, 1.0)) and found["falling"][:2] == pytest.approx((1.0, -1.0))
    # Spearman: 1 - 6 Σ d² / n (n² - 1), with six differences of 1.
    assert found["swapped"][1] == pytest.approx(1 - 6 * 6 / (6 * 35))
    # Between groups 6 · 1.5² of a total of 17.5.
    assert found["word"][0] == pytest.approx(13.5 / 17.5) and found["word"][1] is None
    # Of the 720 orders two are perfect, and of the 20 ways to choose three, two are as far apart.
    assert found["rising"][2] <= 1 and 5 <= found["word"][2] <= 15
    assert list(found)[-1] == "swapped" or found["swapped"][0] >= found["word"][0]
    assert importance(sweep_of(bests[:4], lr=[1, 2, 3, 4]), LOW) == {}
    assert importance(sweep_of([0.5] * 6, lr=[1, 2, 3, 4, 5, 6]), LOW) == {}


def test_trials_are_written_and_read_and_reported(tmp_path: Path) -> None:
    trials = [
        Trial("00000", {"learner.lr": 1e-3, "seed": 0}, FINISHED, 4, {"crmse": 0.2}, {"crmse": 0.1}, 2),
        Trial("00001", {"learner.lr": 1e-2, "seed": 1}, STOPPED, 2, {"crmse": 0.3}, {"crmse": 0.3}, 2, 0, True),
        Trial("00002", {"learner.lr": 1e-1, "seed": 2}, FAILED, error="TrainingError: the <loss> is not finite"),
    ]
    sweep = Sweep([LOW], trials)
    sweep.write(tmp_path)
    assert Sweep.read(tmp_path) == sweep
    written = json.loads((tmp_path / "trials.json").read_text())
    assert written["best"] == "00000" and "front" not in written
    for trial, values in zip(trials, ([0.5, 0.1, 0.2], [0.5, 0.3], []), strict=True):
        run = tmp_path / "trials" / trial.name
        run.mkdir(parents=True)
        lines = [{"kind": "validation", "step": 2 * i, "crmse": value} for i, value in enumerate(values)]
        (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    page = write_sweep(tmp_path).read_text()
    assert page.count("<svg") == 2 and "the &lt;loss&gt; is not finite" in page and "stopped early, hacked" in page
    assert 'href="best.yaml"' in page and "learner.lr" in page
    assert "0.100 (0.500 before training)" in page
    table = trials_table(sweep, tmp_path).splitlines()
    assert [line.split()[0] for line in table] == ["trial", "–", "00000", "00001", "00002"]
    assert table[1].split()[1:] == ["0.500", "0", "before", "training"]
    assert "0.100" in table[2] and table[4].split()[3] == "failed"


@pytest.mark.parametrize("start, gained", [(0.25, True), (0.2, False), (0.1, False)])
def test_a_best_that_is_no_better_than_the_start_is_said(tmp_path: Path, start: float, gained: bool) -> None:
    best = {"crmse": 0.2}
    sweep = Sweep([LOW], [Trial("00000", {"learner.lr": 1.0}, FINISHED, 4, best, best, 4)])
    run = tmp_path / "trials" / "00000"
    run.mkdir(parents=True)
    assert without_gain(sweep, tmp_path) is None  # nothing was logged
    lines = [validation(0, 0.5, crmse=start), validation(4, 0.5, crmse=0.2)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    said = without_gain(sweep, tmp_path)
    assert (said is None) is gained
    sweep.write(tmp_path)
    page = write_sweep(tmp_path).read_text()
    assert ("No trial is better by cRMSE" in page) is not gained
    assert said is None or f"({start:.3f})" in said


def test_marks_beyond_the_range_are_at_its_edge(tmp_path: Path) -> None:
    trials = [Trial(f"{i:05d}", {"learner.lr": 1.0 + i}, FINISHED, 4, {}, {"crmse": 0.3}, 4) for i in range(8)]
    for trial in trials:
        run = tmp_path / "trials" / trial.name
        run.mkdir(parents=True)
        last = validation(4, 0.5, hacked=1, crmse=9.0) if trial is trials[0] else validation(4, 0.5, crmse=0.2)
        lines = [validation(step, 0.5, crmse=0.3) for step in (0, 1, 2, 3)] + [last]
        (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    curves = learning_curves(Sweep([LOW], trials), tmp_path)
    assert curves is not None
    (axes,) = curves.axes
    top = axes.get_ylim()[1]
    marks = [
        line.get_ydata().tolist() for line in axes.get_lines() if line.get_marker() == "x" and len(line.get_ydata())
    ]
    assert top < 9.0 and marks == [[top]]


def test_the_front_is_marked_and_drawn(tmp_path: Path) -> None:
    reached = [(0.1, 0.2), (0.2, 0.4), (0.3, 0.3), (0.4, 0.7), (0.15, 0.1)]
    trials = [
        Trial(f"{i:05d}", {"learner.lr": 10.0**-i}, FINISHED, 4, best, best, 4)
        for i, best in enumerate({"crmse": low, "match_rate": high} for low, high in reached)
    ]
    sweep = Sweep([LOW, HIGH], [*trials, Trial("00005", {"learner.lr": 1.0}, FAILED)])
    sweep.write(tmp_path)
    assert Sweep.read(tmp_path) == sweep
    written = json.loads((tmp_path / "trials.json").read_text())
    assert (written["best"], written["front"]) == ("00000", ["00000", "00001", "00003"])
    run = tmp_path / "trials" / "00002"
    run.mkdir(parents=True)
    lines = [validation(0, 0.25, crmse=0.45), validation(4, 0.3, crmse=0.3)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (axes,) = pareto_front(sweep, tmp_path).axes
    drawn = [np.column_stack(line.get_data()).tolist() for line in axes.get_lines()]
    front = [list(reached[i]) for i in (0, 1, 3)]
    # The others, before training, the line of the front, its points, the best.
    assert drawn == [[[0.3, 0.3], [0.15, 0.1]], [[0.45, 0.25]], front, front, front[:1]]
    assert [text.get_text() for text in axes.texts] == ["0", "1", "3"]
    curves = learning_curves(sweep, tmp_path)
    assert curves is not None and [one.get_ylabel() for one in curves.axes] == ["cRMSE", "match rate"]
    page = write_sweep(tmp_path).read_text()
    assert page.count("<svg") == 5 and "Pareto front" in page and "front/00003.yaml" in page
    table = trials_table(sweep, tmp_path, most=2).splitlines()
    assert [line.split()[0] for line in table[1:]] == ["00000", "00001", "00003"]
    assert all("finished, on the front" in line for line in table[1:])


def test_what_is_no_sweep_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no trials\.json"):
        Sweep.read(tmp_path)
    (tmp_path / "trials.json").write_text('{"trials": [{"nam": 1}], "goals": []}')
    with pytest.raises(DataError, match="damaged"):
        write_sweep(tmp_path)


def test_parallel_coordinates_take_words_and_wide_ranges() -> None:
    keys: dict[str, list[Any]] = {"a": [1e-5, 1e-2, 1.0], "b": ["x", "y", None], "c": [1, 1, 1]}
    figure = parallel_coordinates(sweep_of([0.1, 0.2, None], **keys))
    assert figure is not None
    axes = figure.axes[0]
    lines = [line for line in axes.get_lines() if len(line.get_xdata()) == 4]
    heights = {round(line.get_ydata()[0], 3) for line in lines}
    # Decades lie evenly: 10^-2 is three fifths up from 10^-5 to 1.
    assert heights == {0.0, 0.6, 1.0}
    assert parallel_coordinates(sweep_of([0.1], a=[1])) is None
