"""`omatg-ray ablate` on a few bundled crystals."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from omatg_ray.commands.ablate import ablate
from omatg_ray.commands.ablate_settings import AblationSettings
from omatg_ray.errors import ConfigError
from omatg_ray.evaluate.settings import BEST
from omatg_ray.model.schedule import NONE, save_schedule
from omatg_ray.policy.schedule import LearnedSchedule
from omatg_ray.policy.settings import LearnedScheduleSettings
from omatg_ray.report.ablation import ablation_table

CONFIG = """
run: {run}
sets:
  bundled:
    model: bundled
    learned: {{mine: [{learned}0, {learned}1]}}
steps: [3, 6]
kinds: [constant, steps]
tuning: {{limit: 3, most_steps: 3, pos: [0, 3], cell: [0, 1], power: [1, 2]}}
limit: 4
workers: 0
threads: 1
"""


def settings(tmp_path: Path, *overrides: str) -> AblationSettings:
    """With two learned schedules that are constant factors for positions, 1 + 0 and 1 + 3."""
    config = tmp_path / "ablation.yaml"
    for seed, value in enumerate((0.0, 3.0)):
        folder = tmp_path / f"learned{seed}"
        if folder.exists():
            continue
        folder.mkdir()
        schedule = LearnedSchedule(LearnedScheduleSettings(hidden=4, layers=0, fields=["pos", "cell"]))
        with torch.no_grad():
            schedule.heads["pos"].bias.fill_(value)
        save_schedule(schedule, folder, {})
    config.write_text(CONFIG.format(run=tmp_path / "run", learned=tmp_path / "learned"))
    return AblationSettings.load(config, overrides)


@pytest.mark.filterwarnings("ignore:outside of the training data")
def test_schedules_are_tuned_evaluated_and_not_computed_twice(tmp_path: Path) -> None:
    sets, report = ablate(settings(tmp_path))
    rows, tuned = sets["bundled"]["rows"], sets["bundled"]["tuned"]
    assert [(row["way"], row["steps"]) for row in rows] == [(way, n) for n in (3, 6) for way in (NONE, BEST, "mine")]
    # What the seeds learned is none, and the constant that was tried at three points.
    none, best, mine = rows[:3]
    tried = next(one["tried"] for one in tuned if (one["steps"], one["kind"]) == (3, "constant"))
    assert next(one["value"] for one in tried if one["schedule"] == "constant:pos=3,cell=0") is not None
    cases = json.loads((tmp_path / "run" / "bundled" / "evaluation.json").read_text())["cases"]
    crmse = [one["metrics"]["crmse"] for one in cases if one["steps"] == 3 and one["schedule"].startswith("mine")]
    assert crmse[0] == pytest.approx(none["metrics"]["crmse"]["mean"])
    assert mine["seeds"]["crmse"] == [min(crmse), max(crmse)]
    assert mine["metrics"]["crmse"]["mean"] == pytest.approx(sum(crmse) / 2)
    less_best = mine["less_best_hand_made"]["crmse"]["mean"]
    assert less_best == pytest.approx(sum(crmse) / 2 - best["metrics"]["crmse"]["mean"])
    # Six points are more than were tuned, and the table says so.
    three, six = ([one | {"steps": 0} for one in tuned if one["steps"] == steps] for steps in (3, 6))
    assert three == six and [one["kind"] for one in three] == ["constant", "steps"]
    assert "tuned at 3" in next(row["schedule"] for row in rows if row["way"] == BEST and row["steps"] == 6)
    for row in rows:
        less = row["less_best_hand_made"]
        assert less == {} if row["way"] == BEST else less["crmse"]["n"] >= 1
    plain = {row["steps"]: row["metrics"]["crmse"]["mean"] for row in rows if row["way"] == NONE}
    assert none["less_none_at_most_steps"]["crmse"]["mean"] == pytest.approx(plain[3] - plain[6])

    assert json.loads((tmp_path / "run" / "ablation.json").read_text())["sets"] == sets
    page = report.read_text()
    assert "best hand-made" in page and page.count("<svg") >= 4 and 'href="bundled/report.html"' in page
    interval = mine["metrics"]["crmse"]
    line = next(line for line in ablation_table(rows).splitlines() if line.split()[:2] == ["3", "mine"])
    assert f"{interval['mean']:.3f} ±{(interval['high'] - interval['low']) / 2:.3f}" in line

    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("cases/*.json")}
    assert len(times) > 8
    assert ablate(settings(tmp_path))[0] == sets
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("cases/*.json")} == times


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("steps=[1, 5]", ["steps", "at least 2"]),
        ("steps=[50]", ["tuning.most_steps", "nothing could be tuned"]),
        ("kinds=[cosin]", ["kinds", "cosin"]),
        ("tunning.limit=3", ["unknown key tunning", "did you mean tuning?"]),
        ("sets.bundled.learned={x: [nowhere]}", ["sets.bundled.learned.x", "nowhere", "no such folder"]),
        ("sets.bundled.learned={constant: [bundled]}", ["learned.constant", "taken"]),
        ("sets.bundled.learned={x: []}", ["learned.x", "at least 1"]),
        ("run=s3://bucket/x", ["run: a folder", "not the URL s3://bucket/x"]),
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
