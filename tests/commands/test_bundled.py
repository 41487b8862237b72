"""The word `bundled` in commands and in Python, and `train` without a configuration."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
import torch

import omatg_ray as og
from omatg_ray.assets import polymorphs, quickstart, seal
from omatg_ray.cli import main
from omatg_ray.cli.arguments import split_words
from omatg_ray.cli.next_steps import next_steps, program, reduced
from omatg_ray.commands.train import TrainResult
from omatg_ray.config import Config
from omatg_ray.crystal.formula import cell_species
from omatg_ray.crystal.read import read_dataset
from omatg_ray.errors import DataError, ModelError
from omatg_ray.reward.potential import load_potential
from omatg_ray.run.location import PROTOTYPES
from omatg_ray.run.metrics import read_metrics
from omatg_ray.run.state import free_run
from omatg_ray.tree import override
from tests.commands.conftest import Command, Workshop

SMALL = (
    "threads=1", "workers=0", "iterations=1", "rollout.groups=2", "rollout.steps=5",
    "validation.limit=2", "objective.reward_gradient.transitions=1", "learner.lr=1e-4",
)  # fmt: skip


@pytest.fixture
def desk(assets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory of a user who has the assets."""
    folder = tmp_path / "desk"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def same_weights(left: og.FlowModel, right: og.FlowModel) -> bool:
    ours, theirs = left.base_network.state_dict(), right.base_network.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


@pytest.fixture
def other(desk: Path, assets: Path) -> Path:
    """The assets moved to the other set: whatever asks the default set finds nothing."""
    folder = assets / "other"
    folder.mkdir()
    for name in ("crystals", "potential", "base", "schedule"):
        shutil.move(assets / name, folder / name)
    shutil.rmtree(assets / "reinforced")
    return folder


def test_another_set_by_its_name(other: Path, command: Command) -> None:
    model, few = og.FlowModel.load(PROTOTYPES), ["--steps", 4, "--workers", 0, "--quiet"]
    assert load_potential(PROTOTYPES).name == PROTOTYPES
    test = read_dataset(other / "crystals" / "test.extxyz")
    done = command("evaluate", PROTOTYPES, "--data", PROTOTYPES, *few, "--json", "out.json")
    assert done.code == 0, done.err
    result = json.loads(Path("out.json").read_text())
    assert result["per_structure"]["id"] == test.ids and result["potential"] == PROTOTYPES
    measured = og.evaluate(test.crystals, PROTOTYPES, workers=0)
    assert measured.metrics.match_rate == 1.0 and measured.settings["potential"] == PROTOTYPES
    assert command("check", PROTOTYPES).code == 0
    done = command("generate", PROTOTYPES, "--formula", "NaCl", "-n", 2, *few, "--potential", PROTOTYPES)
    assert done.code == 0, done.err
    described = command("info", PROTOTYPES, f"{PROTOTYPES}/potential").out
    assert "# Card of the potential" in described and " ".join(model.description.elements or []) in described


def test_a_run_on_another_set_takes_its_crystals_and_suggests_what_it_has(other: Path, command: Command) -> None:
    words = [
        *SMALL,
        f"base={PROTOTYPES}",
        f"reward.potential={PROTOTYPES}",
        f"policy.schedule_from={PROTOTYPES}",
        "run=runs/other",
    ]
    done = command("train", *words, "--quiet")
    assert done.code == 0, done.err
    splits = [read_dataset(folder / "test.extxyz") for folder in (other / "crystals", Path("runs/other/data"))]
    assert splits[0].ids == splits[1].ids
    assert "omatg-ray generate runs/other" in done.out


@pytest.mark.parametrize(
    "words",
    [
        ("evaluate", f"{PROTOTYPES}/reinforced", "--data", PROTOTYPES),
        ("train", *SMALL, f"base={PROTOTYPES}/reinforced", f"reward.potential={PROTOTYPES}"),
    ],
)
def test_what_another_set_lacks_is_said(other: Path, command: Command, words: tuple[str, ...]) -> None:
    command(*words).refuses(f"{PROTOTYPES} has no reinforced; it has crystals, potential, base, schedule", code=1)


def test_a_bundled_model_ranks_by_the_potential_of_its_set_unless_told_otherwise(desk: Path, command: Command) -> None:
    words = ("generate", "bundled/base", "--formula", "NaCl", "-n", 2, "--steps", 4, "--workers", 0, "--out", "x.json")
    told = {
        (): ("bundled", True),
        ("--relax", 0): ("bundled", False),
        ("--potential", "none"): (None, False),
        ("--potential", "bundled"): ("bundled", False),
    }
    for more, (potential, relaxed) in told.items():
        done = command(*words, *more)
        assert done.code == 0, done.err
        first = read_dataset(Path("x.json")).properties[0]
        assert first.get("potential") == potential and (first["relaxation"] != "none") == relaxed


def test_models_by_the_word(desk: Path, assets: Path, base: Path, trained: TrainResult) -> None:
    (desk / "bundled").mkdir()  # no match for the word
    expected = {"/base": og.FlowModel.load(base), "": og.FlowModel.load(trained.model)}
    for name, model in (("", og.bundled_model()), *((name, og.FlowModel.load(f"bundled{name}")) for name in expected)):
        assert model.description == expected[name].description
        assert same_weights(model, expected[name])
    assert og.FlowModel.load("bundled/reinforced").description == expected[""].description
    for path in ("./bundled", Path("bundled")):
        with pytest.raises(ModelError, match="no model here"):
            og.FlowModel.load(path)
    weights = assets / "reinforced" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(DataError, match=str(weights)):
        og.bundled_model()


def test_potentials_by_the_word(desk: Path, assets: Path, workshop: Workshop) -> None:
    (desk / "bundled").mkdir()
    potential = load_potential("bundled")
    assert potential.name == "bundled"
    assert potential.fingerprint == load_potential(workshop.potential).fingerprint
    assert og.MatGLEnergy("bundled").elements == potential.elements
    (assets / "potential" / "known_energies.json").unlink()
    with pytest.raises(DataError, match=r"known_energies\.json is missing"):
        load_potential("bundled")


def test_evaluation_takes_the_test_split(desk: Path, assets: Path, command: Command) -> None:
    words = ["--steps", 4, "--workers", 0, "--quiet", "--json", "out.json"]
    done = command("evaluate", "bundled/base", "--data", "bundled", *words)
    assert done.code == 0, done.err
    result = json.loads((desk / "out.json").read_text())
    domain, warned = og.FlowModel.load("bundled/base").description.domain, done.err.splitlines()
    assert domain is not None and result["in_domain"] == 0 and len(warned) == 1
    assert f"model bundled/base, 3 of 3 references: of its {domain.crystals} training crystals none has " in warned[0]
    assert "references in the domain of the model and potential bundled: 0.0%" in done.out.splitlines()
    assert result["per_structure"]["id"] == read_dataset(assets / "crystals" / "test.extxyz").ids
    assert (result["label"], result["potential"]) == ("bundled/base", "bundled")


def test_an_older_model_does_not_vouch_for_what_the_potential_knows(desk: Path, assets: Path, command: Command) -> None:
    file = shutil.copytree(assets / "base", desk / "old") / "model.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"domain": None}))
    words = ["--formula", "NaF", "-n", 2, "--steps", 4, "--workers", 0, "--quiet", "--potential", "bundled"]
    done = command("generate", desk / "old", *words)
    assert done.code == 0, done.err
    assert {row["domain"] for row in read_dataset(desk / "generated.extxyz").properties} == {"unknown"}
    assert "in domain: unknown" in done.out and "in domain: yes" not in done.out


def test_generation(desk: Path, command: Command) -> None:
    words = ["--formula", "NaCl", "-n", 2, "--steps", 4, "--workers", 0, "--quiet"]
    done = command("generate", "bundled", *words, "--potential", "bundled")
    assert done.code == 0, done.err
    crystals = read_dataset(desk / "generated.extxyz")
    assert {(row["model"], row["potential"]) for row in crystals.properties} == {("bundled", "bundled")}


def test_train_without_a_configuration(desk: Path, assets: Path, command: Command) -> None:
    first = command("train", *SMALL, "--quiet")
    assert first.code == 0, first.err
    said, *warned = first.err.splitlines()
    assert "quickstart.yaml" in said and said.endswith("in runs/quickstart")
    run = Path("runs/quickstart")
    config = Config.load(run / "config.yaml")
    assert (config.base, config.reward.potential, config.iterations) == ("bundled", "bundled", 1)
    model = json.loads((run / "checkpoints" / "last" / "model.json").read_text())
    assert (model["potential"], model["provenance"]["base"]) == ("bundled", "bundled")
    for name in ("train", "val", "test"):
        kept, carried = (read_dataset(path / f"{name}.extxyz") for path in (run / "data", assets / "crystals"))
        assert kept.ids == carried.ids
    assert "base" in first.out and "reinforced" in first.out
    failed = (run / "checkpoints" / "best").resolve().name == "iteration_000000"
    assert ("Reinforcement did not improve validation" in first.out) == failed
    assert ["no validation was better than the first" in line for line in warned] == [True] * failed
    assert config.rollout.precision in ("float32", "bfloat16")  # what was left open is decided once, for resumes too
    assert (first.out.count("relative energy, capped mean: "), first.out.count("match rate: ")) == (not failed,) * 2

    # What it says to try works as it is printed, also where there is no other file than those of the run.
    steps = first.out.partition("What to try next")[2].splitlines()[1:]
    lines = [shlex.split(line) for line in steps if line[2] != "#"]
    assert lines[-1] == [str(run / "report.html")] and (run / "report.html").is_file()
    verbs = ("generate", "evaluate", "train")
    tries = [line[next(i for i, word in enumerate(line) if word in verbs) :] for line in lines[:-1]]
    if not failed:
        (choosing,) = [line for line in tries if line[1].endswith("polymorphs.yaml")]
        assert Config.load(*choosing[1:]).objective.replay is not None
        tries.remove(choosing)
    assert [line[0] for line in tries] == ["generate", "evaluate", "train", *["train"] * failed, "train"]
    for words in tries[:3]:
        done = command(*words, "--quiet", *(["--workers", "0"] if words[0] != "train" else []))
        assert done.code == 0, done.err
    assert [line["step"] for line in read_metrics(run / "metrics.jsonl") if line["kind"] == "train"] == [1, 2]
    config_file, *overrides = tries[-1][1:]
    on_ray = Config.load(config_file, overrides)
    assert on_ray.ray.rollout.workers == 2 and on_ray.rollout.groups_per_item == 1
    assert on_ray.run == Path("runs/quickstart-ray")
    assert on_ray.rollout.steps == config.rollout.steps == 5


def test_the_default_run_takes_the_next_free_folder_and_a_named_one_does_not(
    desk: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[Path] = []

    def stop(config: Config, *_: object) -> None:
        started.append(config.run)
        raise KeyboardInterrupt

    # What is looked at here is what would be trained, if it could be.
    monkeypatch.setattr("omatg_ray.train.early.refuse_train", lambda *_: None)
    monkeypatch.setattr("omatg_ray.commands.train.train", stop)
    for name in ("quickstart", "quickstart-2"):
        (desk / "runs" / name).mkdir(parents=True)
        (desk / "runs" / name / "config.yaml").write_text("iterations: 1\n")
    done = command("train", *SMALL)
    said = done.err.splitlines()[0]
    assert said.endswith("--resume runs/quickstart)") and "quickstart.yaml, in runs/quickstart-3 (" in said
    config = desk / "own.yaml"
    config.write_text("base: bundled\n")
    command("train", *SMALL, "run=runs/quickstart")
    command("train", config, "run=runs/quickstart-2")
    command("train", config)
    assert list(map(str, started)) == ["runs/quickstart-3", "runs/quickstart", "runs/quickstart-2", "runs/own"]


def test_the_quickstart_is_not_mixed_with_what_is_named(
    desk: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[Config] = []
    # What is looked at here is what would be trained, if it could be.
    monkeypatch.setattr("omatg_ray.train.early.refuse_train", lambda *_: None)
    monkeypatch.setattr("omatg_ray.commands.train.train", lambda config, *_: started.append(config) or 1 / 0)
    for words in (["base=bundled"], ["reward.potential=bundled"], ["data.file=x.csv"], [" base = bundled", "seed=3"]):
        with pytest.raises(ZeroDivisionError):
            main(["train", *words])
        assert started.pop() == Config.load(None, words)
    with pytest.raises(ZeroDivisionError):
        main(["train", "reward.invalid_energy=2"])
    assert started.pop() == Config.load(quickstart(), ["reward.invalid_energy=2"])


def test_a_run_does_not_go_on_with_other_bundled_files(
    desk: Path, assets: Path, workshop: Workshop, command: Command
) -> None:
    """Another release of the package: one asset after the other has changed."""
    run = desk / "run"
    first = command("train", *SMALL, f"run={run}", "--quiet")
    assert first.code == 0, first.err
    config = (run / "config.yaml").read_text()
    resume = ["train", "--resume", run, "iterations=2", "--quiet"]

    splits = {name: (assets / "crystals" / f"{name}.extxyz").read_text() for name in ("train", "test")}
    frame = splits["test"].splitlines(keepends=True)
    longer = re.sub(r'Lattice="([\d.]+)', lambda found: f'Lattice="{float(found[1]) + 0.01}', frame[1])
    for text in (splits["test"] + splits["train"], "".join([frame[0], longer, *frame[2:]])):
        assert text != splits["test"]
        (assets / "crystals" / "test.extxyz").write_text(text)
        seal(assets / "crystals")
        command(*resume).refuses("data: the test split", str(run / "data" / "test.extxyz"), "start a new run")
    (assets / "crystals" / "test.extxyz").write_text(splits["test"])
    seal(assets / "crystals")

    description = (assets / "base" / "model.json").read_text()
    tree = json.loads(description)
    tree["base_distribution"]["cell"]["log_length_mean"][0] += 0.1
    (assets / "base" / "model.json").write_text(json.dumps(tree))
    seal(assets / "base")
    command(*resume).refuses("another base_distribution", "leave base", code=1)
    (assets / "base" / "model.json").write_text(description)
    seal(assets / "base")

    fingerprint = load_potential("bundled").fingerprint
    weights = assets / "potential" / "model.json"
    original = weights.read_text()
    weights.write_text(original + " ")
    seal(assets / "potential")
    other = load_potential("bundled").fingerprint
    command(*resume).refuses("reward.potential: ", "bundled", fingerprint, other, "versions.json")
    assert (run / "config.yaml").read_text() == config

    # The weights it started with, by another name.
    weights.write_text(original)
    seal(assets / "potential")
    done = command(*resume, f"reward.potential={workshop.potential}")
    assert done.code == 0, done.err


def test_a_named_run_that_is_there_says_what_to_do(desk: Path, command: Command) -> None:
    (desk / "runs" / "quickstart").mkdir(parents=True)
    (desk / "runs" / "quickstart" / "config.yaml").write_text("iterations: 1\n")
    command("train", *SMALL, "run=runs/quickstart", "--quiet").refuses("already holds a run", "--resume")


def test_free_run_folders(tmp_path: Path) -> None:
    run = tmp_path / "quickstart"
    assert free_run(run) == run
    run.mkdir()  # a start that was refused leaves no run behind
    assert free_run(run) == run
    (run / "metrics.jsonl").touch()
    assert free_run(run) == tmp_path / "quickstart-2"


def test_next_steps_of_a_run_on_actors_name_no_actors() -> None:
    keys = ["run=my runs/x", "reward.potential=pot"]
    alone = next_steps(Config.load(None, keys), [], "Ti2O4")
    assert "ray.rollout.workers=2" in alone and "--formula TiO2 --z 2 " in alone and "'my runs/x'" in alone
    assert "ray." not in next_steps(Config.load(None, [*keys, "ray.rollout.workers=3"]), [], "Ti2O4")


@pytest.mark.parametrize("run", ["runs/a #2", "it's", "lr=1e-4", "runs/lr=1e-4", "007", "12:30", "a: b"])
def test_next_steps_are_commands_whatever_the_run_is_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / run).mkdir(parents=True)
    (tmp_path / run / "config.yaml").touch()
    said = next_steps(Config.load(None, [override("run", run)]), [], "NaCl", improved=False)
    commands = [shlex.split(line) for line in said.splitlines() if line.startswith(f"  {program()} ")]
    resumed, slower, on_ray = ([*words[words.index("train") + 1 :]] for words in commands if "train" in words)
    assert resumed[:2] == ["--resume", run]
    for words, suffix in ((slower, "-slower"), (on_ray, "-ray")):
        files, overrides = split_words(words)
        assert files == [f"{run}/config.yaml"]
        assert Config.load(None, overrides).run == Path(f"{run}{suffix}")


@pytest.mark.parametrize("base", ["bundled", PROTOTYPES])
def test_a_bundled_base_may_learn_to_choose_polymorphs_next(base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(polymorphs().parents[1])
    keys = [f"base={base}", f"reward.potential={base}", f"policy.schedule_from={base}"]
    said = next_steps(Config.load(quickstart(), keys), [], "TiO2")
    (line,) = [line for line in said.splitlines() if "polymorphs.yaml" in line]
    files, overrides = split_words(shlex.split(line)[2:])
    assert files == ["configs/polymorphs.yaml"]
    config = Config.load(files[0], overrides)
    assert (config.base, config.reward.potential, config.policy.schedule_from) == (base, base, base)
    after = next_steps(config, [], "TiO2")
    assert "--guidance 2:7,-1" in after and "polymorphs.yaml" not in after and "--guidance" not in said


@pytest.mark.parametrize(("size", "smaller"), [(16, 8), (9, 8), (8, None), (3, None)])
def test_items_of_the_run_on_actors_are_smaller_only_where_one_would_be_idle(size: int, smaller: int | None) -> None:
    keys = ["rollout.groups=16", f"rollout.groups_per_item={size}"]
    said = next_steps(Config.load(None, keys), [], "NaCl")
    assert ("smaller items" in said) == (smaller is not None)
    found = re.search(r"rollout\.groups_per_item=(\d+)", said)
    assert (found and int(found[1])) == smaller


@pytest.mark.parametrize(
    ("cell", "formula", "z"), [("Ti2O4", "TiO2", 2), ("NaCl", "NaCl", 1), ("Li4O4", "LiO", 4), ("Mg3N2", "Mg3N2", 1)]
)
def test_next_steps_ask_for_formula_units(cell: str, formula: str, z: int) -> None:
    """What generates the cell that was meant."""
    assert reduced(cell) == (formula, z)
    assert sorted(cell_species(formula, z)) == sorted(cell_species(cell))
    said = next_steps(Config.load(None, ["reward.potential=pot"]), [], cell)
    assert f"--formula {formula} {'-n' if z == 1 else f'--z {z} -n'}" in said and "--potential pot --relax 100" in said


def test_next_steps_tell_the_slopes_of_the_run_and_what_to_do_without_success(tmp_path: Path) -> None:
    config = Config.load(None, [f"run={tmp_path / 'x'}", "learner.lr=2e-4", "rollout.group_size=16"])
    said = next_steps(config, [{}, {"annealing": {"pos": 5.0, "cell": 0.5}}], "NaCl")
    assert "slopes 5 / 0.5" in said and "slopes" not in next_steps(config, [{}, {"annealing": None}], "NaCl")
    limited = next_steps(config, [{}, {"annealing": {"pos": 5.0, "cell": 0.5, "limit": 0.6}}], "NaCl")
    assert "slopes 5 / 0.5, limit 0.6" in limited and "limit" not in said
    assert "did not improve" not in said and "learner.lr" not in said
    failed = next_steps(config, [{}, {}], "NaCl", improved=False)
    assert failed.startswith("Reinforcement did not improve validation")
    verbs = [line.removeprefix(f"  {program()} ").split()[0] for line in failed.splitlines() if program() in line]
    assert set(verbs) == {"train"} and "generate" in said  # its best checkpoint generates what the base does
    assert f"run={tmp_path / 'x'}-slower learner.lr=0.0001 rollout.group_size=32" in failed


def test_next_steps_take_more_grid_points_than_training() -> None:
    """And for the bundled base the schedule that was learned for it."""
    of_other = next_steps(Config.load(None, ["rollout.steps=10", "base=runs/base"]), [], "NaCl")
    assert of_other.count("--steps 50") == 2 and "--schedule" not in of_other
    of_bundled = next_steps(Config.load(None, ["rollout.steps=80", "base=bundled"]), [], "NaCl")
    assert of_bundled.count("--steps 80 --schedule bundled") == 2
    # One that was learned by the run, or that it began with, is the model's own.
    learned = next_steps(
        Config.load(None, ["rollout.steps=10", "base=bundled", "policy.variant=annealing"]), [], "NaCl"
    )
    frozen = next_steps(Config.load(None, ["base=bundled", "policy.schedule_from=bundled"]), [], "NaCl")
    assert "-n 16 --steps 50 " in frozen and "--schedule" not in frozen
    assert (
        "-n 16 --steps 10 " in learned
        and "--steps 100 --schedule none" in learned
        and "--schedule bundled" not in learned
    )


def test_the_run_on_actors_gets_a_folder_of_its_own(tmp_path: Path) -> None:
    taken = tmp_path / "x-ray"
    taken.mkdir()
    (taken / "metrics.jsonl").touch()
    said = next_steps(Config.load(None, [f"run={tmp_path / 'x'}"]), [], "NaCl")
    assert f"run={taken}-2 " in said


def test_commands_are_called_as_the_shell_finds_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / ".venv" / "bin" / "omatg-ray"
    script.parent.mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr("sys.executable", str(script.with_name("python")))
    assert program() == f"{script.with_name('python')} -m omatg_ray"
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    assert program() == ".venv/bin/omatg-ray"
    monkeypatch.setenv("PATH", str(script.parent))
    assert program() == "omatg-ray"


def test_without_its_assets_the_quickstart_says_so(
    desk: Path, assets: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(assets / "crystals")
    assert main(["train", "--quiet", "--dry-run", *SMALL]) == 1
    assert "bundled crystals" in capsys.readouterr().err
    assert not (desk / "runs").exists()
