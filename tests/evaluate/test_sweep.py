"""What is said of the trials of a sweep."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from omatg_ray.errors import DataError
from omatg_ray.evaluate.sweep import (
    FAILED,
    FINISHED,
    STOPPED,
    WORST,
    Standing,
    Sweep,
    Trial,
    standing_of,
)
from omatg_ray.evaluate.sweep_report import importance, parallel_coordinates, trials_table, write_sweep


def validation(step: int, value: float | None, hacked: int = 0) -> dict[str, Any]:
    return {"kind": "validation", "step": step, "match_rate": value, "hacked": hacked}


def test_a_trial_stands_by_its_best_validation_that_counts() -> None:
    lines = [validation(0, 0.9), {"kind": "train", "step": 10}, validation(10, 0.5), validation(20, 0.7, 1)]
    assert standing_of(lines, "match_rate", "max", True) == Standing(0.7, 0.5, 10, True, WORST)
    assert standing_of(lines, "match_rate", "max", False) == Standing(0.7, 0.7, 20, True, -0.7)
    assert standing_of(lines, "match_rate", "min", False) == Standing(0.7, 0.5, 10, True, 0.7)
    nothing = [*lines, validation(30, None)]
    assert standing_of(nothing, "match_rate", "min", False) == Standing(None, 0.5, 10, True, WORST)
    assert standing_of(lines, "match_rate", "max", False, since=10) == Standing(0.7, 0.7, 20, True, -0.7)
    assert standing_of(lines[:1], "match_rate", "max", True) == Standing()


def sweep_of(bests: list[float | None], direction: str = "min", **values: list[Any]) -> Sweep:
    trials = [
        Trial(f"{i:05d}", {key: several[i] for key, several in values.items()}, FINISHED, 4, best, best, 4)
        for i, best in enumerate(bests)
    ]
    return Sweep("crmse" if direction == "min" else "match_rate", direction, trials)


def test_the_best_is_the_lowest_or_the_highest() -> None:
    bests = [0.3, None, 0.1, 0.2]
    low, high = sweep_of(bests, lr=[1, 2, 3, 4]), sweep_of(bests, "max", lr=[1, 2, 3, 4])
    assert [trial.best for trial in low.ranked] == [0.1, 0.2, 0.3, None]
    assert [trial.best for trial in high.ranked] == [0.3, 0.2, 0.1, None]
    assert low.best is not None and low.best.name == "00002"
    assert sweep_of([None, None], lr=[1, 2]).best is None


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
        )
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
    assert importance(sweep_of(bests[:4], lr=[1, 2, 3, 4])) == {}


def test_trials_are_written_and_read_and_reported(tmp_path: Path) -> None:
    trials = [
        Trial("00000", {"learner.lr": 1e-3, "seed": 0}, FINISHED, 4, 0.2, 0.1, 2, 0, False, None, {"crmse": 0.2}),
        Trial("00001", {"learner.lr": 1e-2, "seed": 1}, STOPPED, 2, 0.3, 0.3, 2, 0, True),
        Trial("00002", {"learner.lr": 1e-1, "seed": 2}, FAILED, error="TrainingError: the <loss> is not finite"),
    ]
    sweep = Sweep("crmse", "min", trials)
    sweep.write(tmp_path)
    assert Sweep.read(tmp_path) == sweep
    assert json.loads((tmp_path / "trials.json").read_text())["best"] == "00000"
    for trial, values in zip(trials, ([0.5, 0.1, 0.2], [0.5, 0.3], []), strict=True):
        run = tmp_path / "trials" / trial.name
        run.mkdir(parents=True)
        lines = [{"kind": "validation", "step": 2 * i, "crmse": value} for i, value in enumerate(values)]
        (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    page = write_sweep(tmp_path).read_text()
    assert page.count("<svg") == 2 and "the &lt;loss&gt; is not finite" in page and "stopped early, hacked" in page
    assert 'href="best.yaml"' in page and "learner.lr" in page
    table = trials_table(sweep).splitlines()
    assert [line.split()[0] for line in table] == ["trial", "00000", "00001", "00002"]
    assert "0.100" in table[1] and table[3].endswith("failed")


def test_what_is_no_sweep_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no trials\.json"):
        Sweep.read(tmp_path)
    (tmp_path / "trials.json").write_text('{"trials": [{"nam": 1}], "metric": "crmse", "mode": "min"}')
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
