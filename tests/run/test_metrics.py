from __future__ import annotations

import json
from pathlib import Path

import pytest
from tensorboard.summary.writer import event_file_writer

from omatg_ray.errors import DataError, OmatgRayError
from omatg_ray.run.metrics import MetricsLog, read_metrics


def scalars(folder: Path, tag: str) -> dict[int, float]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return {event.step: event.value for event in events.Scalars(tag)}


def test_lines_are_json_and_on_the_disk_at_once(tmp_path: Path) -> None:
    with MetricsLog(tmp_path) as log:
        log.log("train", 1, {"loss": 0.5, "n": 3, "rmse": float("nan"), "energy": float("-inf")})
        text = (tmp_path / "metrics.jsonl").read_text()
    assert json.loads(text) == {"kind": "train", "step": 1, "loss": 0.5, "n": 3, "rmse": None, "energy": None}
    assert text.endswith("\n")


def test_tensorboard_gets_the_finite_numbers(tmp_path: Path) -> None:
    with MetricsLog(tmp_path) as log:
        log.log("validation", 0, {"rmse": 0.25, "crmse": float("nan")})
        log.log("validation", 5, {"rmse": 0.125, "crmse": 0.5})
    assert scalars(tmp_path, "validation/rmse") == {0: 0.25, 5: 0.125}
    assert scalars(tmp_path, "validation/crmse") == {5: 0.5}


@pytest.mark.parametrize("name", ["time/rollout", "kind", "step"])
def test_names_that_would_be_lost(tmp_path: Path, name: str) -> None:
    with MetricsLog(tmp_path) as log, pytest.raises(ValueError, match=name):
        log.log("train", 1, {name: 1.0})
    assert read_metrics(tmp_path / "metrics.jsonl") == []


@pytest.fixture
def _numbered_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorBoard orders files of one second and process by a number of one digit, which other tests use up."""
    monkeypatch.setattr(event_file_writer, "_global_uid", event_file_writer.AtomicCounter(0))


@pytest.mark.usefixtures("_numbered_anew")
def test_resume_drops_the_steps_that_come_again(tmp_path: Path) -> None:
    with MetricsLog(tmp_path) as log:
        for step in range(5):
            log.log("train", step, {"loss": float(step)})
    with MetricsLog(tmp_path, resume_from=2) as log:
        log.log("train", 3, {"loss": 30.0})
    found = {line["step"]: line["loss"] for line in read_metrics(tmp_path / "metrics.jsonl")}
    assert found == {0: 0.0, 1: 1.0, 2: 2.0, 3: 30.0}
    assert scalars(tmp_path, "train/loss") == {0: 0.0, 1: 1.0, 2: 2.0, 3: 30.0}


def test_without_resume_the_log_starts_empty(tmp_path: Path) -> None:
    with MetricsLog(tmp_path) as log:
        log.log("train", 7, {"loss": 7.0})
    with MetricsLog(tmp_path) as log:
        log.log("train", 1, {"loss": 1.0})
    assert [line["step"] for line in read_metrics(tmp_path / "metrics.jsonl")] == [1]
    assert scalars(tmp_path, "train/loss") == {1: 1.0}


@pytest.mark.parametrize("torn", [b'{"kind": "train", "st', b'{"kind": "train", "step": 2, "loss": 1.0}', b'{"a": 1\n'])
def test_torn_last_line_is_dropped(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"kind": "train", "step": 1, "loss": 2.0}\n' + torn)
    assert read_metrics(path) == [{"kind": "train", "step": 1, "loss": 2.0}]
    with MetricsLog(tmp_path, resume_from=9) as log:
        log.log("train", 10, {"loss": 3.0})
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 10]


@pytest.mark.parametrize("damage", ["nonsense", "3", '{"step": 1}', '{"kind": "train", "step": "1"}'])
def test_damage_before_the_last_line_is_an_error(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "metrics.jsonl"
    good = '{"kind": "train", "step": 1}'
    path.write_text(f"{good}\n{damage}\n{good}\n")
    with pytest.raises(DataError, match=r"metrics\.jsonl, line 2"):
        read_metrics(path)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"metrics\.jsonl"):
        read_metrics(tmp_path / "metrics.jsonl")


def test_full_disk(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path)
    log._file.close()
    log._file = open("/dev/full", "w")  # noqa: SIM115 - every write to it fails for lack of space
    with pytest.raises(OmatgRayError, match=r"metrics\.jsonl: the disk or quota is full"):
        log.log("train", 1, {"loss": 1.0})
