from __future__ import annotations

import errno
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from omatg_ray.errors import ConfigError, ModelError, OmatgRayError
from omatg_ray.run.checkpoints import verify
from omatg_ray.run.folder import RunFolder


@pytest.fixture
def run(tmp_path: Path) -> Iterator[RunFolder]:
    with RunFolder.create(tmp_path / "run", resume=False) as run:
        yield run


def writes(content: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / "model.bin").write_text(content)
        (folder / "inner").mkdir()
        (folder / "inner" / "state.bin").write_text(content[::-1])

    return write


def names(run: RunFolder) -> list[str]:
    return sorted(path.name for path in run.checkpoints.iterdir())


def test_a_run_is_not_overwritten(run: RunFolder) -> None:
    run.config_path.write_text("seed: 1\n")
    run.close()
    with pytest.raises(ConfigError, match="already holds a run.*--resume"):
        RunFolder.create(run.path, resume=False)
    RunFolder.create(run.path, resume=True).close()


def test_there_must_be_a_run_to_resume(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no run to resume"):
        RunFolder.create(tmp_path / "typo", resume=True)
    assert not (tmp_path / "typo").exists()


def test_a_file_is_no_run_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="is a file"):
        RunFolder.create(tmp_path / "file", resume=False)


def test_a_folder_that_cannot_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", denied)
    with pytest.raises(OmatgRayError, match="cannot write .*run: permission denied"):
        RunFolder.create(tmp_path / "run", resume=False)


HOLD = """
import os, sys
from pathlib import Path
from omatg_ray.run.folder import RunFolder
run = RunFolder.create(Path(sys.argv[1]), resume=False)
run.config_path.write_text("")
if os.fork() == 0:  # a worker that outlives its parent must not keep the lock
    sys.stdin.readline()
    sys.stdin.readline()
    os._exit(0)
print(os.getpid(), flush=True)
sys.stdin.readline()
os.kill(os.getpid(), 9)
"""


@pytest.mark.processes
def test_a_second_process_is_kept_out_until_the_first_ends(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path / "run")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdin is not None and holder.stdout is not None
        pid = holder.stdout.readline().strip()
        for resume in (True, False):
            with pytest.raises(ConfigError, match=f"is being written by process {pid} on "):
                RunFolder.create(tmp_path / "run", resume=resume)
        holder.kill()
        holder.wait()
        RunFolder.create(tmp_path / "run", resume=True).close()


def test_checkpoint_has_a_manifest_of_its_files(run: RunFolder) -> None:
    folder = run.save_checkpoint("iteration_000010", writes("abc"), keep=1)
    manifest = json.loads((folder / "manifest.json").read_text())
    expected = {
        name: {"size": 3, "sha256": hashlib.sha256(content).hexdigest()}
        for name, content in (("model.bin", b"abc"), ("inner/state.bin", b"cba"))
    }
    assert manifest == {"files": expected}
    assert run.pointed_at("last") == "iteration_000010"
    assert run.latest_checkpoint() == folder


def test_manifest_is_written_last(run: RunFolder) -> None:
    def writer(folder: Path) -> None:
        (folder / "model.bin").write_text("abc")
        assert not (folder / "manifest.json").exists()
        assert names(run) == [folder.name]

    folder = run.save_checkpoint("iteration_000010", writer, keep=1)
    times = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert times["manifest.json"] >= times["model.bin"]


def test_failing_writer_leaves_the_earlier_checkpoints(run: RunFolder) -> None:
    def full(folder: Path) -> None:
        (folder / "model.bin").write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")

    run.save_checkpoint("iteration_000010", writes("abc"), keep=1)
    with pytest.raises(OmatgRayError, match="iteration_000020: the disk or quota is full"):
        run.save_checkpoint("iteration_000020", full, keep=1)
    assert names(run) == ["iteration_000010", "last"]
    assert run.latest_checkpoint() == run.checkpoints / "iteration_000010"


def test_old_checkpoints_go_but_never_the_best_or_last(run: RunFolder) -> None:
    run.save_checkpoint("iteration_2", writes("2"), keep=2)
    run.point_best("iteration_2")
    for number in (9, 10, 11):
        run.save_checkpoint(f"iteration_{number}", writes(str(number)), keep=2)
    assert names(run) == ["best", "iteration_10", "iteration_11", "iteration_2", "last"]
    run.save_checkpoint("iteration_5", writes("5"), keep=1)
    assert names(run) == ["best", "iteration_11", "iteration_2", "iteration_5", "last"]
    assert run.pointed_at("best") == "iteration_2" and run.pointed_at("last") == "iteration_5"
    verify(run.checkpoints / "best")


def test_best_must_exist(run: RunFolder) -> None:
    assert run.pointed_at("best") is None
    with pytest.raises(ModelError, match="iteration_000001"):
        run.point_best("iteration_000001")


def flip(folder: Path) -> None:
    (folder / "model.bin").write_text("abd")


def truncate(folder: Path) -> None:
    (folder / "inner" / "state.bin").write_text("")


def remove(folder: Path) -> None:
    (folder / "model.bin").unlink()


def remove_manifest(folder: Path) -> None:
    (folder / "manifest.json").unlink()


def tear_manifest(folder: Path) -> None:
    (folder / "manifest.json").write_text('{"files": {"mod')


def empty_manifest(folder: Path) -> None:
    (folder / "manifest.json").write_text("[]")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (flip, "model.bin has changed since it was written"),
        (truncate, "state.bin has changed since it was written"),
        (remove, "model.bin is missing"),
        (remove_manifest, "iteration_000020 is not a complete checkpoint"),
        (tear_manifest, "manifest.json is damaged"),
        (empty_manifest, "manifest.json is damaged"),
    ],
)
def test_damaged_checkpoint_is_named_and_skipped(
    run: RunFolder, caplog: pytest.LogCaptureFixture, damage: Callable[[Path], None], message: str
) -> None:
    older = run.save_checkpoint("iteration_000010", writes("abc"), keep=2)
    newer = run.save_checkpoint("iteration_000020", writes("abc"), keep=2)
    assert run.latest_checkpoint() == newer and not caplog.records
    damage(newer)
    with pytest.raises(ModelError, match=message):
        verify(newer)
    assert run.latest_checkpoint() == older
    assert message in caplog.text


def test_no_checkpoint(tmp_path: Path) -> None:
    assert RunFolder(tmp_path).latest_checkpoint() is None
    with pytest.raises(ModelError, match="there is no checkpoint"):
        verify(tmp_path / "nothing")


def test_leftovers_of_a_killed_writer_go_on_resume(run: RunFolder) -> None:
    run.save_checkpoint("iteration_000010", writes("abc"), keep=1)
    (run.checkpoints / ".iteration_000020.0123.tmp").mkdir()
    run.close()
    resumed = RunFolder.create(run.path, resume=True)
    assert names(resumed) == ["iteration_000010", "last"]
    resumed.close()


def test_links_survive_a_move_of_the_folder(run: RunFolder, tmp_path: Path) -> None:
    run.save_checkpoint("iteration_000010", writes("abc"), keep=1)
    os.rename(run.path, tmp_path / "moved")
    verify(tmp_path / "moved" / "checkpoints" / "last")


def test_a_folder_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"file/run cannot be made .*choose another name"):
        RunFolder.create(tmp_path / "file" / "run", False)
