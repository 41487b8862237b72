"""One iteration with real crystals and a real potential."""

from __future__ import annotations

import csv
from itertools import islice
from pathlib import Path

from omatg_ray.commands.pretrain import pretrain
from omatg_ray.commands.train import train
from omatg_ray.config import Config
from omatg_ray.run.metrics import read_metrics
from omatg_ray.train.build import build_run
from omatg_ray.train.estimate import describe
from tests.commands.conftest import TINY


def test_perovskites_with_matpes_energies(shared: Path, tmp_path: Path) -> None:
    config = tmp_path / "tiny.yaml"
    with open(shared / "data" / "perov_5_val.csv", newline="") as source:
        rows = list(islice(csv.reader(source), 17))
    with open(tmp_path / "perovskites.csv", "w", newline="") as target:
        csv.writer(target).writerows(rows)
    potential = shared / "potentials" / "TensorNet-MatPES-PBE"
    config.write_text(
        f"{TINY}data: {{file: {tmp_path / 'perovskites.csv'}, val_compositions: 2, test_compositions: 2}}\n"
        f"reward: {{potential: {potential}}}\n"
    )
    pretrain(Config.load(config, [f"run={tmp_path / 'base'}"]), progress=False)
    overrides = [f"run={tmp_path / 'run'}", f"base={tmp_path / 'base'}", "iterations=1"]
    parts = build_run(Config.load(config, overrides))
    text = describe(Config.load(config, overrides), parts)
    assert "2 groups x 4 trajectories x 3 steps" in text
    assert not (tmp_path / "run").exists()
    result = train(Config.load(config, overrides), progress=False)
    step = next(line for line in read_metrics(tmp_path / "run" / "metrics.jsonl") if line["kind"] == "train")
    assert step["failed_share"] == 0
    assert -12.0 < -step["reward_mean"] <= 3.0
    assert result.rows[0]["potential"] == str(potential)
    # Energies of the references per atom, from the potential: bound crystals.
    structures = (tmp_path / "run" / "structures" / "reference.extxyz").read_text()
    energies = [float(part.split("=")[1].split()[0]) for part in structures.split("energy_per_atom")[1:]]
    assert energies
    assert all(-12.0 < energy < -1.0 for energy in energies)
