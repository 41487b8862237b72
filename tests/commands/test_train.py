from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from omatg_ray.commands.train import TrainResult, described_best, described_last, train
from omatg_ray.errors import ConfigError, ModelError, OmatgRayError, TrainingError
from omatg_ray.model.flow_model import FlowModel
from omatg_ray.model.sampling import Sampling
from omatg_ray.reward.energy import MatGLEnergy
from omatg_ray.reward.protocol import RewardResult
from omatg_ray.rl.backend import LocalTrainingBackend
from omatg_ray.rl.trainer import Trainer
from omatg_ray.run.checkpoints import verify
from omatg_ray.run.folder import RunFolder
from omatg_ray.run.interrupt import Interrupted
from omatg_ray.run.metrics import read_metrics
from omatg_ray.train.build import build_run
from omatg_ray.train.loop import format_metrics
from tests.commands.conftest import Command, Workshop


def after(iteration: int, act: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets something happen at the end of an iteration, before it is logged or saved."""
    step = Trainer.step

    def stepped(self: Trainer) -> dict[str, float]:
        metrics = step(self)
        if self.iteration == iteration:
            act()
        return metrics

    monkeypatch.setattr(Trainer, "step", stepped)


def numbers(run: Path) -> list[dict[str, Any]]:
    """The metrics without the times, which differ."""
    return [
        {name: value for name, value in line.items() if not name.startswith("time_")}
        for line in read_metrics(run / "metrics.jsonl")
    ]


def assert_same_end(run: Path, other: Path) -> None:
    """Weights, optimizer state, position and metrics are equal bit by bit."""
    ends = [RunFolder(path).latest_checkpoint() for path in (run, other)]
    assert ends[0] is not None and ends[1] is not None
    assert ends[0].name == ends[1].name
    for file in ("weights.safetensors", "learner.safetensors"):
        ours, theirs = load_file(ends[0] / file), load_file(ends[1] / file)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours), file
    assert (ends[0] / "state.json").read_text() == (ends[1] / "state.json").read_text()
    assert RunFolder(run).pointed_at("best") == RunFolder(other).pointed_at("best")
    assert numbers(run) == numbers(other)


def no_leftovers(folder: Path) -> bool:
    return not list(folder.rglob("*.tmp"))


def test_a_run_leaves_all_that_the_readme_names(trained: TrainResult, workshop: Workshop) -> None:
    run = workshop.root / "trained"
    files = {path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()}
    expected = {"config.yaml", "versions.json", "metrics.jsonl", "report.html"}
    expected |= {f"data/{name}.extxyz" for name in ("train", "val", "test")}
    expected |= {f"structures/{name}.extxyz" for name in ("before", "after", "reference")}
    expected |= {f"evaluation/{name}.json" for name in ("before", "after", "after_noise")}
    assert expected <= files
    assert any(name.startswith("tensorboard/events") for name in files)
    assert no_leftovers(run)
    for name in ("best", "last"):
        verify((run / "checkpoints" / name).resolve())
    lines = read_metrics(run / "metrics.jsonl")
    assert [line["step"] for line in lines if line["kind"] == "train"] == [1, 2, 3, 4]
    assert [line["step"] for line in lines if line["kind"] == "validation"] == [0, 2, 4]
    scores = {line["step"]: line["relative_energy_mean_capped"] for line in lines if line["kind"] == "validation"}
    assert RunFolder(run).pointed_at("best") == f"iteration_{min(scores, key=scores.__getitem__):06d}"
    rows = {row["label"]: row for row in trained.rows}
    best = min(scores, key=scores.__getitem__)
    assert trained.iteration == best
    after = f"reinforced, {best} iterations" if best else "best is the base (iteration 0)"
    assert list(rows) == ["base", after, f"{after}, policy noise"]
    assert json.loads((run / "evaluation" / "after.json").read_text()) == rows[after]


def test_progress_shows_what_can_move() -> None:
    metrics = {"energy_mean": 900.0, "energy_median": -3.25, "reward_mean": 1.0, "invalid_share": 0.125}
    metrics |= {"clip_fraction_pos": 0.5, "clip_fraction_cell": 0.0, "kl_pos": 0.25}
    metrics |= {"time_rollout": 1.0, "time_reward": 2.0, "time_learn": 3.0}
    least = {"E": "-3.25", "invalid": "12.5%", "s": "1.0+2.0+3.0"}
    assert format_metrics(metrics, clips=False, with_kl=False) == least
    assert format_metrics(metrics, clips=True, with_kl=True) == least | {"clip": "50%,0%", "KL": "0.25"}
    alone = {key: value for key, value in metrics.items() if not key.startswith("energy")}
    assert format_metrics(alone, clips=False, with_kl=True) == {"reward": "1.00", "KL": "0.25"} | {
        key: least[key] for key in ("invalid", "s")
    }


def test_tables_say_where_reinforcement_did_nothing() -> None:
    assert described_best(0) == "best is the base (iteration 0)"
    assert described_last(1) == "last, 1 iteration; not better in validation"
    assert (described_best(1), described_best(30)) == ("reinforced, 1 iteration", "reinforced, 30 iterations")


def test_a_model_knows_the_elements_that_it_was_reinforced_on(base: Path, workshop: Workshop, tmp_path: Path) -> None:
    """Those that its base has not seen are warned of, and are no longer unknown to it afterwards."""
    narrow = tmp_path / "narrow"
    shutil.copytree((base / "checkpoints" / "best").resolve(), narrow)
    description = json.loads((narrow / "model.json").read_text())
    known = description["elements"]
    description["elements"] = known[:-1]
    (narrow / "model.json").write_text(json.dumps(description))
    with pytest.warns(UserWarning, match=f"not trained on: {known[-1]}$"):
        parts = build_run(workshop.load(f"base={narrow}"))
    assert parts.model.description.elements == known
    assert parts.start.description.elements == known[:-1]
    assert parts.model.description.domain == FlowModel.load(base).description.domain is not None


def test_training_moves_the_policy_and_keeps_the_base(trained: TrainResult, base: Path, workshop: Workshop) -> None:
    start = FlowModel.load(base)
    end = FlowModel.load(workshop.root / "trained" / "checkpoints" / "last")
    kept, moved = end.base_network.state_dict(), end.network.state_dict()
    original = start.network.state_dict()
    assert all(torch.equal(kept[key], original[key]) for key in original)
    assert any(not torch.equal(moved[key], original[key]) for key in original)


def test_a_run_folder_loads_as_its_best_checkpoint(trained: TrainResult, workshop: Workshop) -> None:
    run = workshop.root / "trained"
    ours, theirs = FlowModel.load(run), FlowModel.load(trained.model)
    assert ours.description == theirs.description
    species = [[11, 17], [12, 8, 8]]
    assert torch.equal(ours.generate(species, Sampling(4)).pos, theirs.generate(species, Sampling(4)).pos)


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGINT,
        signal.SIGTERM,
        *(pytest.param(number, marks=pytest.mark.long) for number in (signal.SIGHUP, signal.SIGUSR1)),
    ],
)
def test_an_interrupted_run_goes_on_bit_by_bit(
    trained: TrainResult,
    base: Path,
    workshop: Workshop,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
) -> None:
    config = workshop.load(f"run={tmp_path / 'run'}", f"base={base}", "checkpoint.every=50")
    with monkeypatch.context() as patch:
        after(3, lambda: os.kill(os.getpid(), number), patch)
        with pytest.raises(Interrupted, match="after iteration 3 of 4.*--resume"):
            train(config, progress=False)
    assert RunFolder(config.run).pointed_at("last") == "iteration_000003"
    train(config, resume=True, progress=False)
    assert_same_end(config.run, workshop.root / "trained")
    assert no_leftovers(config.run)


def test_a_second_interrupt_stops_at_once_and_leaves_a_run_to_go_on_with(
    trained: TrainResult, base: Path, workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = workshop.load(f"run={tmp_path / 'run'}", f"base={base}")

    def twice() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        after(2, twice, patch)
        with pytest.raises(KeyboardInterrupt):
            train(config, progress=False)
    assert RunFolder(config.run).pointed_at("last") == "iteration_000001"
    train(config, resume=True, progress=False)
    assert_same_end(config.run, workshop.root / "trained")


def test_more_iterations_continue_a_finished_run(
    trained: TrainResult, base: Path, workshop: Workshop, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    train(workshop.load(f"run={run}", f"base={base}", "iterations=2"), progress=False)
    train(workshop.load(f"run={run}", f"base={base}"), resume=True, progress=False)
    assert_same_end(run, workshop.root / "trained")
    assert "iterations: 4" in (run / "config.yaml").read_text()


def test_a_torn_checkpoint_gives_way_to_the_one_before(
    trained: TrainResult, base: Path, workshop: Workshop, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = tmp_path / "run"
    shutil.copytree(workshop.root / "trained", run, symlinks=True)
    torn = run / "checkpoints" / "iteration_000004" / "weights.safetensors"
    torn.write_bytes(torn.read_bytes()[:-100])
    with open(run / "metrics.jsonl", "a") as log:
        log.write('{"kind": "train", "step": 5, "reward_mean": 1.0}\n')
    train(workshop.load(f"run={run}", f"base={base}"), resume=True, progress=False)
    assert "skipping a damaged checkpoint" in caplog.text and "iteration_000004" in caplog.text
    assert_same_end(run, workshop.root / "trained")


def test_the_base_of_a_resumed_run_is_the_one_it_started_from(
    trained: TrainResult, base: Path, workshop: Workshop, tmp_path: Path
) -> None:
    """The run that made the base may have found a better one since."""
    moving, run = tmp_path / "base", tmp_path / "run"
    shutil.copytree((base / "checkpoints" / "best").resolve(), moving)
    train(workshop.load(f"run={run}", f"base={moving}", "iterations=1"), progress=False)
    other = next(
        path for path in (base / "checkpoints").glob("epoch_*") if path != (base / "checkpoints/best").resolve()
    )
    shutil.copyfile(other / "weights.safetensors", moving / "weights.safetensors")
    train(workshop.load(f"run={run}", f"base={moving}"), resume=True, progress=False)
    ends = [load_file(path / "checkpoints/last/weights.safetensors") for path in (run, workshop.root / "trained")]
    assert all(torch.equal(ends[0][key], ends[1][key]) for key in ends[1])


def test_other_networks_and_fields_cannot_go_on_with_a_run(
    trained: TrainResult, base: Path, workshop: Workshop, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(workshop.root / "trained", run, symlinks=True)
    both = ["policy.active=[pos, cell]", "policy.noise.pos.a=0.1", "policy.noise.cell.a=0.1"]
    with pytest.raises(ModelError, match=r"policy\.active"):
        train(workshop.load(f"run={run}", f"base={base}", *both), resume=True, progress=False)
    with pytest.raises(ConfigError, match="already holds a run"):
        train(workshop.load(f"run={run}", f"base={base}"), progress=False)


# --- what goes wrong on the way -------------------------------------------------------------------------------


def test_a_nan_loss_stops_the_run_and_keeps_the_last_checkpoint(
    base: Path, workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = workshop.load(f"run={tmp_path / 'run'}", f"base={base}")
    step = Trainer.step

    def poisoned(self: Trainer) -> dict[str, float]:
        if self.iteration == 2:
            assert isinstance(self.backend, LocalTrainingBackend)
            weight = next(iter(self.backend.learner.parameters))
            weight.data[:] = torch.nan
        return step(self)

    monkeypatch.setattr(Trainer, "step", poisoned)
    with pytest.raises(TrainingError, match=r"iteration 3.*[A-Z][a-z]?.*last checkpoint is .*iteration_000002"):
        train(config, progress=False)
    stored = load_file(config.run / "checkpoints" / "last" / "weights.safetensors")
    assert all(value.isfinite().all() for value in stored.values())
    assert no_leftovers(config.run)


def test_failing_rewards_stop_the_run_and_are_named(
    base: Path, workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = MatGLEnergy.__call__

    def failing(self: MatGLEnergy, crystals: Any) -> RewardResult:
        result = judge(self, crystals)
        return RewardResult(torch.full_like(result.reward, torch.nan), result.values)

    monkeypatch.setattr(MatGLEnergy, "__call__", failing)
    config = workshop.load(f"run={tmp_path / 'run'}", f"base={base}")
    with pytest.raises(TrainingError, match=r"8 of 8 rewards failed in iteration 1 .*: [A-Z]"):
        train(config, progress=False)
    assert RunFolder(config.run).pointed_at("last") == "iteration_000000"


def test_a_full_disk_leaves_the_last_checkpoint_whole(
    base: Path, workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = workshop.load(f"run={tmp_path / 'run'}", f"base={base}")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        after(2, lambda: patch.setattr("omatg_ray.train.checkpoint.save_file", full), patch)
        with pytest.raises(OmatgRayError, match="disk or quota is full"):
            train(config, progress=False)
    last = RunFolder(config.run).latest_checkpoint()
    assert last is not None and last.name == "iteration_000001"
    assert no_leftovers(config.run)


def test_a_resumed_run_refuses_what_would_change_its_results(
    trained: TrainResult, base: Path, workshop: Workshop, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(workshop.root / "trained", run, symlinks=True)
    before = (run / "config.yaml").read_text()
    with pytest.raises(ConfigError, match=r"learner\.lr: the run was started with .* not 0\.5"):
        train(workshop.load(f"run={run}", f"base={base}", "learner.lr=0.5"), resume=True, progress=False)
    assert (run / "config.yaml").read_text() == before


def test_results_of_a_shorter_run_do_not_outlive_it(
    trained: TrainResult, base: Path, workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    shutil.copytree(workshop.root / "trained", run, symlinks=True)
    monkeypatch.setattr("omatg_ray.rl.trainer.Trainer.step", lambda self: (_ for _ in ()).throw(TrainingError("stop")))
    with pytest.raises(TrainingError):
        train(workshop.load(f"run={run}", f"base={base}", "iterations=6"), resume=True, progress=False)
    assert not list(run.glob("evaluation/*.json")) and not list(run.glob("structures/*.extxyz"))


def test_a_run_that_has_done_more_than_is_asked_for(base: Path, workshop: Workshop, tmp_path: Path) -> None:
    words = [f"run={tmp_path / 'run'}", f"base={base}"]
    train(workshop.load(*words, "iterations=2"), progress=False)
    with pytest.raises(ConfigError, match="^iterations: the run has done 2 already, more than 1"):
        train(workshop.load(*words, "iterations=1"), resume=True, progress=False)


def test_rollout_workers_without_work_are_named(base: Path, workshop: Workshop) -> None:
    actors = [f"base={base}", "rollout.groups=4", "ray.rollout.workers=3"]
    with pytest.warns(UserWarning, match=r"^1 of 3 rollout workers have nothing to do: .* 2 items .*lower rollout"):
        build_run(workshop.load(*actors, "rollout.groups_per_item=2"))
    with pytest.warns(UserWarning, match=r"^2 of 6 rollout workers have nothing to do: .* 4 items .*raise rollout"):
        build_run(workshop.load(*actors[:2], "ray.rollout.workers=6"))
    build_run(workshop.load(*actors))


def test_continue_starts_a_run_and_resumes_one_that_is_there(
    workshop: Workshop, base: Path, command: Command, tmp_path: Path
) -> None:
    words = ["train", workshop.config, f"run={tmp_path / 'run'}", f"base={base}", "--quiet"]
    for iterations in (1, 2):
        assert command(*words, "--continue", f"iterations={iterations}").code == 0
    assert [line["step"] for line in numbers(tmp_path / "run") if line["kind"] == "train"] == [1, 2]
    command(*words, "iterations=3").refuses("already holds a run")
    command("train", workshop.config, f"base={base}", "--continue").refuses("--continue needs run=FOLDER")


@pytest.mark.processes
def test_a_reader_of_the_output_that_has_gone_does_not_end_the_run(
    tmp_path: Path, workshop: Workshop, base: Path
) -> None:
    """As `omatg-ray train ... 2>&1 | head -1` does."""
    words = ["train", str(workshop.config), f"base={base}", f"run={tmp_path / 'run'}", "iterations=1"]
    # Without a potential and other processes it ends sooner.
    words += ["workers=0", "reward.potential=null", "reward.weights={volume: 1}", "reward.volume.target=20"]
    command = [sys.executable, "-m", "omatg_ray", *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert process.stdout is not None
    assert process.stdout.readline()
    process.stdout.close()
    assert process.wait() == 141
    assert (tmp_path / "run" / "checkpoints" / "iteration_000001" / "manifest.json").is_file()
    assert (tmp_path / "run" / "report.html").is_file()
