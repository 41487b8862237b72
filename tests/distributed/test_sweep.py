"""Sweeps on a cluster: every trial is the run that `train` would do, whoever works and whatever is killed."""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from ray.cluster_utils import Cluster
from ray.util import placement_group_table
from safetensors.torch import load_file

from omatg_ray.commands.train import train
from omatg_ray.commands.tune import SWEEP_FILE, TuneResult, _make_portable, resume_tune, tune
from omatg_ray.config import Config
from omatg_ray.errors import ClusterError, ConfigError, DataError, DiskError, InUseError
from omatg_ray.run.interrupt import Interrupted
from omatg_ray.run.metrics import read_metrics
from omatg_ray.tune.log import SweepLog
from omatg_ray.tune.results import FINISHED, STOPPED, UNFINISHED, Sweep
from omatg_ray.tune.settings import DEFAULT_METRIC, SweepSettings
from omatg_ray.tune.state import FOLDER, KEPT
from omatg_ray.tune.trial import write_settings
from tests.conftest import ROOT
from tests.distributed.conftest import CORES, TIMINGS, Workshop
from tests.distributed.pretrain_loops import OnFullDisk

VALUES = (1e-4, 1e-3, 3e-3)


def settings(workshop: Workshop, base: Path, run: Path, **keys: Any) -> SweepSettings:
    tree = {
        "run": str(run),
        "config": str(workshop.config),
        "overrides": {"base": str(base), "iterations": 4, "validation.every": 1},
        "space": {"learner.lr": {"grid": list(VALUES)}},
        "search": "grid",
        "scheduler": {"kind": "none"},
        "guards": {"invalid_share": None, "diversity": None},
        "trial": {"cpus": 2, "threads": 1},
    }
    return SweepSettings.from_tree(tree | keys, "test")


def lines(run: Path) -> list[dict[str, Any]]:
    """Metrics without what a sweep adds and what depends on the clock."""
    left_out = (*TIMINGS, "hacked")
    return [
        {name: value for name, value in line.items() if not name.startswith(left_out)}
        for line in read_metrics(run / "metrics.jsonl")
    ]


def weights(run: Path) -> dict[str, torch.Tensor]:
    last = run / "checkpoints" / "last"
    return load_file(last / "weights.safetensors") | load_file(last / "learner.safetensors")


def assert_same_run(first: Path, second: Path) -> None:
    assert lines(first) == lines(second)
    ours, theirs = weights(first), weights(second)
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.fixture(scope="module")
def swept(workshop: Workshop, base: Path, cluster: Cluster) -> TuneResult:
    return tune(settings(workshop, base, workshop.root / "swept", concurrent=2), progress=False)


def test_every_trial_is_the_run_that_train_would_do(swept: TuneResult, workshop: Workshop, base: Path) -> None:
    assert [trial.values for trial in swept.sweep.trials] == [{"learner.lr": lr} for lr in VALUES]
    assert {trial.status for trial in swept.sweep.trials} == {FINISHED}
    config = settings(workshop, base, workshop.root / "swept")
    for trial in swept.sweep.trials[1:]:
        run = workshop.root / f"as_{trial.name}"
        train(config.with_values(trial.values, run), progress=False)
        folder = workshop.root / "swept" / "trials" / trial.name
        assert_same_run(folder, run)
        scores = [line["relative_energy_mean_capped"] for line in lines(run) if line["kind"] == "validation"]
        assert trial.best is not None and trial.best[DEFAULT_METRIC] == min(scores[1:])
        assert trial.last[DEFAULT_METRIC] == scores[-1]


def test_the_best_trial_is_written_as_a_config_that_trains(swept: TuneResult, workshop: Workshop) -> None:
    best = min(swept.sweep.trials, key=lambda trial: trial.best[DEFAULT_METRIC])
    written = json.loads((workshop.root / "swept" / "trials.json").read_text())
    assert written["best"] == best.name and len(written["trials"]) == len(VALUES)
    config = Config.load(swept.best)
    assert config.learner.lr == best.values["learner.lr"] and config.workers == 0 and config.threads == 1
    train(config, progress=False)
    assert_same_run(workshop.root / "swept" / "best", workshop.root / "swept" / "trials" / best.name)
    page = swept.report.read_text()
    assert page.count("<svg") >= 2 and all(trial.name in page for trial in swept.sweep.trials)
    assert (workshop.root / "swept" / "trials" / best.name / "report.html").is_file()


def test_a_finished_sweep_can_be_resumed_and_nothing_is_done_again(swept: TuneResult, workshop: Workshop) -> None:
    run = workshop.root / "swept"
    times = {path: path.stat().st_mtime_ns for path in run.glob("trials/*/metrics.jsonl")}
    again = resume_tune(run, progress=False)
    assert again.sweep == swept.sweep
    assert {path: path.stat().st_mtime_ns for path in run.glob("trials/*/metrics.jsonl")} == times


def test_halving_stops_trials_early(swept: TuneResult, workshop: Workshop, base: Path, cluster: Cluster) -> None:
    """One after the other, the best first: who is worse at its first validation than half of those before goes."""
    first = {
        trial.values["learner.lr"]: value_at_first(workshop.root / "swept" / "trials" / trial.name)
        for trial in swept.sweep.trials
    }
    order = sorted(first, key=lambda lr: first[lr])
    assert len(set(first.values())) == len(VALUES)
    keys = {"space": {"learner.lr": {"grid": order}}, "concurrent": 1}
    asha = {"scheduler": {"kind": "asha", "grace_period": 1, "reduction_factor": 2}}
    result = tune(settings(workshop, base, workshop.root / "halved", **keys, **asha), progress=False)
    assert [trial.status for trial in result.sweep.trials] == [FINISHED, STOPPED, STOPPED]
    assert [trial.iteration for trial in result.sweep.trials] == [4, 1, 1]


def value_at_first(run: Path) -> float:
    return next(
        line["relative_energy_mean_capped"] for line in lines(run) if line["kind"] == "validation" and line["step"]
    )


@pytest.mark.timeout(600)
def test_actors_live_in_the_placement_group_of_their_trial(
    swept: TuneResult, workshop: Workshop, base: Path, cluster: Cluster
) -> None:
    """With actors, a trial gives what it gives in one process; the second is done by the process of the first."""
    actors = {"rollout": {"workers": 1, "cpus": 0.5}, "reward": {"cpus": 0.5}, "learner": {"threads": 1}}
    keys = {
        "overrides": {"base": str(base), "iterations": 4, "validation.every": 1, "ray": actors},
        "space": {"learner.lr": {"grid": list(VALUES[1:])}},
        "concurrent": 1,
    }
    before = set(placement_group_table())
    result = tune(settings(workshop, base, workshop.root / "acted", **keys), progress=False)
    for trial, same in zip(result.sweep.trials, swept.sweep.trials[1:], strict=True):
        assert trial.error is None
        folder = workshop.root / "acted" / "trials" / trial.name
        assert_same_run(folder, workshop.root / "swept" / "trials" / same.name)
        found = json.loads((folder / "actors.json").read_text())
        assert [actor["role"] for actor in found] == ["learner", "rollout", "reward"]
    # One group to see whether there is room, and that of Tune; both were given back, and the actors made none.
    made = [group for ident, group in placement_group_table().items() if ident not in before]
    groups = [group for group in made if len(group["bundles"]) == 4]
    assert [group["state"] for group in groups] == ["REMOVED", "REMOVED"]
    assert [group["bundles"][0]["CPU"] for group in groups] == [2, 2]


@pytest.mark.long  # in one process: tests/commands/test_sweep.py
def test_a_population_takes_over_what_is_better(workshop: Workshop, base: Path, cluster: Cluster) -> None:
    """Of two the worse becomes the better one, with all of its past, and another learning rate."""
    pbt = {"scheduler": {"kind": "pbt", "interval": 1, "quantile": 0.5}, "search": "random", "trials": 2}
    space = {"learner.lr": {"loguniform": [1e-3, 1e-1]}}
    run = workshop.root / "population"
    result = tune(settings(workshop, base, run, space=space, **pbt), progress=False)
    assert [trial.status for trial in result.sweep.trials] == [FINISHED, FINISHED]
    taken = [trial for trial in result.sweep.trials if trial.since]
    assert taken
    for trial in taken:
        (other,) = (one for one in result.sweep.trials if one != trial)
        past, own = lines(run / "trials" / trial.name), lines(run / "trials" / other.name)
        shared = [line for line in past if line["step"] <= trial.since]
        # The donor may have taken over this trial's later state in turn.
        if other.since <= trial.since:
            assert shared == [line for line in own if line["step"] <= trial.since]
        assert [line["step"] for line in past if line["kind"] == "train"] == [1, 2, 3, 4]
        assert 1e-3 <= trial.values["learner.lr"] <= 1e-1
        assert trial.best_iteration is not None and trial.best_iteration > trial.since


@pytest.mark.long
def test_optuna_seeks_a_front_of_several_metrics(
    workshop: Workshop, base: Path, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped by Ctrl-C after three trials, then resumed: the searcher knows what it was told, and ends as it would."""
    keys: dict[str, Any] = {
        "metric": [DEFAULT_METRIC, "relative_energy_median", "match_rate"],
        "search": "optuna",
        "trials": 6,
        "concurrent": 1,
        "space": {"learner.lr": {"loguniform": [1e-4, 1e-1]}, "learner.epochs": {"choice": [1, 2]}},
    }
    whole = tune(settings(workshop, base, workshop.root / "front", **keys), progress=False)
    run = workshop.root / "front_resumed"
    done: list[str] = []

    def stop(self: SweepLog, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        done.append(trial.trial_id)
        if len(done) == 3:
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(SweepLog, "on_trial_complete", stop)
        tune(settings(workshop, base, run, **keys), progress=False)
    result = resume_tune(run, progress=False)
    # Optuna's first ten trials are random: what it was told is seen in its study, and in none of these.
    # One of each session, which its name is the time of.
    kept = max(run.glob("tune/searcher-state-*.pkl"))
    study = pickle.loads(kept.read_bytes())["_ot_study"]
    front = result.sweep.front
    assert [trial.values for trial in study.trials] == [list(result.sweep.costs(one)) for one in result.sweep.trials]
    assert len(study.trials) == 6 and study.trials[0].values[-1] == -result.sweep.trials[0].best["match_rate"]
    assert {tuple(trial.params.values()) for trial in study.best_trials} == {tuple(t.values.values()) for t in front}
    assert result.sweep == whole.sweep
    assert result.front == [run / "front" / f"{trial.name}.yaml" for trial in front]
    for path, trial in zip(result.front, front, strict=True):
        config = Config.load(path)
        assert config.learner.lr == trial.values["learner.lr"] and config.run == path.with_suffix("")
    assert Config.load(result.best).learner.lr == front[0].values["learner.lr"]
    assert "Pareto front" in result.report.read_text()


@pytest.mark.parametrize(
    "number",
    [signal.SIGTERM, *(pytest.param(number, marks=pytest.mark.long) for number in (signal.SIGHUP, signal.SIGUSR1))],
)
def test_a_sweep_that_is_to_end_is_resumed(
    workshop: Workshop, base: Path, cluster: Cluster, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    """Tune would take SIGUSR1 for itself, and the sweep pass for one that is done."""
    keys: dict[str, Any] = {"concurrent": 1, "space": {"learner.lr": {"grid": [1e-3, 1e-2]}}}
    run = workshop.root / f"ended_{number.name}"
    with monkeypatch.context() as patch, pytest.raises(Interrupted, match=f"tune --resume {run}"):
        patch.setattr(SweepLog, "on_trial_complete", lambda *_, **__: os.kill(os.getpid(), number))
        tune(settings(workshop, base, run, **keys), progress=False)
    assert [trial.status for trial in resume_tune(run, progress=False).sweep.trials] == [FINISHED] * 2


def test_a_sweep_without_room_for_one_trial_says_so(workshop: Workshop, base: Path, cluster: Cluster) -> None:
    run = workshop.root / "too_large"
    keys = {"trial": {"cpus": 1000}, "overrides": {"base": str(base), "ray.wait": 1}}
    start = time.monotonic()
    with pytest.raises(ClusterError, match=r"no room.*1 x trial \(1000 CPU\).*Available: 2 nodes.*trial\.cpus"):
        tune(settings(workshop, base, run, **keys), progress=False)
    assert time.monotonic() - start < 60 and not (run / "sweep.yaml").exists()


def test_a_trial_that_cannot_be_run_is_named_and_the_others_go_on(
    workshop: Workshop, base: Path, cluster: Cluster
) -> None:
    space = {"policy.schedule_from": {"grid": [None, str(workshop.root / "no_schedule")]}}
    keys: dict[str, Any] = {"space": space, "concurrent": 1}
    result = tune(settings(workshop, base, workshop.root / "partly", **keys), progress=False)
    fine, broken = result.sweep.trials
    assert (fine.status, fine.error) == (FINISHED, None)
    assert broken.status == "failed" and broken.error is not None and "no_schedule" in broken.error
    assert result.sweep.best == fine


def test_a_killed_driver_loses_nothing_that_was_finished(
    swept: TuneResult, workshop: Workshop, base: Path, cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    """SIGKILL in mid-sweep, then --resume: finished trials stay as they were, and all end as without the kill."""
    run = workshop.root / "killed"
    config = workshop.root / "killed.yaml"
    config.write_text(yaml.safe_dump(settings(workshop, base, run, concurrent=1).model_dump(mode="json")))
    environment = os.environ | {"RAY_ADDRESS": cluster.address}
    with subprocess.Popen(
        [sys.executable, "-m", "omatg_ray", "tune", str(config)],
        cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True,
    ) as process:  # fmt: skip
        deadline = time.monotonic() + 120
        second = run / "trials" / "00001" / "metrics.jsonl"
        # In the middle of the second trial, once it is written down that the first has ended.
        while not (
            second.exists()
            and any(line["kind"] == "train" for line in read_metrics(second))
            and any("TERMINATED" in path.read_text() for path in run.glob("tune/experiment_state*.json"))
        ):
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.1)
        with pytest.raises(InUseError, match=f"is being written by process {process.pid} on {socket.gethostname()};"):
            resume_tune(run)
        os.kill(process.pid, signal.SIGKILL)
        process.wait(10)
    first = run / "trials" / "00000" / "metrics.jsonl"
    written = first.stat().st_mtime_ns
    with pytest.raises(ConfigError, match="already holds a sweep"):
        tune(SweepSettings.load(config))
    result = resume_tune(run, progress=False)
    # Quiet, which the sweep had not been at its start.
    assert "trial 0000" not in capsys.readouterr().err
    assert first.stat().st_mtime_ns == written
    assert result.sweep == swept.sweep
    for trial in result.sweep.trials:
        assert_same_run(run / "trials" / trial.name, workshop.root / "swept" / "trials" / trial.name)
    assert Sweep.read(run) == result.sweep


def copied(cluster: Cluster, workshop: Workshop, name: str) -> Path:
    """A finished sweep in a folder of its own, as if it had been run there, on a machine that is gone."""
    run = workshop.root / name
    for path in Path(cluster.head_node.get_session_dir_path()).glob("artifacts/*/*/driver_artifacts/*state*"):
        path.unlink()
    shutil.copytree(workshop.root / "swept", run)
    kept = yaml.safe_load((run / "sweep.yaml").read_text())
    (run / "sweep.yaml").write_text(yaml.safe_dump(kept | {"run": str(run)}))
    return run


def contents(run: Path) -> dict[Path, bytes]:
    """All that the sweep has found."""
    return {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and FOLDER not in path.parts}


def cut(run: Path, pattern: str) -> None:
    """Leaves half of what Tune keeps, as a full disk does."""
    found = list(run.glob(f"{FOLDER}/{pattern}"))
    assert found
    for path in found:
        os.truncate(path, path.stat().st_size // 2)


@pytest.mark.parametrize("pattern", ["experiment_state*", "basic-variant-state*", "tuner.pkl"])
def test_what_a_full_disk_left_of_the_state_of_tune_is_mended(
    pattern: str, swept: TuneResult, workshop: Workshop, cluster: Cluster
) -> None:
    run = copied(cluster, workshop, f"mended_{pattern[:5]}")
    cut(run, pattern)
    metrics = {path: path.stat().st_mtime_ns for path in run.glob("trials/*/metrics.jsonl")}
    assert resume_tune(run, progress=False).sweep == swept.sweep
    assert metrics == {path: path.stat().st_mtime_ns for path in metrics} and len(metrics) == len(VALUES)


@pytest.mark.parametrize("pattern", ["experiment_state*", "basic-variant-state*", None])
def test_a_state_that_cannot_be_mended_is_refused_and_nothing_is_done_again(
    pattern: str | None, swept: TuneResult, workshop: Workshop, cluster: Cluster
) -> None:
    run = copied(cluster, workshop, f"refused_{pattern and pattern[:5]}")
    (run / KEPT).unlink()
    if pattern is None:
        for path in run.glob(f"{FOLDER}/*state*"):
            path.unlink()
    else:
        cut(run, pattern)
    before = contents(run)
    with pytest.raises(
        DataError, match=r"of 3 trials it lacks 00000, 00001, 00002\. .*start a new sweep.* omatg-ray tune .*run="
    ):
        resume_tune(run, progress=False)
    after = contents(run)
    assert {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)} <= {run / ".lock"}


def test_a_driver_that_was_killed_at_once_leaves_a_sweep_to_begin(
    workshop: Workshop, base: Path, cluster: Cluster
) -> None:
    """There is what was asked for, and no state: all trials are run, and not one."""
    run = workshop.root / "at_once"
    keys = {"space": {"learner.lr": {"uniform": [1e-4, 1e-3]}}, "search": "random", "trials": 2}
    overrides = {"base": str(base), "iterations": 1, "validation.every": 1}
    begun = _make_portable(settings(workshop, base, run, overrides=overrides, **keys), run)
    write_settings(begun, run / SWEEP_FILE)
    (run / FOLDER).mkdir()
    (run / FOLDER / "tuner.pkl").write_bytes(b"")
    assert [trial.status for trial in resume_tune(run, progress=False).sweep.trials] == [FINISHED, FINISHED]


def test_a_full_disk_stops_the_sweep_and_is_nothing_that_a_trial_is_blamed_for(
    swept: TuneResult, workshop: Workshop, base: Path, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = workshop.root / "full"
    run.mkdir()
    (run / "full").touch()
    monkeypatch.setattr("omatg_ray.commands.tune.SweepRuns", OnFullDisk)
    # What Tune knows when it stops is what it saves then, however long ago it last did.
    monkeypatch.setenv("TUNE_GLOBAL_CHECKPOINT_S", "1000")
    with pytest.raises(DiskError) as caught:
        tune(settings(workshop, base, run, concurrent=1), progress=False)
    said = str(caught.value)
    assert said.startswith(f"trial 00001: cannot write {run}/trials/00001: the disk or quota is full")
    assert said.endswith(f"omatg-ray tune --resume {run}") and "\n" not in said
    assert [trial.status for trial in Sweep.read(run).trials] == [FINISHED, UNFINISHED]
    first = run / "trials" / "00000" / "metrics.jsonl"
    written = first.stat().st_mtime_ns
    (run / "full").unlink()
    assert resume_tune(run, progress=False).sweep == swept.sweep
    assert first.stat().st_mtime_ns == written


def test_a_sweep_whose_only_node_is_gone_says_so_and_ends(
    swept: TuneResult,
    workshop: Workshop,
    base: Path,
    cluster: Cluster,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Another node later, it goes on, and ends as it would have."""
    run = workshop.root / "without_node"
    overrides = {"base": str(base), "iterations": 4, "validation.every": 1, "ray.wait": 4}
    config = settings(workshop, base, run, overrides=overrides, trial={"cpus": CORES + 1, "threads": 1})
    monkeypatch.setattr("omatg_ray.tune.room.PATIENCE", 1.0)
    large = {"num_cpus": CORES + 2, "object_store_memory": 100 * 2**20}
    node = cluster.add_node(**large)
    # Nodes are started and ended in the main thread: they set signal handlers.
    with ThreadPoolExecutor(1) as other:
        future = other.submit(tune, config, progress=False)
        metrics = run / "trials" / "00000" / "metrics.jsonl"
        while not ((metrics.exists() and any(line["step"] for line in read_metrics(metrics))) or future.done()):
            time.sleep(0.05)
        cluster.remove_node(node)
        with pytest.raises(ClusterError) as caught:
            future.result(timeout=100)
    asked = rf"Requested: 1 x trial \({CORES + 1} CPU\), in all {CORES + 1} CPU\. Available: 2 nodes, "
    assert re.search(rf"no room for any trial for \d s; the sweep ends after 4 s \(ray\.wait\)\. {asked}", caplog.text)
    assert re.match(rf"the cluster has no room for a trial after 4 s\. {asked}", str(caught.value))
    assert str(caught.value).endswith(f"omatg-ray tune --resume {run}")
    node = cluster.add_node(**large)
    try:
        assert resume_tune(run, progress=False).sweep == swept.sweep
    finally:
        cluster.remove_node(node)
