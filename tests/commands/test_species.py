"""Runs and evaluations of models that generate species."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from omatg_ray.commands.train import train
from omatg_ray.run.metrics import read_metrics
from tests.commands.conftest import Command, Workshop

MATCHES = {"match_rate", "match_any", "match_lowest", "rmse", "crmse"}


def test_the_best_of_a_run_is_chosen_by_the_reward_and_nothing_is_matched(
    workshop: Workshop, de_novo: Path, tmp_path: Path
) -> None:
    config = workshop.load(f"run={tmp_path / 'run'}", f"base={de_novo}", "iterations=2", "validation.every=1")
    with pytest.warns(UserWarning, match="the model generates species, .*matches with these are not measured"):
        result = train(config, progress=False)
    lines = [line for line in read_metrics(tmp_path / "run" / "metrics.jsonl") if line["kind"] == "validation"]
    rewards = {line["step"]: line["reward_mean"] for line in lines}
    assert result.model.resolve().name == f"iteration_{max(rewards, key=rewards.__getitem__):06d}"
    assert len(rewards) == 3 and all(line[name] is None for line in lines for name in MATCHES)
    for row in result.rows:
        metrics = row["metrics"]
        assert not {name for name in MATCHES if metrics[name] is not None}
        assert metrics["same_composition"] <= metrics["n"] and 0 <= metrics["unique_share"] <= 1
        energies = [energy for energy in row["per_structure"]["energy_per_atom"] if energy is not None]
        assert metrics["energy_mean"] == pytest.approx(sum(energies) / len(energies))
        missing = [energy is None for energy in row["per_structure"]["relative_energy"]]
        assert missing.count(False) <= metrics["same_composition"]
    assert not (tmp_path / "run" / "structures" / "reference.extxyz").exists()
    report = result.report.read_text()
    assert "energy mean" in report and "unique" in report and "cRMSE, all" not in report


def test_an_evaluation_says_what_it_leaves_out(
    workshop: Workshop, de_novo: Path, command: Command, tmp_path: Path
) -> None:
    out = tmp_path / "out.json"
    words = ["--data", workshop.data, "--potential", workshop.potential, "--steps", 4, "--workers", 0, "--json", out]
    done = command("evaluate", de_novo, *words)
    assert done.code == 0, done.err
    assert "warning: the model generates species" in done.err
    assert "energy" in done.out and "unique" in done.out and "match" not in done.out and "RMSE" not in done.out
    values = json.loads(out.read_text())
    assert values["n"] == 13 and not {name for name in MATCHES if values[name] is not None}
