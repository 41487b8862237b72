from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from omatg_ray.errors import ConfigError
from omatg_ray.run.metrics import MetricsLog, read_metrics
from omatg_ray.run.tracking import RUNS, Tracker, Tracking


class FakeRun:
    """What `wandb.init` gives."""

    def __init__(self, **asked: Any) -> None:
        self.asked, self.logged, self.code, self.axes = asked, list[dict[str, float]](), None, list[Any]()
        self.id = asked["id"] or "made-here"

    def define_metric(self, name: str, step_metric: str) -> None:
        self.axes.append((name, step_metric))

    def log(self, values: dict[str, float]) -> None:
        if 13 in values.values():
            raise RuntimeError("the service\n is away")
        self.logged.append(values)

    def finish(self, exit_code: int) -> None:
        self.code = exit_code


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[FakeRun]:
    """Runs of a Weights & Biases that is a fake."""
    runs: list[FakeRun] = []

    def init(**asked: Any) -> FakeRun:
        runs.append(FakeRun(**asked))
        return runs[-1]

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init, Settings=dict))  # type: ignore[arg-type]
    return runs


def write(folder: Path, tracking: Tracking, *losses: float, resume_from: int | None = None) -> None:
    with MetricsLog(folder, resume_from, tracking.start(folder)) as log:
        for step, loss in enumerate(losses, start=1 if resume_from is None else resume_from + 1):
            log.log("train", step, {"loss": loss, "rmse": float("nan")})


def test_finite_metrics_are_sent_with_their_step(tmp_path: Path, runs: list[FakeRun]) -> None:
    write(tmp_path, Tracking(("wandb",), "better", {"seed": 3}), 0.5, 0.25)
    (run,) = runs
    assert run.logged == [{"step": 1, "train/loss": 0.5}, {"step": 2, "train/loss": 0.25}]
    assert run.asked["project"] == "omatg_ray" and run.asked["name"] == "better" and run.asked["config"] == {"seed": 3}
    assert run.asked["dir"] == str(tmp_path) and run.axes == [("*", "step")] and run.code == 0


def test_a_resumed_run_is_the_same_one_there(tmp_path: Path, runs: list[FakeRun]) -> None:
    tracking = pickle.loads(pickle.dumps(Tracking(("wandb",), "better")))
    write(tmp_path, tracking, 0.5, 0.25)
    write(tmp_path, tracking, 0.125, resume_from=1)
    assert [run.id for run in runs] == ["made-here"] * 2
    assert [run.asked["resume"] for run in runs] == [None, "allow"]
    assert runs[1].logged == [{"step": 2, "train/loss": 0.125}]


def test_a_run_that_fails_is_told_as_one(tmp_path: Path, runs: list[FakeRun]) -> None:
    with pytest.raises(KeyError), MetricsLog(tmp_path, None, Tracking(("wandb",)).start(tmp_path)):
        raise KeyError
    assert runs[0].code == 1


def test_a_service_that_fails_ends_no_run(
    tmp_path: Path, runs: list[FakeRun], caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path, Tracking(("wandb",)), 0.5, 13.0, 0.25, 13.0)
    assert [line["loss"] for line in read_metrics(tmp_path / "metrics.jsonl")] == [0.5, 13.0, 0.25, 13.0]
    assert len(runs[0].logged) == 1 and runs[0].code is None
    (record,) = caplog.records
    assert "wandb no longer accepts metrics (the service is away)" in record.getMessage()


def test_a_service_that_refuses_at_the_start_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def init(**_: Any) -> None:
        raise RuntimeError("no API key")

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init, Settings=dict))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="tracking: wandb cannot accept the run: no API key"):
        Tracking(("wandb",)).start(tmp_path)


def test_the_first_service_is_told_that_the_second_refused(
    tmp_path: Path, runs: list[FakeRun], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Refusing:
        def __init__(self, *_: object) -> None:
            raise RuntimeError("no server")

    monkeypatch.setitem(RUNS, "mlflow", Refusing)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="tracking: mlflow cannot accept the run: no server"):
        Tracking(("wandb", "mlflow")).start(tmp_path)
    assert [run.code for run in runs] == [1]


@pytest.mark.parametrize("tracker", ["wandb", "mlflow"])
def test_a_package_that_is_missing_is_named_with_its_extra(tracker: Tracker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, tracker, None)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=rf"tracking: {tracker} is not installed.*omatg-ray\[{tracker}\]"):
        Tracking((tracker,)).require()


# --- the real ones, without a network -------------------------------------------------------------------------


def test_mlflow_with_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # MLflow wants it said that files are meant, and otherwise tells its makers of every use.
    for name, value in {
        "MLFLOW_TRACKING_URI": (tmp_path / "mlflow").as_uri(),
        "MLFLOW_ALLOW_FILE_STORE": "true",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }.items():
        monkeypatch.setenv(name, value)
    folder = tmp_path / "run"
    folder.mkdir()
    settings = {f"group.key_{number}": number for number in range(130)}
    tracking = Tracking(("mlflow",), "better", settings)
    tracking.require()
    write(folder, tracking, 0.5, 0.25)
    write(folder, tracking, 0.125, resume_from=1)

    from mlflow import MlflowClient

    client = MlflowClient()
    experiment = client.get_experiment_by_name("omatg_ray")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_id == json.loads((folder / "tracking.json").read_text())["mlflow"]
    assert run.info.run_name == "better" and run.info.status == "FINISHED"
    assert run.data.params == {name: str(value) for name, value in settings.items()}
    history = [(metric.step, metric.value) for metric in client.get_metric_history(run.info.run_id, "train/loss")]
    assert history == [(1, 0.5), (2, 0.25), (2, 0.125)]
    with pytest.raises(KeyError), MetricsLog(folder, 1, tracking.start(folder)):
        raise KeyError
    assert client.get_run(run.info.run_id).info.status == "FAILED"


@pytest.mark.processes
def test_wandb_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"WANDB_MODE": "offline", "WANDB_ERROR_REPORTING": "false"}.items():
        monkeypatch.setenv(name, value)
    import wandb

    tracking = Tracking(("wandb",), "better", {"seed": 3})
    tracking.require()
    write(tmp_path, tracking, 0.5, 0.25)
    ident = json.loads((tmp_path / "tracking.json").read_text())["wandb"]
    (stored,) = tmp_path.glob(f"wandb/offline-run-*/run-{ident}.wandb")
    # Its own process writes it, and is done with that a moment after `finish` only.
    wandb.teardown()
    content = stored.read_bytes()
    assert [part for part in (b"train/loss", b"0.25", b"better", b"omatg_ray") if part not in content] == []
