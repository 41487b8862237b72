"""Crystals with elements that nobody knows: named all at once, or left out and counted."""

from __future__ import annotations

from pathlib import Path

import pytest
from pymatgen.core import Lattice, Structure

from omatg_ray.commands.pretrain import known_to_potential
from omatg_ray.commands.train import train
from omatg_ray.crystal.read import read_dataset
from omatg_ray.crystal.write import write_structures
from omatg_ray.errors import ConfigError, DataError, DataWarning, PotentialError
from omatg_ray.train.build import build_run
from omatg_ray.train.splits import load_splits
from omatg_ray.train.unknown import drop_unknown
from tests.commands.conftest import Command, Workshop, synthetic_crystals


def cubic(first: str, second: str) -> Structure:
    return Structure(Lattice.cubic(4.0), [first, second], [[0, 0, 0], [0.5, 0.5, 0.5]])


STRANGERS = [cubic("W", "O"), cubic("Xe", "F"), cubic("Hg", "O"), cubic("Au", "Cl"), cubic("W", "S")]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "more.extxyz"
    write_structures(path, [*STRANGERS, *synthetic_crystals()])
    return path


def test_a_run_names_the_unknown_elements_of_all_splits(workshop: Workshop, base: Path, data: Path) -> None:
    config = workshop.load(f"base={base}", f"data.file={data}", "data.split_seed=1")
    split = load_splits(config.data)
    assert not (split.val.elements | split.test.elements) <= split.train.elements  # no split has all of them
    with pytest.raises(PotentialError, match=r"does not know Xe, W, Au, Hg; .*\(data\.drop_unknown=true"):
        build_run(config)


def test_a_run_leaves_them_out_and_counts_them(workshop: Workshop, base: Path, data: Path) -> None:
    """The split is that of a file without them."""
    with pytest.warns(DataWarning) as said:
        split = build_run(workshop.load(f"base={base}", f"data.file={data}", "data.drop_unknown=true")).split
    (text,) = [str(warning.message) for warning in said if "left out" in str(warning.message)]
    assert text.startswith(
        f"{data}: 5 crystals of 18 left out: potential {workshop.potential} does not know Xe (1), W (2)"
    )
    assert f"model {base} does not know " in text
    known = load_splits(workshop.load().data)
    for name in ("train", "val", "test"):
        assert getattr(split, name).compositions == getattr(known, name).compositions


def test_a_run_that_leaves_them_out_is_resumed(workshop: Workshop, base: Path, data: Path, tmp_path: Path) -> None:
    keys = [f"base={base}", f"data.file={data}", "data.drop_unknown=true", f"run={tmp_path / 'run'}", "workers=0"]
    with pytest.warns(DataWarning, match="left out"):
        train(workshop.load(*keys, "iterations=1"), progress=False)
    with pytest.warns(DataWarning, match="left out"):
        train(workshop.load(*keys, "iterations=2"), resume=True, progress=False)
    with pytest.raises(ConfigError, match=r"data\.drop_unknown: the run was started with True, not False"):
        keys[1:3] = [f"data.{name}={tmp_path / 'run' / 'data' / name}.extxyz" for name in ("train", "val", "test")]
        train(workshop.load("data.file=null", *keys, "iterations=3"), resume=True, progress=False)


def test_each_file_of_a_split_loses_its_own(workshop: Workshop, base: Path, data: Path) -> None:
    files = [f"data.{name}={base / 'data' / name}.extxyz" for name in ("train", "val")]
    keys = [f"base={base}", "data.file=null", *files, f"data.test={data}", "data.drop_unknown=true"]
    with pytest.warns(UserWarning, match="left out|share"):
        split = build_run(workshop.load(*keys)).split
    assert len(split.test) == 13


def test_pretraining_leaves_out_what_the_potential_does_not_know(
    workshop: Workshop, command: Command, data: Path, tmp_path: Path
) -> None:
    keys = [f"data.file={data}", "data.drop_unknown=true", f"run={tmp_path / 'run'}"]
    done = command("pretrain", workshop.config, *keys, "--dry-run", "--quiet")
    assert done.code == 0, done.err
    assert "warning: " in done.err and "5 crystals of 18 left out: potential" in done.err
    done = command("pretrain", workshop.config, *keys, "reward.potential=null")
    done.refuses("data.drop_unknown: ", "reward.potential=")


def test_evaluations_leave_them_out(workshop: Workshop, base: Path, command: Command, data: Path) -> None:
    words = ["--data", data, "--potential", workshop.potential, "--steps", 2, "--workers", 0, "--quiet"]
    command("evaluate", base, *words).refuses("does not know Xe, W, Au, Hg", "--drop-unknown", code=1)
    done = command("evaluate", base, *words, "--drop-unknown")
    assert done.code == 0, done.err
    assert "5 crystals of 18 left out" in done.err and "was not trained on" not in done.err


def test_nothing_is_said_if_nothing_is_unknown_and_an_error_if_everything_is(data: Path) -> None:
    dataset = read_dataset(data)
    assert drop_unknown(dataset, {"potential x": dataset.elements}, data) is dataset
    with pytest.raises(DataError, match=r"no crystal is left .*: potential x does not know O \(4\), F \(4\)"):
        drop_unknown(dataset, {"potential x": frozenset({1})}, data)


def test_it_is_refused_where_nothing_says_what_is_unknown(workshop: Workshop, data: Path) -> None:
    config = workshop.load(f"data.file={data}", "data.drop_unknown=true", "reward.potential=null")
    with pytest.raises(ConfigError, match=r"data\.drop_unknown: .*reward\.potential="):
        known_to_potential(config)
    with pytest.raises(ConfigError, match="nothing here says which elements are known"):
        drop_unknown(read_dataset(data), {}, data)
    missing = workshop.load("data.file=missing.csv").data
    with pytest.raises(ConfigError, match="nothing here says which elements are known"):
        load_splits(missing, known={})
