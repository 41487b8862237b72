"""`omatg-ray ablate` on a few bundled crystals."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from omatg_ray.commands.ablate import AblationSettings, ablate
from omatg_ray.errors import ConfigError
from omatg_ray.evaluate.ablation import BEST, ablation_table
from omatg_ray.policy.annealing import LearnedAnnealing, LearnedSchedule
from omatg_ray.schedule import NONE, save_schedule

CONFIG = """
run: {run}
sets:
  bundled:
    model: bundled
    learned: {{mine: [{learned}, {learned}]}}
steps: [3, 6]
kinds: [linear, steps]
tuning: {{limit: 3, most_steps: 3, pos: [0, 3], cell: [0, 1], power: [1, 2]}}
limit: 4
workers: 0
threads: 1
"""


def settings(tmp_path: Path, *overrides: str) -> AblationSettings:
    learned, config = tmp_path / "learned", tmp_path / "ablation.yaml"
    if not learned.exists():
        learned.mkdir()
        schedule = LearnedAnnealing(LearnedSchedule(hidden=4, layers=0, fields=["pos", "cell"]))
        with torch.no_grad():
            schedule.heads["pos"].bias.fill_(1.5)
        save_schedule(schedule, learned, {})
    config.write_text(CONFIG.format(run=tmp_path / "run", learned=learned))
    return AblationSettings.load(config, overrides)


def test_schedules_are_tuned_evaluated_and_not_computed_twice(tmp_path: Path) -> None:
    result = ablate(settings(tmp_path))
    found = result.sets["bundled"]
    assert [(row.way, row.steps) for row in found.rows] == [(way, n) for n in (3, 6) for way in (NONE, BEST, "mine")]
    # A learned 1 + s = 2.5 for positions alone is what a constant factor gives; seeds that agree have one value.
    mine = found.rows[2]
    assert mine.seeds["crmse"][0] == mine.seeds["crmse"][1] == pytest.approx(mine.intervals["crmse"].mean)
    # Six points are more than were tuned.
    assert found.tuned[6] == found.tuned[3] and set(found.tuned[3]) == {"linear", "steps"}
    # The best of the kinds is what was best on validation crystals.
    scores = {kind: best.score for kind, best in found.tuned[3].items()}
    assert found.best(3)[0] == min(scores, key=lambda kind: scores[kind])
    for row in found.rows:
        assert row.less_best == {} if row.way == BEST else row.less_best["crmse"].n >= 1
    none = {row.steps: row.intervals["crmse"].mean for row in found.rows if row.way == NONE}
    assert found.rows[0].less_none["crmse"].mean == pytest.approx(none[3] - none[6])

    written = json.loads((tmp_path / "run" / "ablation.json").read_text())["sets"]["bundled"]
    assert len(written["rows"]) == 6 and {one["kind"] for one in written["tuned"]} == {"linear", "steps"}
    page = result.report.read_text()
    assert "best hand-made" in page and page.count("<svg") >= 4 and 'href="bundled/report.html"' in page
    assert "mine" in ablation_table(found)

    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("cases/*.json")}
    assert len(times) > 8
    again = ablate(settings(tmp_path))
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("cases/*.json")} == times
    assert [row.intervals for row in again.sets["bundled"].rows] == [row.intervals for row in found.rows]


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("steps=[1, 5]", ["steps", "at least 2"]),
        ("steps=[50]", ["tuning.most_steps", "nothing could be tuned"]),
        ("kinds=[cosin]", ["kinds", "cosin"]),
        ("tunning.limit=3", ["unknown key tunning", "did you mean tuning?"]),
        ("sets.bundled.learned={x: [nowhere]}", ["nowhere", "neither a folder"]),
    ],
)
def test_what_is_wrong_is_said(override: str, words: list[str], tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        ablate(settings(tmp_path, override))
    assert all(word in str(caught.value) for word in words)


def test_a_model_without_splits_needs_crystals(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    with pytest.raises(ConfigError, match=r"sets\.x\.val.*keeps no splits"):
        ablate(settings(tmp_path, f"sets={{x: {{model: {tmp_path / 'model'}}}}}"))
