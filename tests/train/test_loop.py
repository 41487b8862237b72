"""What makes a checkpoint the best, and what a replay begins with."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pymatgen.core import Lattice, Structure

from omatg_ray.commands.train import train
from omatg_ray.crystal.write import write_structures
from omatg_ray.errors import ConfigError
from omatg_ray.evaluate.evaluator import Evaluator
from omatg_ray.run.metrics import read_metrics
from omatg_ray.train.build import build_run
from tests.commands.conftest import Workshop

SITES = ([[0.0, 0.0, 0.0], [0.5, 0.5, 0.5]], [[0.0, 0.0, 0.0], [0.5, 0.5, 0.0]])


@pytest.fixture
def polymorphs(tmp_path: Path) -> list[str]:
    """Two crystals of each of two compositions, training ones with energies of their own; and where they are."""
    pairs = {"train": ("Na", "Cl"), "val": ("K", "Cl"), "test": ("Na", "F")}
    for name, pair in pairs.items():
        structures = [Structure(Lattice.cubic(4.0), pair, sites) for sites in SITES]
        rows = [{"material_id": f"{name}-{i}", "dft": energy} for i, energy in enumerate((-3.0, -3.5))]
        write_structures(tmp_path / f"{name}.extxyz", structures, rows)
    return [f"data.{name}={tmp_path / name}.extxyz" for name in pairs]


def test_the_best_checkpoint_may_be_the_one_that_chooses_the_lowest_polymorph_most_often(
    workshop: Workshop, base: Path, polymorphs: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shares: Iterator[float] = iter([0.2, 0.5, 0.3])
    call = Evaluator.__call__

    def evaluate(self: Evaluator, *arguments: Any, **options: Any) -> Any:
        evaluation = call(self, *arguments, **options)
        return replace(evaluation, metrics=replace(evaluation.metrics, match_lowest=next(shares)))

    monkeypatch.setattr(Evaluator, "__call__", evaluate)
    run = tmp_path / "run"
    keys = [f"base={base}", "data.file=null", *polymorphs, f"run={run}", "validation.best=match_lowest", "test=false"]
    train(workshop.load(*keys), progress=False)
    assert (run / "checkpoints" / "best").resolve().name == "iteration_000002"


def test_without_known_polymorphs_they_choose_no_checkpoint(workshop: Workshop, base: Path) -> None:
    keys = [f"base={base}", "validation.best=match_lowest"]
    with pytest.raises(ConfigError, match="no validation crystal has several known polymorphs"):
        build_run(workshop.load(*keys))
    with pytest.raises(ConfigError, match=r"reward\.potential says which"):
        build_run(workshop.load(*keys, "reward={potential: null, weights: {crmse: 1}}"))


def test_a_model_that_generates_species_chooses_no_polymorphs(workshop: Workshop, de_novo: Path) -> None:
    with pytest.raises(ConfigError, match="match_lowest: .* generates species"):
        build_run(workshop.load(f"base={de_novo}", "validation.best=match_lowest"))


def test_what_the_best_checkpoint_was_chosen_by_stays(
    workshop: Workshop, base: Path, polymorphs: list[str], tmp_path: Path
) -> None:
    keys = [f"base={base}", "data.file=null", *polymorphs, f"run={tmp_path / 'run'}", "test=false"]
    train(workshop.load(*keys, "iterations=1"), progress=False)
    with pytest.raises(ConfigError, match=r"validation\.best: the run was started with reward"):
        train(workshop.load(*keys, "iterations=2", "validation.best=match_lowest"), resume=True)
    train(workshop.load(*keys, "iterations=2", "validation.every=1"), resume=True)


def test_a_replay_begins_with_the_training_crystals_ranked_by_a_column_of_their_file(
    workshop: Workshop, base: Path, polymorphs: list[str], tmp_path: Path
) -> None:
    replayed = "objective={policy_weight: {pos: 0}, replay: {relax: 0, energies: dft}}"
    keys = [f"base={base}", "data.file=null", *polymorphs, "iterations=1", "test=false", replayed]
    train(workshop.load(*keys, f"run={tmp_path / 'run'}"), progress=False)
    (row,) = [line for line in read_metrics(tmp_path / "run" / "metrics.jsonl") if line["kind"] == "train"]
    assert row["replay_crystals"] == 2 and row["replay_reward"] >= 3.5
    with pytest.raises(
        ConfigError, match=r"replay\.energies: 2 of 2 .* no number as 'pbe', for example train-0 \(None\)"
    ):
        build_run(workshop.load(*keys, "objective.replay.energies=pbe"))
