"""Runs by rewards other than the energy."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from omatg_ray.commands.estimate import describe, estimate
from omatg_ray.commands.next_steps import next_steps
from omatg_ray.commands.places import anchored
from omatg_ray.commands.prepare import prepare
from omatg_ray.commands.train import train
from omatg_ray.config import Config
from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.crystal.read import read_dataset
from omatg_ray.crystal.write import write_structures
from omatg_ray.errors import ConfigError, DataError, RewardError
from omatg_ray.run.metrics import read_metrics
from tests.commands.conftest import Workshop, write_tiny_potential
from tests.commands.test_places import home, job

__all__ = ["home", "job"]

REWARDS = Path(__file__).parents[1] / "reward" / "rewards"
MINE = f"reward.custom={{mine: {{class: 'user_rewards:Flat', options: {{axis: 0}}, path: {REWARDS}}}}}"


def test_a_run_without_any_potential(workshop: Workshop, base: Path, tmp_path: Path) -> None:
    """Matching, symmetry, a target and a reward of one's own; `best` is chosen by cRMSE."""
    weights = "{crmse: 1, non_triclinic: 0.1, non_centrosymmetric: 0, density: 0.5, mine: 0}"
    config = workshop.load(
        f"run={tmp_path / 'run'}", f"base={base}", "reward.potential=null", f"reward.weights={weights}",
        "reward.density.target=2.5", MINE, "iterations=2",
    )  # fmt: skip
    parts = prepare(config)
    assert parts.energy is None and [part.name for part in parts.reward.parts] == [
        "crmse", "non_triclinic", "non_centrosymmetric", "density", "mine",
    ]  # fmt: skip
    text = describe(config, parts, estimate(config, parts))
    assert "by 1 x crmse + 0.1 x non_triclinic" in text and "None" not in text
    result = train(config, progress=False)
    assert "--potential" not in next_steps(config, result.rows)
    assert all(row["metrics"]["relative_energy_mean"] is None for row in result.rows)
    lines = [line for line in read_metrics(tmp_path / "run" / "metrics.jsonl") if line["kind"] == "train"]
    assert len(lines) == 2
    for line in lines:
        assert {f"reward_{name}_mean" for name in ("crmse", "density.density", "mine", "mine.length")} <= line.keys()
        assert line["reward_mine_mean"] == pytest.approx(-line["reward_mine.length_mean"])
        assert line["failed_share"] == 0 and "energy_mean" not in line
        parts_of_sum = zip((1.0, 0.1, 0.5), ("crmse", "non_triclinic", "density"), strict=True)
        total = sum(weight * line[f"reward_{name}_mean"] for weight, name in parts_of_sum)
        assert line["reward_mean"] == pytest.approx(total)
    report = result.report.read_text()
    assert "cRMSE" in report


def test_a_run_goes_on_with_its_rewards(workshop: Workshop, base: Path, tmp_path: Path) -> None:
    """A second potential, and references in a file, which must be the same."""
    second = tmp_path / "second"
    write_tiny_potential(second)
    references = tmp_path / "references.extxyz"
    references.write_text(workshop.data.read_text())
    keys = [
        f"run={tmp_path / 'run'}", f"base={base}", "reward.weights={energy: 1, crmse: 1}",
        f"reward.second_potential={second}", f"reward.crmse.references={references}",
    ]  # fmt: skip
    train(workshop.load(*keys, "iterations=1"), progress=False)
    moved = references.rename(tmp_path / "elsewhere.extxyz")
    keys[-1] = f"reward.crmse.references={moved}"
    train(workshop.load(*keys, "iterations=2"), resume=True, progress=False)
    lines = [line for line in read_metrics(tmp_path / "run" / "metrics.jsonl") if line["kind"] == "train"]
    # The same weights: no difference at all.
    assert [line["second_shift"] for line in lines] == pytest.approx([0.0, 0.0], abs=1e-6)
    assert [line["second_rank_correlation"] for line in lines] == pytest.approx([1.0, 1.0])
    with pytest.raises(ConfigError, match=r"^reward\.weights\.crmse: the run was started with 1\.0, not 2\.0"):
        train(workshop.load(*keys, "reward.weights.crmse=2", "iterations=3"), resume=True, progress=False)
    write_structures(moved, read_dataset(workshop.data).crystals.tile(2).to_structures())
    with pytest.raises(ConfigError, match="other reference files"):
        train(workshop.load(*keys, "iterations=3"), resume=True, progress=False)


def test_the_hull_of_entries(workshop: Workshop, base: Path, tmp_path: Path) -> None:
    file = tmp_path / "entries.csv"
    elements = ("Na", "K", "Rb", "F", "Cl", "Br", "Mg", "Ca", "O", "S")
    file.write_text("formula,energy_per_atom\n" + "".join(f"{symbol},-30\n" for symbol in elements))
    parts = prepare(workshop.load(f"base={base}", "reward.weights={hull: 1}", f"reward.hull.entries={file}"))
    result = parts.reward(parts.split.train.crystals)
    assert result.values["hull.above_hull"].tolist() == pytest.approx((result.values["energy_per_atom"] + 30).tolist())
    assert [part.weight for part in parts.reward.parts] == [0.0, 1.0]


def test_the_hull_of_crystals_with_energies_of_the_potential(
    workshop: Workshop, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    known = read_dataset(workshop.data).crystals
    numbers = sorted(set(known.species.tolist()))
    elements = CrystalBatch(
        torch.tensor(numbers), torch.zeros(len(numbers), 3), 3.0 * torch.eye(3).repeat(len(numbers), 1, 1),
        torch.ones(len(numbers), dtype=torch.long),
    )  # fmt: skip
    file = tmp_path / "references.extxyz"
    write_structures(file, CrystalBatch.cat([elements, known]).to_structures())
    keys = [f"base={base}", "reward.weights={hull: 1}", f"reward.hull.crystals={file}"]
    parts = prepare(workshop.load(*keys))
    crystals = parts.split.train.crystals
    # The references hold every training crystal: none is below the hull.
    assert float(parts.reward(crystals).values["hull.above_hull"].min()) > -1e-4
    (cached,) = (tmp_path / "cache" / "omatg_ray").iterdir()
    energies = json.loads(cached.read_text())
    assert len(energies) == len(numbers) + len(known)
    # What is cached is taken: elements a lot lower lift everything above the hull.
    cached.write_text(json.dumps([value - 100 * (row < len(numbers)) for row, value in enumerate(energies)]))
    assert float(prepare(workshop.load(*keys)).reward(crystals).values["hull.above_hull"].min()) > 50


def test_code_and_references_of_a_job_are_those_of_its_upload(job: Path, home: Path) -> None:
    (job / "rewards").mkdir()
    (home / "data").mkdir(parents=True)
    (home / "data" / "known.extxyz").touch()
    config = Config.load(
        None,
        [
            "reward.custom={mine: {class: 'm:R', path: rewards}}", "reward.weights={mine: 1, crmse: 0}",
            "reward.crmse.references=data/known.extxyz", "reward.second_potential=r2scan",
        ],
    )  # fmt: skip
    at = anchored(config).reward
    assert at.custom["mine"].path is not None and at.custom["mine"].path.resolve() == (job / "rewards").resolve()
    assert at.crmse.references == home / "data" / "known.extxyz"
    assert at.second_potential == "r2scan"
    with pytest.raises(ConfigError, match=r"^reward\.hull\.entries: none\.json is neither"):
        anchored(Config.load(None, ["reward.hull.entries=none.json"]))


def test_relaxation_lowers_rewarded_energies_only(workshop: Workshop, base: Path) -> None:
    parts = prepare(workshop.load(f"base={base}", "reward.relax_steps=3"))
    crystals = parts.split.train.crystals
    assert parts.energy is not None
    plain, relaxed = parts.energy(crystals), parts.reward(crystals)
    drop = plain.values["energy_per_atom"] - relaxed.values["energy_per_atom"]
    assert relaxed.values["relax_drop"].tolist() == pytest.approx(drop.tolist(), abs=1e-3)
    assert float(drop.max()) > 0


@pytest.mark.parametrize(
    "keys, error, said",
    [
        (["reward.potential=null"], ConfigError, r"^reward\.potential: name a MatGL potential"),
        (["reward.weights={hull: 1}", "reward.potential=null"], ConfigError, r"^reward\.potential"),
        (["reward.weights={hull: 1}"], RewardError, "no elemental crystal of "),
        (["reward.weights={hull: 1}", "reward.hull.entries=none.csv"], DataError, r"none\.csv"),
        (["reward.weights={crmse: 1}", "reward.crmse.references=OTHER"], RewardError, "no reference has the compos"),
        (["reward.custom={mine: {class: 'nowhere:Flat'}}", "reward.weights={mine: 1}"], RewardError, "mine: .*nowhere"),
    ],
)
def test_what_cannot_be_rewarded_is_refused_early(
    workshop: Workshop, base: Path, tmp_path: Path, keys: list[str], error: type[Exception], said: str
) -> None:
    other = tmp_path / "other.extxyz"
    write_structures(other, read_dataset(workshop.data).crystals.select([0]).to_structures())
    with pytest.raises(error, match=said):
        prepare(workshop.load(f"base={base}", *(key.replace("OTHER", str(other)) for key in keys)))


@pytest.mark.parametrize(
    "keys, said",
    [
        (["reward.weights={enrgy: 1}"], r"weights\.enrgy: there is no such reward"),
        (["reward.weights={energy: 0}"], "at least one must not be 0"),
        (["reward.weights={density: 1}"], r"density\.target, which is not set"),
        ([MINE], r"custom\.mine has no weight"),
        ([MINE.replace("mine", "energy", 1)], r"custom\.energy: name it"),
        ([MINE.replace("mine", "a/b", 1), "reward.weights={a/b: 1}"], "custom.a/b: name it"),
        (["reward.custom={mine: {class: Flat}}", "reward.weights={mine: 1}"], "module:Class"),
        (["reward.hull={entries: a.csv, crystals: b.csv}"], "not both"),
    ],
)
def test_settings_that_make_no_sense(workshop: Workshop, keys: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        workshop.load(*keys)


def test_weights_replace_the_default(workshop: Workshop) -> None:
    assert workshop.load().reward.weighted == {"energy": 1.0}
    assert workshop.load("reward.weights={crmse: 2}").reward.weighted == {"crmse": 2.0}
    assert workshop.load("reward.weights.crmse=2", "reward.weights.energy=0").reward.weighted == {
        "crmse": 2,
        "energy": 0,
    }


def test_settings_of_rewards_are_read_back(workshop: Workshop, tmp_path: Path) -> None:
    config = workshop.load(MINE, "reward.weights={mine: 1, energy: 0}", "reward.crmse.references=a.extxyz").resolved()
    (tmp_path / "config.yaml").write_text(config.to_yaml())
    assert workshop.load().from_tree(json.loads(json.dumps(config.model_dump(mode="json")))) == config
    assert type(config).load(tmp_path / "config.yaml") == config
    assert config.reward.crmse.references == Path.cwd() / "a.extxyz"
