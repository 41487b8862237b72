"""Runs by rewards other than the energy."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from omatg_ray.cli.next_steps import next_steps
from omatg_ray.commands.train import train
from omatg_ray.config import Config
from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.crystal.read import read_dataset
from omatg_ray.crystal.write import write_structures
from omatg_ray.errors import ConfigError, DataError, RewardError
from omatg_ray.evaluate import backend
from omatg_ray.model.flow_model import FlowModel
from omatg_ray.model.sampling import Sampling
from omatg_ray.report.tables import rewards_table
from omatg_ray.run.metrics import read_metrics
from omatg_ray.train.build import build_run
from omatg_ray.train.estimate import describe
from omatg_ray.train.job import with_job_paths
from tests.commands.conftest import Workshop, write_tiny_potential
from tests.run.test_job_paths import home, job

__all__ = ["home", "job"]

REWARDS = Path(__file__).parents[1] / "reward" / "rewards"
MINE = f"reward.custom={{mine: {{class: 'user_rewards:Flat', invalid: -99, options: {{axis: 0}}, path: {REWARDS}}}}}"


@pytest.mark.processes
def test_a_run_without_any_potential(workshop: Workshop, base: Path, tmp_path: Path) -> None:
    """Matching, symmetry, a target and a reward of one's own; `best` is chosen by their sum."""
    weights = "{crmse: 1, non_triclinic: 0.1, non_centrosymmetric: 0, density: 0.5, mine: 0}"
    config = workshop.load(
        f"run={tmp_path / 'run'}", f"base={base}", "reward.potential=null", f"reward.weights={weights}",
        "reward.density.target=2.5", MINE, "iterations=2",
    )  # fmt: skip
    parts = build_run(config)
    assert parts.scorers.energy is None and list(parts.reward.parts) == [
        "crmse", "non_triclinic", "non_centrosymmetric", "density", "mine",
    ]  # fmt: skip
    text = describe(config, parts)
    assert "by 1 x crmse + 0.1 x non_triclinic" in text and "None" not in text
    result = train(config, progress=False)
    assert "--potential" not in next_steps(config, result.rows, result.example)
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
    validated = {
        line["step"]: line["reward_mean"]
        for line in read_metrics(tmp_path / "run" / "metrics.jsonl")
        if line["kind"] == "validation"
    }
    assert list(validated) == [0, 2]
    assert result.model.resolve().name == f"iteration_{max(validated, key=validated.__getitem__):06d}"
    report = result.report.read_text()
    assert "cRMSE" in report and "Reward on validation" in report
    # The test too: the parts and values of the sum before and after, with intervals, in pictures and in words.
    names = ["weighted sum", "crmse", "crmse.rmse", "non_triclinic", "non_triclinic.space_group", "mine", "mine.length"]
    for row in result.rows:
        own = row["rewards"]
        assert set(names) <= own.keys()
        assert own["mine"]["mean"] == pytest.approx(-own["mine.length"]["mean"])
        total = sum(
            weight * own[name]["mean"]
            for weight, name in zip((1.0, 0.1, 0.5), ("crmse", "non_triclinic", "density"), strict=True)
        )
        assert own["weighted sum"]["mean"] == pytest.approx(total)
        assert own["mine"]["low"] <= own["mine"]["mean"] <= own["mine"]["high"]
        assert len(row["per_structure"]["reward.mine.length"]) == row["metrics"]["n"]
        assert row["per_structure"]["composition"] == parts.split.test.compositions
    assert "Reward: mine" in report and "Behind the reward: mine.length" in report
    if result.model.resolve().name == "iteration_000000":
        assert "Best is the base" in report
    else:
        assert "reward, mine.length: " in report and "too few to tell" in report
    validation = next(line for line in read_metrics(tmp_path / "run" / "metrics.jsonl") if line["kind"] == "validation")
    assert validation["reward_mine_mean"] == pytest.approx(-validation["reward_mine.length_mean"])
    assert rewards_table(result.rows).splitlines()[0].split()[:2] == ["reward", "base"]


def test_the_reward_of_a_validation_is_that_of_its_crystals(workshop: Workshop, base: Path, tmp_path: Path) -> None:
    keys = [f"run={tmp_path / 'run'}", f"base={base}", "reward.weights={energy: 1, volume: 2}", "iterations=0"]
    train(workshop.load(*keys, "reward.volume.target=20", "validation.block=1"), progress=False)
    (line,) = (line for line in read_metrics(tmp_path / "run" / "metrics.jsonl") if line["kind"] == "validation")
    config = workshop.load(*keys, "reward.volume.target=20")
    parts = build_run(config)
    crystals = parts.split.val.crystals
    species = [z.tolist() for z in crystals.species.split(crystals.layout.sizes)]
    generated = parts.model.generate(species, Sampling(config.rollout.steps), seed=config.seed, judged=True)
    assert line["reward_mean"] == pytest.approx(float(parts.reward(generated).reward.mean()), abs=1e-5)


@pytest.mark.processes
def test_validation_crystals_are_matched_with_those_of_their_split(workshop: Workshop, base: Path) -> None:
    """Training knows no polymorph of theirs; what it knows is not added to."""
    parts = build_run(workshop.load(f"base={base}", "reward.weights={crmse: 1}"))
    assert not set(parts.split.train.compositions) & set(parts.split.val.compositions)
    for split in (parts.split.train, parts.split.val):
        assert parts.reward(split.crystals).reward.tolist() == pytest.approx([0.5] * len(split), abs=1e-6)


def evaluate_to(value: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the crystals of evaluations this reward, and not those of iterations."""
    measured = backend.assess

    def assess(*arguments: Any) -> Any:
        found = measured(*arguments)
        assert found.reward is not None
        return replace(found, reward=replace(found.reward, reward=torch.full_like(found.reward.reward, value)))

    monkeypatch.setattr(backend, "assess", assess)


def test_without_any_score_the_newest_is_best(
    workshop: Workshop, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate_to(torch.nan, monkeypatch)
    keys = [f"run={tmp_path / 'run'}", f"base={base}", "reward.weights={energy: 1, volume: 2}", "iterations=2"]
    result = train(workshop.load(*keys, "reward.volume.target=20"), progress=False)
    assert result.model.resolve().name == "iteration_000002"


def test_a_best_that_is_the_start_is_said(
    workshop: Workshop, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    evaluate_to(0.0, monkeypatch)
    keys = [f"run={tmp_path / 'run'}", f"base={base}", "reward.weights={energy: 1, volume: 2}", "iterations=1"]
    result = train(workshop.load(*keys, "reward.volume.target=20"), progress=False)
    assert result.model.resolve().name == "iteration_000000"
    assert "checkpoints/best is the model before reinforcement" in caplog.text


@pytest.mark.processes
def test_code_and_second_potential_are_part_of_a_run(
    workshop: Workshop, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The code is looked for in the working directory, also when the run goes on from elsewhere."""
    code = tmp_path / "code" / "own.py"
    code.parent.mkdir()
    source = "class Zero:\n    def __call__(self, crystals):\n        return [0.0] * len(crystals)\n"
    code.write_text(source)
    second = tmp_path / "second"
    write_tiny_potential(second, seed=2)
    monkeypatch.chdir(code.parent)
    run = tmp_path / "run"
    keys = ["reward.weights={energy: 1, mine: 0}", "reward.custom={mine: {class: 'own:Zero', invalid: -1}}"]
    keys += [f"run={run}", f"base={base}", f"reward.second_potential={second}"]
    train(workshop.load(*keys, "iterations=1"), progress=False)
    monkeypatch.chdir(tmp_path)
    stored = Config.load(run / "config.yaml", ["iterations=2"])
    assert stored.reward.custom["mine"].path == code.parent
    train(stored, resume=True, progress=False)
    longer = Config.load(run / "config.yaml", ["iterations=3"])
    code.write_text(source.replace("0.0", "1.0"))
    with pytest.raises(ConfigError, match=r"other code \(reward\.custom\)"):
        train(longer, resume=True, progress=False)
    code.write_text(source)
    write_tiny_potential(tmp_path / "third", seed=1)
    shutil.rmtree(second)
    shutil.copytree(tmp_path / "third", second)
    with pytest.raises(ConfigError, match=r"^reward\.second_potential: .* was monitored by one with weights"):
        train(longer, resume=True, progress=False)


@pytest.mark.processes
def test_a_reward_that_breaks_its_contract_leaves_a_run_to_go_on_with(
    workshop: Workshop, base: Path, tmp_path: Path
) -> None:
    custom = f"reward.custom={{mine: {{class: 'user_rewards:Second', invalid: -1, path: {REWARDS}}}}}"
    keys = [f"run={tmp_path / 'run'}", f"base={base}", "reward.weights={energy: 1, mine: 1}", custom]
    with pytest.raises(
        RewardError, match=r"mine: .*shape.*last checkpoint is .*iteration_000000.*train --resume .*run"
    ):
        train(workshop.load(*keys, "validation.block=1"), progress=False)


def test_polymorphs_do_not_go_with_generated_species(
    workshop: Workshop, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FlowModel, "generates_species", property(lambda self: True))
    with pytest.raises(ConfigError, match=r"^reward\.weights\.crmse: .* generates species"):
        build_run(workshop.load(f"base={base}", "reward.weights={energy: 1, crmse: 0}"))
    with pytest.raises(ConfigError, match=r"^objective\.flow_matching: .* generates species"):
        build_run(workshop.load(f"base={base}", "objective.flow_matching={}"))


def write_hull_references(file: Path, workshop: Workshop) -> tuple[int, int]:
    """Writes a crystal of each element, then all of the workshop; returns how many these are."""
    known = read_dataset(workshop.data).crystals
    numbers = torch.tensor(sorted(set(known.species.tolist())))
    n = len(numbers)
    elements = CrystalBatch(numbers, torch.zeros(n, 3), 3.0 * torch.eye(3).repeat(n, 1, 1), torch.ones(n).long())
    write_structures(file, CrystalBatch.cat([elements, known]).to_structures())
    return n, len(known)


def test_references_of_the_hull_are_relaxed_as_what_is_rewarded(
    workshop: Workshop, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    file = tmp_path / "references.extxyz"
    write_hull_references(file, workshop)
    keys = [f"base={base}", "reward.weights={hull: 1}", f"reward.hull.crystals={file}"]
    lowest = []
    for relax in ("reward.relax_steps=0", "reward.relax_steps=3"):
        parts = build_run(workshop.load(*keys, relax))
        lowest.append(float(parts.reward(parts.split.train.crystals).values["hull.above_hull"].min()))
    # Relaxed crystals over references as they were would lie below the hull.
    assert min(lowest) > -1e-3
    assert len(list((tmp_path / "cache" / "omatg_ray").iterdir())) == 2


@pytest.mark.processes
@pytest.mark.filterwarnings("ignore:reward.second_potential")
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
    with pytest.warns(UserWarning, match=r"^reward\.second_potential: .*second has the weights of reward\.potential"):
        train(workshop.load(*keys, "iterations=1"), progress=False)
    report = (tmp_path / "run" / "report.html").read_text()
    for title in (
        "Reward: energy",
        "Reward: crmse",
        "Agreement with the second potential",
        "Diversity of the rollouts",
    ):
        assert f"<h3>{title}</h3>" in report
    assert "Noise of the policy" not in report  # it does not learn its noise
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
    parts = build_run(workshop.load(f"base={base}", "reward.weights={hull: 1}", f"reward.hull.entries={file}"))
    result = parts.reward(parts.split.train.crystals)
    assert result.values["hull.above_hull"].tolist() == pytest.approx((result.values["energy_per_atom"] + 30).tolist())
    assert [weight for weight, _ in parts.reward.parts.values()] == [0.0, 1.0]


def test_the_hull_of_crystals_with_energies_of_the_potential(
    workshop: Workshop, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    file = tmp_path / "references.extxyz"
    elements, known = write_hull_references(file, workshop)
    keys = [f"base={base}", "reward.weights={hull: 1}", f"reward.hull.crystals={file}"]
    parts = build_run(workshop.load(*keys))
    crystals = parts.split.train.crystals
    # The references hold every training crystal: none is below the hull.
    assert float(parts.reward(crystals).values["hull.above_hull"].min()) > -1e-4
    (cached,) = (tmp_path / "cache" / "omatg_ray").iterdir()
    energies = json.loads(cached.read_text())
    assert len(energies) == elements + known
    # What is cached is taken: elements a lot lower lift everything above the hull.
    cached.write_text(json.dumps([value - 100 * (row < elements) for row, value in enumerate(energies)]))
    assert float(build_run(workshop.load(*keys)).reward(crystals).values["hull.above_hull"].min()) > 50


def test_code_and_references_of_a_job_are_those_of_its_upload(job: Path, home: Path) -> None:
    (job / "rewards").mkdir()
    (home / "data").mkdir(parents=True)
    (home / "data" / "known.extxyz").touch()
    config = Config.load(
        None,
        [
            "reward.custom={mine: {class: 'm:R', invalid: 0, path: rewards}}", "reward.weights={mine: 1, crmse: 0}",
            "reward.crmse.references=data/known.extxyz", "reward.second_potential=r2scan",
        ],
    )  # fmt: skip
    at = with_job_paths(config).reward
    assert at.custom["mine"].path is not None and at.custom["mine"].path.resolve() == (job / "rewards").resolve()
    assert at.crmse.references == home / "data" / "known.extxyz"
    assert at.second_potential == "r2scan"
    with pytest.raises(ConfigError, match=r"^reward\.hull\.entries: none\.json is neither"):
        with_job_paths(Config.load(None, ["reward.hull.entries=none.json"]))


def test_relaxation_lowers_rewarded_energies_only(workshop: Workshop, base: Path) -> None:
    parts = build_run(workshop.load(f"base={base}", "reward.relax_steps=3"))
    crystals = parts.split.train.crystals
    assert parts.scorers.energy is not None
    plain, relaxed = parts.scorers.energy(crystals), parts.reward(crystals)
    drop = plain.values["energy_per_atom"] - relaxed.values["energy_per_atom"]
    assert relaxed.values["relax_drop"].tolist() == pytest.approx(drop.tolist(), abs=1e-3)
    assert float(drop.max()) > 0


@pytest.mark.processes
@pytest.mark.parametrize(
    "keys, error, said",
    [
        (["reward.potential=null"], ConfigError, r"^reward\.potential: name a MatGL potential"),
        (["reward.weights={hull: 1}", "reward.potential=null"], ConfigError, r"^reward\.potential"),
        (["reward.weights={hull: 1}"], RewardError, "no elemental crystal of "),
        (["reward.weights={hull: 1}", "reward.hull.entries=none.csv"], DataError, r"none\.csv"),
        (["reward.weights={crmse: 1}", "reward.crmse.references=OTHER"], RewardError, "no reference has the compos"),
        (
            ["reward.custom={mine: {class: 'nowhere:Flat', invalid: 0}}", "reward.weights={mine: 1}"],
            RewardError,
            "mine: .*nowhere",
        ),
    ],
)
def test_what_cannot_be_rewarded_is_refused_early(
    workshop: Workshop, base: Path, tmp_path: Path, keys: list[str], error: type[Exception], said: str
) -> None:
    other = tmp_path / "other.extxyz"
    write_structures(other, read_dataset(workshop.data).crystals.select([0]).to_structures())
    with pytest.raises(error, match=said):
        build_run(workshop.load(f"base={base}", *(key.replace("OTHER", str(other)) for key in keys)))


@pytest.mark.parametrize(
    "keys, said",
    [
        (["reward.weights={enrgy: 1}"], r"weights\.enrgy: there is no such reward"),
        (["reward.weights={energy: 0}"], "at least one must not be 0"),
        (["reward.weights={density: 1}"], r"density\.target, which is not set"),
        ([MINE], r"custom\.mine has no weight"),
        ([MINE.replace("mine", "energy", 1)], r"custom\.energy: use letters"),
        ([MINE.replace("mine", "relax_drop", 1)], r"custom\.relax_drop: use letters"),
        ([MINE.replace("mine", "valid", 1)], r"custom\.valid: use letters"),
        ([MINE.replace("invalid: -99, ", ""), "reward.weights={mine: 1}"], r"custom\.mine\.invalid: missing"),
        ([MINE.replace("-99", ".inf"), "reward.weights={mine: 1}"], r"custom\.mine\.invalid: .*finite"),
        (["reward.weights={energy: 1, crmse: -0.5}"], r"weights\.crmse: -0\.5 is below 0"),
        (["reward.weights={energy: .nan}"], r"weights\.energy: .*finite"),
        (["advantage.clip_std=2"], r"advantage: clip_std cannot be combined with shaping rank"),
        ([MINE.replace("mine", "a/b", 1), "reward.weights={a/b: 1}"], "custom.a/b: use letters"),
        (["reward.custom={mine: {class: Flat, invalid: 0}}", "reward.weights={mine: 1}"], "module:Class"),
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
