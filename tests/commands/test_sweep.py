"""Settings of a sweep, and its trials without Tune: exact saving and loading, guards, standing."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from omatg_ray.assets import quickstart
from omatg_ray.commands.train import train
from omatg_ray.commands.tune import resume_tune, tune
from omatg_ray.errors import ClusterError, ConfigError, InUseError, TrainingError
from omatg_ray.run.folder import RunFolder
from omatg_ray.run.metrics import read_metrics
from omatg_ray.train.loop import TrainLoop
from omatg_ray.tune.results import WORST
from omatg_ray.tune.settings import DEFAULT_METRIC, SWEEP_FILE, SweepSettings
from omatg_ray.tune.trial import SweepRuns, TrialRun, write_settings
from tests.commands.conftest import Command, Workshop
from tests.conftest import ROOT


def sweep(workshop: Workshop, base: Path, run: Path, **keys: Any) -> SweepSettings:
    tree = {
        "run": str(run),
        "config": str(workshop.config),
        "overrides": {"base": str(base), "iterations": 4},
        "space": {"learner.lr": {"loguniform": [1e-4, 1e-2]}},
        "guards": {"invalid_share": None, "diversity": None},
    }
    return SweepSettings.from_tree(tree | keys, "test")


def trial(settings: SweepSettings, name: str, lr: float = 1e-3) -> TrialRun:
    return SweepRuns(settings).start({"learner.lr": lr}, name)


def plain(run: Path) -> list[dict[str, Any]]:
    """Metrics without times."""
    lines = read_metrics(run / "metrics.jsonl")
    return [{name: value for name, value in line.items() if not name.startswith("time_")} for line in lines]


def assert_same_weights(first: Path, second: Path) -> None:
    for file in ("weights.safetensors", "learner.safetensors"):
        ours, theirs = load_file(first / file), load_file(second / file)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours), file


SEVERAL = {"metric": [DEFAULT_METRIC, "match_rate"], "search": "optuna", "scheduler": {"kind": "none"}}


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"space": {"learner.lrr": {"uniform": [0.1, 0.2]}}}, ["learner.lrr", "did you mean learner.lr?"]),
        ({"space": {"learner.lr": {"uniform": [-1, 1]}}}, ["learner.lr=-1", "greater than 0"]),
        ({"space": {"learner.lr": {"choice": [1e-3, "fast"]}}}, ["learner.lr=fast", "valid number"]),
        (
            {"space": {"learner.lr.x": {"choice": [1]}}, "overrides": {"learner": {"lr": 1}}},
            ["space.learner.lr.x", "lr is a value"],
        ),
        ({"space": {"run": {"choice": ["a"]}}}, ["space.run", "trials cannot differ in this key"]),
        ({"space": {"seed": {"loguniform": [0, 1]}}}, ["above 0"]),
        ({"space": {"seed": {"uniform": [1, 0]}}}, ["must be below"]),
        ({"space": {"seed": {"uniform": [0, 1], "choice": [1]}}}, ["exactly one"]),
        ({"space": {"seed": {"unifrom": [0, 1]}}}, ["unknown key space.seed.unifrom", "space.seed.uniform?"]),
        ({"trails": 3}, ["unknown key trails", "did you mean trials?"]),
        ({"metric": "match_rat"}, ["metric", "did you mean match_rate?"]),
        ({"metric": 3}, ["metric", "list"]),
        ({"metric": []}, ["metric", "at least 1"]),
        ({**SEVERAL, "metric": ["crmse", "rmsee"]}, ["metric", "did you mean rmse?"]),
        ({**SEVERAL, "metric": ["crmse", "crmse"]}, ["metric", "each once"]),
        ({**SEVERAL, "search": "random"}, ["search", "only optuna", "not random"]),
        ({**SEVERAL, "scheduler": {"kind": "asha"}}, ["scheduler.kind=none", "asha"]),
        ({**SEVERAL, "mode": "max"}, ["mode", "leave it out"]),
        ({"search": "grid"}, ["search=grid", "learner.lr"]),
        ({"overrides": {"rollout.grups": 3}}, ["rollout.grups", "did you mean rollout.groups?"]),
        ({"overrides": {"ray.rollout": {"workers": 1, "max_workers": 2}}}, ["max_workers"]),
        ({"scheduler": {"kind": "pbt"}, "space": {"seed": {"choice": [1, 2]}}}, ["nothing to mutate"]),
    ],
)  # fmt: skip
def test_what_could_not_be_run_is_refused(
    keys: dict[str, Any], words: list[str], workshop: Workshop, base: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as caught:
        sweep(workshop, base, tmp_path, **keys).check()
    assert all(word in str(caught.value) for word in words), caught.value
    assert not list(tmp_path.iterdir())


def test_what_all_trials_lack_is_said_before_ray_starts(workshop: Workshop, base: Path, tmp_path: Path) -> None:
    settings = sweep(workshop, base, tmp_path / "run", overrides={"base": str(tmp_path / "nowhere")})
    with pytest.raises(Exception, match="nowhere"):
        tune(settings, progress=False)
    assert not (tmp_path / "run").exists()


def test_a_reward_that_is_not_measured_is_said_before_ray_starts(
    workshop: Workshop, base: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=f"reward_mean only if more .* use {DEFAULT_METRIC}"):
        tune(sweep(workshop, base, tmp_path / "run", metric="reward_mean"), progress=False)
    assert not (tmp_path / "run").exists()


def test_places_in_the_space_are_found_from_anywhere(
    workshop: Workshop, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What trials get are absolute paths, of all choices; what is no path stays."""
    monkeypatch.chdir(base.parent)
    settings = sweep(
        workshop,
        base,
        tmp_path / "run",
        overrides={"iterations": 4, "reward.potential": workshop.potential.name},
        space={
            "base": {"choice": [base.name, str(base)]},
            "policy.schedule_from": {"grid": [None, "bundled", "schedules/a"]},
            "policy.variant": {"choice": ["velocity"]},
            "learner.lr": {"choice": ["1e-3", 1e-4]},
        },
    )
    started: list[SweepSettings] = []
    monkeypatch.setattr("omatg_ray.commands.tune._run", lambda placed, *_, **__: started.append(placed))
    tune(settings)
    (placed,) = started
    assert placed.space["base"].choice == [str(base), str(base)]
    assert placed.space["policy.schedule_from"].grid == [None, "bundled", str(base.parent / "schedules" / "a")]
    assert all(placed.space[key] == settings.space[key] for key in ("policy.variant", "learner.lr"))
    config = placed.with_values({"base": str(base)}, tmp_path)
    assert config.reward.potential == str(workshop.potential) and config.iterations == 4
    assert SweepSettings.from_tree(placed.model_dump(mode="json"), "again") == placed


def test_only_a_sweep_can_be_resumed_and_none_started_over(workshop: Workshop, base: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"no {SWEEP_FILE}"):
        resume_tune(tmp_path)
    write_settings(sweep(workshop, base, tmp_path), tmp_path / SWEEP_FILE)
    (tmp_path / "trials" / "00000").mkdir(parents=True)
    with pytest.raises(ConfigError, match=f"already holds a sweep.*tune --resume {tmp_path}"):
        tune(sweep(workshop, base, tmp_path))


def test_a_sweep_that_never_had_a_trial_can_be_started_again(
    workshop: Workshop, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It failed when Ray started, say, so there is nothing to lose, and its file is written anew."""
    write_settings(sweep(workshop, base, tmp_path), tmp_path / SWEEP_FILE)
    (tmp_path / "trials").mkdir()
    started: list[SweepSettings] = []
    monkeypatch.setattr("omatg_ray.commands.tune._run", lambda placed, *_, **__: started.append(placed))
    tune(sweep(workshop, base, tmp_path))
    assert [placed.run for placed in started] == [tmp_path]


HOLD = """
import sys
from pathlib import Path
from omatg_ray.run.lock import lock
held = lock(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.readline()
"""


@pytest.mark.processes
def test_a_second_driver_is_kept_out(workshop: Workshop, base: Path, tmp_path: Path) -> None:
    """Of a sweep that goes on, and of one that has just begun; nothing is changed, and no Ray started."""
    settings = sweep(workshop, base, tmp_path / "run")
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(settings.run)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        says = f"{settings.run} is being written by process {holder.pid} on {socket.gethostname()}; wait for it"
        with pytest.raises(InUseError, match=says):
            tune(settings, progress=False)
        assert [path.name for path in settings.run.iterdir()] == [".lock"]
        write_settings(settings, settings.run / SWEEP_FILE)
        with pytest.raises(InUseError, match=says):
            resume_tune(settings.run, progress=False)
        holder.communicate("\n")


def test_optuna_is_asked_for_where_it_is_not_installed(
    workshop: Workshop, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = sweep(workshop, base, tmp_path, search="optuna")
    settings.check()
    monkeypatch.setattr("omatg_ray.tune.settings.find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"omatg-ray\[sweep\]"):
        settings.check()


def test_the_command_says_what_it_takes(workshop: Workshop, command: Command, tmp_path: Path) -> None:
    command("tune").refuses("one file that describes a sweep")
    command("tune", workshop.config).refuses("configures a run of train", f"config: {workshop.config}", "space")
    (tmp_path / "nothing.yaml").write_text("trails: 3\n")
    command("tune", tmp_path / "nothing.yaml").refuses("unknown key trails", "config: missing", "space: missing")
    assert "got" not in command("tune", tmp_path / "nothing.yaml").err
    ready = ROOT / "configs" / "sweep_velocity.yaml"
    command("tune", ready, "run=s3://bucket/sweep").refuses("run: a folder, not the URL s3://bucket/sweep")
    command("tune", "--resume", tmp_path).refuses(SWEEP_FILE)
    command("tune", "--resume", "s3://bucket/sweep").refuses("--resume", "URL s3://bucket/sweep")
    command("tune", "--resume", tmp_path, "trials=3").refuses("leave out trials=3")
    assert "--resume" in command("tune", "--help").out


def test_ready_sweeps_are_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    configs = ROOT / "configs"
    monkeypatch.chdir(configs.parent)
    found = sorted(configs.glob("sweep_*.yaml"))
    assert len(found) >= 3
    for path in found:
        settings = SweepSettings.load(path)
        assert settings.run == Path("runs") / path.stem
        variants = {config.policy.variant for config in settings.check()}
        assert variants == {path.stem.removeprefix("sweep_")}


def test_domains_can_be_given_on_the_command_line(workshop: Workshop, base: Path, tmp_path: Path) -> None:
    """Where a key has one already, that on the command line takes its place, of whatever kind."""
    path = tmp_path / "sweep.yaml"
    tree = sweep(workshop, base, tmp_path).model_dump(mode="json")
    path.write_text(yaml.safe_dump(tree))
    words = ["space.learner.lr.grid=[1.0e-3, 1.0e-2]", "space.policy.noise.pos.a.uniform=[0.1, 0.3]"]
    space = SweepSettings.load(path, words).space
    assert list(space) == ["learner.lr", "policy.noise.pos.a"]
    assert space["learner.lr"].grid == [1e-3, 1e-2] and space["learner.lr"].kind == "grid"
    assert space["policy.noise.pos.a"].uniform == (0.1, 0.3)
    with pytest.raises(ConfigError, match="learner.lrr"):
        SweepSettings.load(path, ["space.learner.lrr.grid=[1, 2]"]).check()
    with pytest.raises(ConfigError, match=r"space\.learner\.lr"):
        SweepSettings.load(path, ["space.learner.lr.unifrom=[1, 2]"])


def test_domains_that_a_key_cannot_have_are_an_error_at_once(workshop: Workshop, base: Path, tmp_path: Path) -> None:
    """Also where both ends are whole numbers, and what lies between is not."""
    for domain in ({"uniform": [1, 3]}, {"loguniform": [1, 3]}, {"quniform": [1, 3, 0.5]}):
        with pytest.raises(ConfigError, match=r"learner\.epochs: Input should be a valid integer"):
            sweep(workshop, base, tmp_path, space={"learner.epochs": domain}).check()
    sweep(workshop, base, tmp_path, space={"learner.epochs": {"randint": [1, 3]}}).check()


def test_what_is_no_sweep_or_no_domain_is_said(workshop: Workshop, base: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"configures a run of train.*config: .*quickstart"):
        SweepSettings.load(quickstart())
    path = tmp_path / "sweep.yaml"
    path.write_text(yaml.safe_dump(sweep(workshop, base, tmp_path).model_dump(mode="json")))
    with pytest.raises(ConfigError, match=r"space\.objective\.clip: give a domain.*overrides\.objective\.clip"):
        SweepSettings.load(path, ["space.objective.clip=0.3"])


def test_domains_reach_all_ends(workshop: Workshop, base: Path, tmp_path: Path) -> None:
    space = {
        "seed": {"randint": [2, 5]},
        "learner.lr": {"quniform": [0.1, 0.5, 0.1]},
        "learner.epochs": {"grid": [1, 2]},
    }
    found = [(c.seed, c.learner.lr, c.learner.epochs) for c in sweep(workshop, base, tmp_path, space=space).check()]
    assert found == [(s, lr, e) for s in (2, 4) for lr in (0.1, 0.5) for e in (1, 2)]


def test_a_trial_is_the_run_that_train_would_do(workshop: Workshop, base: Path, tmp_path: Path) -> None:
    settings = sweep(workshop, base, tmp_path / "sweep")
    run = trial(settings, "00000")
    results = [run.step(), run.step()]
    run.close()
    assert [(one["iteration"], one["done"]) for one in results] == [(2, False), (4, True)]
    folder = tmp_path / "sweep" / "trials" / "00000"
    train(settings.with_values({"learner.lr": 1e-3}, tmp_path / "run"), progress=False)
    ours = [{name: value for name, value in line.items() if name != "hacked"} for line in plain(folder)]
    assert ours == plain(tmp_path / "run")
    for name in ("best", "last"):
        assert_same_weights(folder / "checkpoints" / name, tmp_path / "run" / "checkpoints" / name)
    scores = {line["step"]: line["relative_energy_mean_capped"] for line in ours if line["kind"] == "validation"}
    assert results[-1]["last"][DEFAULT_METRIC] == results[-1]["objective"] == scores[4]
    # The validation before training is the same for all trials.
    assert results[-1]["best"][DEFAULT_METRIC] == results[-1]["costs"][DEFAULT_METRIC] == min(scores[2], scores[4])
    assert SweepRuns(settings).history("00000") == [scores[2], scores[4]]


@pytest.mark.parametrize("extra", [{}, {"rollout.max_staleness": 1, "learner.epochs": 2}])
def test_a_saved_trial_goes_on_exactly(extra: dict[str, Any], workshop: Workshop, base: Path, tmp_path: Path) -> None:
    overrides = {"base": str(base), "iterations": 6, **extra}
    whole = trial(sweep(workshop, base, tmp_path / "whole", overrides=overrides), "0")
    results = [whole.step() for _ in range(3)]
    whole.close()

    settings = sweep(workshop, base, tmp_path / "cut", overrides=overrides)
    first = trial(settings, "0")
    first.step()
    kept = tmp_path / "kept"
    kept.mkdir()
    first.save(kept)
    # What was done after the checkpoint is lost with the process, and done again.
    first.step()
    first.close()
    again = trial(settings, "0")
    again.load(kept)
    assert [again.step(), again.step()] == results[1:]
    again.close()
    ours, theirs = (tmp_path / name / "trials" / "0" for name in ("cut", "whole"))
    assert plain(ours) == plain(theirs)
    assert_same_weights(ours / "checkpoints" / "last", theirs / "checkpoints" / "last")
    assert RunFolder(ours).pointed_at("best") == RunFolder(theirs).pointed_at("best")


def test_a_trial_takes_over_the_state_of_another(workshop: Workshop, base: Path, tmp_path: Path) -> None:
    """What population-based training does: the donor's weights, optimizer and past, the own learning rate after it."""
    settings = sweep(workshop, base, tmp_path / "sweep")
    donor, other = trial(settings, "donor", 1e-3), trial(settings, "other", 1e-2)
    for one in (donor, other):
        one.step()
    kept = tmp_path / "kept"
    kept.mkdir()
    donor.save(kept)
    other.load(kept)
    folders = {name: tmp_path / "sweep" / "trials" / name for name in ("donor", "other")}
    assert_same_weights(folders["other"] / "checkpoints" / "last", kept)
    assert plain(folders["other"]) == plain(folders["donor"])
    # From the same state, one more step with the donor's rate is the donor's, and with another is another.
    other.close()
    same = trial(settings, "other", 1e-3)
    same.load(kept)
    ours, theirs = same.step(), donor.step()
    assert (ours.pop("since"), theirs.pop("since")) == (2, 0)
    # The validation of before is the donor's own.
    best = theirs.pop("costs"), theirs.pop("best"), theirs.pop("best_iteration")
    assert (ours.pop("best"), ours.pop("best_iteration")) == (ours["last"], 4)
    cost = ours.pop("costs")[DEFAULT_METRIC]
    assert best[0][DEFAULT_METRIC] <= cost == ours["objective"] and ours == theirs
    assert_same_weights(folders["other"] / "checkpoints" / "last", folders["donor"] / "checkpoints" / "last")
    same.load(kept)
    same.close()
    faster = trial(settings, "other", 1e-2)
    faster.load(kept)
    faster.step()
    moved, stayed = (load_file(folders[name] / "checkpoints" / "last" / "weights.safetensors") for name in folders)
    assert any(not torch.equal(moved[name], stayed[name]) for name in moved)
    for one in (donor, faster):
        one.close()


def test_a_trial_takes_over_the_replay_of_another(workshop: Workshop, base: Path, tmp_path: Path) -> None:
    overrides = {"base": str(base), "iterations": 4, "objective": {"replay": {"relax": 0}}}
    settings = sweep(workshop, base, tmp_path / "sweep", overrides=overrides)
    donor, other = (trial(settings, name) for name in ("donor", "other"))
    donor.step()
    kept = tmp_path / "kept"
    kept.mkdir()
    donor.save(kept)
    other.load(kept)
    donor.step()
    other.step()
    ours, theirs = (plain(tmp_path / "sweep" / "trials" / name) for name in ("other", "donor"))
    assert ours == theirs and ours[-1]["replay_crystals"] > 0
    for one in (donor, other):
        one.close()


def test_what_cannot_be_learned_ends_a_trial_with_a_reason(
    workshop: Workshop, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: TrainLoop) -> bool:
        raise TrainingError("the loss is not finite")

    run = trial(sweep(workshop, base, tmp_path), "0")
    monkeypatch.setattr(TrainLoop, "iterate", fail)
    result = run.step()
    assert (
        result["done"]
        and result["objective"] == result["costs"][DEFAULT_METRIC] == WORST
        and "the loss is not finite" in result["ended"]
    )
    kept = tmp_path / "kept"
    kept.mkdir()
    run.save(kept)
    run.close()
    again = trial(sweep(workshop, base, tmp_path), "0")
    again.load(kept)
    assert again.step()["ended"] == result["ended"]
    again.close()
    impossible = trial(sweep(workshop, base, tmp_path), "1", lr=-1.0)
    assert "learner.lr" in impossible.step()["ended"]
    impossible.close()


def test_a_metric_that_validations_do_not_measure_ends_a_trial(workshop: Workshop, base: Path, tmp_path: Path) -> None:
    """One sample for each reference has no coverage, and only the energy is rewarded; RMSE may be of no match."""
    for metric, measured in (("coverage", False), ("reward_mean", False), ("rmse", True), ("crmse", True)):
        run = trial(sweep(workshop, base, tmp_path / metric, metric=metric), "0")
        result = run.step()
        run.close()
        assert (result["ended"] is None) == measured
        assert measured or (result["done"] and f"do not measure {metric}" in result["ended"])


def test_a_trial_waits_for_a_folder_that_is_in_use(
    workshop: Workshop, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that a killed driver left may work on it for some time, or for long: then Tune tries again."""
    settings = sweep(workshop, base, tmp_path)
    before = trial(settings, "0")
    open_folder, asked = RunFolder.create, []

    def create(place: Path, resume: bool) -> RunFolder:
        # Locks are between processes: in this one another run would get it.
        asked.append(resume)
        if len(asked) < 3:
            raise InUseError(f"{place} is being written by 1")
        return open_folder(place, resume)

    monkeypatch.setattr(RunFolder, "create", create)
    before.close()
    after = trial(settings, "0")
    assert len(asked) == 3 and after.step()["ended"] is None
    after.close()
    asked.clear()
    monkeypatch.setattr("omatg_ray.tune.trial.SECONDS_TO_END", -1.0)
    with pytest.raises(ClusterError, match="is being written by 1"):
        trial(settings, "0")


def test_a_trial_that_starts_over_has_nothing_of_before(workshop: Workshop, base: Path, tmp_path: Path) -> None:
    """Lost before there was anything to go on from: what its process had written would pass for its own."""
    settings = sweep(workshop, base, tmp_path, overrides={"base": str(base), "iterations": 4, "validation.every": 4})
    lost = trial(settings, "0")
    lost.step()
    lost.close()
    folder = RunFolder(tmp_path / "trials" / "0")
    assert folder.pointed_at("last") == "iteration_000004"
    again = trial(settings, "0")
    again._loop()
    assert folder.pointed_at("last") == folder.pointed_at("best") == "iteration_000000"
    assert [path.name for path in folder.checkpoints.glob("iteration_*")] == ["iteration_000000"]
    again.close()


def test_hacked_validations_are_marked_and_left_out(workshop: Workshop, base: Path, tmp_path: Path) -> None:
    """Guards that allow nothing; what they object to follows from the metrics."""
    results = {}
    for name, exclude in (("in", False), ("out", True)):
        settings = sweep(
            workshop,
            base,
            tmp_path / name,
            guards={"diversity": 1.0, "invalid_share": 0.0},
            exclude_hacked=exclude,
        )
        run = trial(settings, "0")
        run.step()
        results[name] = run.step()
        run.close()
    lines = read_metrics(tmp_path / "in" / "trials" / "0" / "metrics.jsonl")
    first = next(line["diversity"] for line in lines if line["kind"] == "train")
    diversity = {line["step"]: line["diversity"] for line in lines if line["kind"] == "train"}
    validations = [line for line in lines if line["kind"] == "validation"]
    expected = [
        int(
            line["step"] > 0
            and (diversity[line["step"]] < first or line["invalid_share"] > validations[0]["invalid_share"])
        )
        for line in validations
    ]
    assert [line["hacked"] for line in validations] == expected
    scores = [line["relative_energy_mean_capped"] for line in validations]
    clean = [score for score, mark in zip(scores[1:], expected[1:], strict=True) if not mark]
    assert results["in"]["best"][DEFAULT_METRIC] == min(scores[1:])
    best = results["out"]["best"]
    assert (best and best[DEFAULT_METRIC]) == min(clean, default=None)
    assert results["out"]["objective"] == (WORST if expected[-1] else scores[-1])


def test_modes_follow_from_the_metrics(workshop: Workshop, base: Path, tmp_path: Path) -> None:
    def modes(**keys: Any) -> list[str]:
        return [goal.mode for goal in sweep(workshop, base, tmp_path, **keys).goals]

    assert modes() == ["min"] and modes(mode="max") == ["max"]
    assert modes(**SEVERAL) == ["min", "max"]
    less = ["rmse", "crmse", "relative_energy_median", "invalid_share", "energy_mean", "failed", "plausible_crmse"]
    more = ["metre", "match_any", "unique_share", "plausible_share", "plausible_match_rate", "same_composition"]
    assert modes(**SEVERAL | {"metric": less + more}) == ["min"] * len(less) + ["max"] * len(more)


def test_best_yaml_has_all_keys(workshop: Workshop, base: Path, tmp_path: Path) -> None:
    settings = sweep(workshop, base, tmp_path)
    config = settings.with_values({"learner.lr": 2e-3}, tmp_path / "best")
    assert yaml.safe_load(config.to_yaml())["learner"]["lr"] == 2e-3
    assert json.loads(config.model_dump_json())["iterations"] == 4
