"""Run folders at a URL: in memory, and on an S3."""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from omatg_ray.errors import ConfigError, ModelError, StorageError
from omatg_ray.run.folder import RunFolder, copy_run
from omatg_ray.run.interrupt import Interrupted
from omatg_ray.run.storage import RemoteStorage
from omatg_ray.run.sync import fetch_model
from tests.s3 import Bucket, Memory

RUN = "runs/a"
Store = Bucket | Memory
DAMAGED_POINTERS = (b"[]", b"3", b'{"best": 1', b'{"best": 1}', b'{"best": "iteration_7"}')


@pytest.fixture(params=["memory", pytest.param("s3", marks=pytest.mark.long)])
def bucket(request: pytest.FixtureRequest, scratch: Path) -> Iterator[Store]:
    """An empty place for runs: what they leave there does not depend on the kind of storage."""
    if request.param == "s3":
        yield request.getfixturevalue("s3_bucket")
        return
    memory = Memory(f"bucket-{uuid.uuid4().hex}")
    memory.files.mkdir(f"/{memory.name}")
    yield memory
    memory.files.rm(f"/{memory.name}", recursive=True)


def opened(bucket: Store, resume: bool | Path = False) -> RunFolder:
    return RunFolder.create(bucket.url(RUN), resume)


def save(run: RunFolder, number: int, keep: int = 2, best: bool = False) -> None:
    """What a run does at a boundary: a line of metrics, a checkpoint, the storage."""

    def write(folder: Path) -> None:
        (folder / "model.json").write_text(f"model {number}")
        (folder / "state.bin").write_bytes(bytes([number]) * 1000)

    run.config_path.write_text("seed: 0\n")
    with open(run.metrics_path, "a") as file:
        file.write(f"{number}\n")
    run.save_checkpoint(f"iteration_{number}", write, keep)
    if best:
        run.point_best(f"iteration_{number}")
    run.store()


def checkpoints(bucket: Store) -> list[str]:
    """Those that have a manifest, by number."""
    keys = (key.split("/") for key in bucket.listed(f"{RUN}/checkpoints/") if key.endswith("/manifest.json"))
    return sorted((key[3] for key in keys), key=lambda name: int(name.split("_")[1]))


def pointers(bucket: Store) -> dict[str, str]:
    found: dict[str, str] = json.loads(bucket.read(f"{RUN}/checkpoints/pointers.json"))
    return found


def whole(run: RunFolder) -> tuple[str, bytes]:
    """Name and content of the checkpoint to go on from."""
    latest = run.latest_checkpoint()
    assert latest is not None
    return latest.name, (latest / "state.bin").read_bytes()[:1]


def test_a_run_is_stored_at_every_boundary_and_once_more_at_the_end(bucket: Store, scratch: Path) -> None:
    with opened(bucket) as run:
        save(run, 1, best=True)
        assert bucket.read(f"{RUN}/metrics.jsonl") == b"1\n"
        assert bucket.read(f"{RUN}/checkpoints/iteration_1/state.bin") == b"\x01" * 1000
        assert pointers(bucket) == {"best": "iteration_1", "last": "iteration_1"}
        (run.path / "report.html").write_text("report")
        assert run.named(run.path / "report.html") == bucket.url(f"{RUN}/report.html")
        assert run.path.name == "a"
    assert bucket.read(f"{RUN}/report.html") == b"report"
    assert list(scratch.iterdir()) == []


def test_the_last_and_the_best_stay_there_too(bucket: Store) -> None:
    with opened(bucket) as run:
        for number in range(1, 12):
            save(run, number, best=number == 4)
            assert checkpoints(bucket)[-1] == f"iteration_{number}"
        assert checkpoints(bucket) == ["iteration_4", "iteration_10", "iteration_11"]
        assert pointers(bucket) == {"best": "iteration_4", "last": "iteration_11"}
    with opened(bucket, resume=True) as run:
        assert whole(run) == ("iteration_11", b"\x0b")
        # Only what it needs was brought here; what it needs not stays there until its time has come.
        assert sorted(path.name for path in run.checkpoints.iterdir()) == [
            "best",
            "iteration_11",
            "iteration_4",
            "last",
        ]
        assert (run.checkpoints / "best/state.bin").read_bytes() == b"\x04" * 1000
        save(run, 12, keep=3)
        assert checkpoints(bucket) == ["iteration_4", "iteration_10", "iteration_11", "iteration_12"]
        save(run, 13, keep=3, best=True)
    assert checkpoints(bucket) == ["iteration_11", "iteration_12", "iteration_13"]
    assert bucket.read(f"{RUN}/metrics.jsonl").split() == [b"%d" % number for number in range(1, 14)]


def test_what_a_resumed_run_forgets_is_forgotten_there(bucket: Store) -> None:
    with opened(bucket) as run:
        run.evaluation.mkdir()
        (run.evaluation / "after.json").write_text("{}")
        save(run, 1)
    with opened(bucket, resume=True) as run:
        (run.evaluation / "after.json").unlink()
    assert f"{RUN}/evaluation/after.json" not in bucket.listed() and f"{RUN}/config.yaml" in bucket.listed()


def test_a_run_is_not_overwritten_and_must_be_there_to_resume(bucket: Store, scratch: Path) -> None:
    with pytest.raises(ConfigError, match=f"no run to resume in {bucket.url(RUN)}"):
        opened(bucket, resume=True)
    with opened(bucket) as run:
        save(run, 1)
    with pytest.raises(ConfigError, match=f"{bucket.url(RUN)} already holds a run"):
        opened(bucket)
    assert list(scratch.iterdir()) == []


@pytest.mark.parametrize("place", ["", "runs", "runs/a"])
@pytest.mark.parametrize("there", ["runs/a/base/config.yaml", "runs/a/checkpoint.txt", "runs/a/.git/config"])
def test_a_new_run_wants_an_empty_place(bucket: Store, scratch: Path, place: str, there: str) -> None:
    """Not even the bucket's own name, below which all of it lies."""
    for key in (there, "runs/a/x", "runs/a/y", "runs/a/z"):
        bucket.write(key, b"theirs")
    url = bucket.url(place).rstrip("/")
    named = there.removeprefix(place).lstrip("/")
    with pytest.raises(ConfigError, match=rf"run: {url} is not empty, it holds .*{named}.* and 1 more; choose"):
        RunFolder.create(url, resume=False)
    assert len(bucket.listed()) == 4 and list(scratch.iterdir()) == []


def test_a_start_that_was_killed_is_no_obstacle(bucket: Store) -> None:
    bucket.write(f"{RUN}/.writer", b"process 1")
    with opened(bucket) as run:
        save(run, 1)
    assert checkpoints(bucket) == ["iteration_1"]


@pytest.mark.parametrize(
    "place, how",
    [
        *((RUN, how) for how in ("new", "resumed", "from scratch")),
        ("", "resumed"),
        *(pytest.param("", how, marks=pytest.mark.long) for how in ("new", "from scratch")),
    ],
)
def test_what_others_keep_below_a_run_stays(bucket: Store, scratch: Path, place: str, how: str) -> None:
    """Runs, and all else, that came while it ran or before it went on; also where the run has the whole bucket."""
    url, prefix = bucket.url(place).rstrip("/"), f"{place}/" if place else ""
    others = [
        "base/config.yaml", "base/checkpoints/iteration_000001/manifest.json", "data/metrics.jsonl", "notes.txt",
        "checkpoints/checkpoints/iteration_1/manifest.json", "checkpoints/iteration_0_mine/state.bin",
        "evaluation/run/after.json", ".git/config", "wandb/run/files/config.yaml",
    ]  # fmt: skip

    def come() -> None:
        for name in others:
            bucket.write(f"{prefix}{name}", name.encode())

    with RunFolder.create(url, resume=False) as run:
        save(run, 1)
        run.evaluation.mkdir()
        (run.evaluation / "after.json").write_text("{}")
        if how == "new":
            come()
            run.store()
            (run.evaluation / "after.json").unlink()
        save(run, 2, keep=1)
        if how == "from scratch":
            kept = shutil.copytree(run.path, scratch / "kept" / run.path.name, symlinks=True)
    if how != "new":
        come()
        resume: bool | Path = kept if how == "from scratch" else True
        with RunFolder.create(url, resume) as run:
            assert not (run.path / "base").exists() and not (run.path / "notes.txt").exists()
            assert whole(run) == ("iteration_2", b"\x02")
            (run.evaluation / "after.json").unlink()
            save(run, 3, keep=1)
            save(run, 4, keep=1)
    assert {name: bucket.read(f"{prefix}{name}") for name in others} == {name: name.encode() for name in others}
    assert f"{prefix}evaluation/after.json" not in bucket.listed()
    last = f"{prefix}checkpoints/iteration_{2 if how == 'new' else 4}/"
    mine = [key for key in bucket.listed(f"{prefix}checkpoints/iteration_") if "mine" not in key]
    assert len(mine) == 3 and all(key.startswith(last) for key in mine)


def test_a_run_below_one_in_a_storage_of_fsspec_stays() -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    try:
        for place in ("memory://lab/runs/base", "memory://lab/runs/better"):
            with RunFolder.create(place, resume=False) as run:
                save(run, 1)
        before = memory.find("/lab")
        for place in ("memory://lab", "memory://lab/runs"):
            with pytest.raises(ConfigError, match=f"run: {place} is not empty, it holds .*base/"):
                RunFolder.create(place, resume=False)
        assert memory.find("/lab") == before and len(before) > 8
    finally:
        memory.rm("/", recursive=True)


@pytest.mark.parametrize("resume", [True, False])
def test_storage_that_cannot_be_written_is_told_before_anything_is_done(
    s3_bucket: Bucket, scratch: Path, resume: bool
) -> None:
    with pytest.raises(StorageError, match="run=s3://nowhere/a cannot be listed: .*create the bucket"):
        RunFolder.create("s3://nowhere/a", resume)
    assert list(scratch.iterdir()) == []


def test_a_copy_to_read_leaves_a_run_that_goes_on_alone(bucket: Store, scratch: Path) -> None:
    with opened(bucket) as run:
        save(run, 1, best=True)
        writer = bucket.read(f"{RUN}/.writer")
        with copy_run(bucket.url(RUN)) as copy:
            assert copy.pointed_at("best") == "iteration_1" and copy.metrics_path.read_text() == "1\n"
            save(run, 2)
            (copy.path / "report.html").write_text("report")
            copy.storage.put(["report.html"])
            before = {key: bucket.read(key) for key in bucket.listed()}
        assert {key: bucket.read(key) for key in bucket.listed()} == before
        assert before[f"{RUN}/.writer"] == writer and before[f"{RUN}/metrics.jsonl"] == b"1\n2\n"
        assert checkpoints(bucket) == ["iteration_1", "iteration_2"]
    assert bucket.read(f"{RUN}/report.html") == b"report" and list(scratch.iterdir()) == []
    nothing = copy_run(bucket.url("nothing"))
    with pytest.raises(ConfigError, match=f"no run in {bucket.url('nothing')} to report on"), nothing:
        pass
    assert list(scratch.iterdir()) == []


# --- damage ---------------------------------------------------------------------------------------------------


def flip(bucket: Store, folder: str) -> None:
    bucket.write(f"{folder}/state.bin", b"\x02" * 999 + b"\x03")


def truncate(bucket: Store, folder: str) -> None:
    bucket.write(f"{folder}/state.bin", b"\x02" * 900)


def remove(bucket: Store, folder: str) -> None:
    bucket.delete(f"{folder}/state.bin")


def remove_manifest(bucket: Store, folder: str) -> None:
    bucket.delete(f"{folder}/manifest.json")


def tear_manifest(bucket: Store, folder: str) -> None:
    bucket.write(f"{folder}/manifest.json", b'{"files": {"mod')


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (flip, "iteration_2/state.bin has changed since it was written"),
        (truncate, "iteration_2/state.bin has changed since it was written"),
        (remove, "iteration_2/state.bin is missing"),
        (remove_manifest, "iteration_2 is not a complete checkpoint"),
        (tear_manifest, "iteration_2/manifest.json is damaged"),
    ],
)
def test_a_damaged_checkpoint_gives_way_to_the_one_before_and_is_written_anew(
    bucket: Store, caplog: pytest.LogCaptureFixture, damage: Callable[[Bucket, str], None], message: str
) -> None:
    with opened(bucket) as run:
        save(run, 1, best=True)
        save(run, 2)
    damage(bucket, f"{RUN}/checkpoints/iteration_2")
    with opened(bucket, resume=True) as run:
        assert whole(run) == ("iteration_1", b"\x01")
        assert bucket.url(f"{RUN}/checkpoints/{message}") in caplog.text
        caplog.clear()
        save(run, 2)
    with opened(bucket, resume=True) as run:
        assert whole(run) == ("iteration_2", b"\x02") and not caplog.records


def test_without_a_whole_checkpoint_nobody_goes_on(bucket: Store, scratch: Path) -> None:
    with opened(bucket) as run:
        save(run, 1)
        save(run, 2)
    for number in (1, 2):
        flip(bucket, f"{RUN}/checkpoints/iteration_{number}")
    none = f"none of the checkpoints in {bucket.url(RUN)}/.*iteration_1, iteration_2"
    with pytest.raises(ModelError, match=none), opened(bucket, resume=True) as run:
        run.latest_checkpoint()
    assert list(scratch.iterdir()) == []


def test_pointers_that_are_damaged_are_told(bucket: Store, caplog: pytest.LogCaptureFixture) -> None:
    with opened(bucket) as run:
        save(run, 1, best=True)
    bucket.write(f"{RUN}/checkpoints/pointers.json", b'{"best": "iter')
    with opened(bucket, resume=True) as run:
        assert whole(run) == ("iteration_1", b"\x01") and run.pointed_at("best") is None
    assert "pointers.json is damaged" in caplog.text


@pytest.mark.parametrize(
    "known, pointers_now",
    [
        (True, None),
        *((False, text) for text in (None, *DAMAGED_POINTERS)),
        *(pytest.param(True, text, marks=pytest.mark.long) for text in DAMAGED_POINTERS),
    ],
)
def test_a_lost_best_is_found_again(
    bucket: Store, caplog: pytest.LogCaptureFixture, pointers_now: bytes | None, known: bool
) -> None:
    """By what the checkpoints say that are not newer than the one to go on from; else it is that one."""
    with opened(bucket) as run:
        for number in range(1, 5):
            save(run, number, keep=4, best=number == 2)
    flip(bucket, f"{RUN}/checkpoints/iteration_4")
    if pointers_now is None:
        bucket.delete(f"{RUN}/checkpoints/pointers.json")
    else:
        bucket.write(f"{RUN}/checkpoints/pointers.json", pointers_now)
    with opened(bucket, resume=True) as run:
        latest = run.latest_checkpoint()
        assert latest is not None and latest.name == "iteration_3"
        run.mend_pointers(latest, lambda path: known and path.name in ("iteration_1", "iteration_2", "iteration_4"))
        assert f"{RUN}/checkpoints/best was lost; it is now iteration_{2 if known else 3}, the" in caplog.text
    assert pointers(bucket) == {"best": f"iteration_{2 if known else 3}", "last": "iteration_3"}


def test_a_best_that_is_there_stays(bucket: Store, caplog: pytest.LogCaptureFixture) -> None:
    with opened(bucket) as run:
        save(run, 1, best=True)
        save(run, 2)
    with opened(bucket, resume=True) as run:
        latest = run.latest_checkpoint()
        assert latest is not None
        run.mend_pointers(latest, lambda path: True)
    assert pointers(bucket) == {"best": "iteration_1", "last": "iteration_2"} and not caplog.records


class Cut(BaseException):
    """As if the process were killed."""


def cut_after(allowed: int, patch: pytest.MonkeyPatch) -> None:
    """Kills the process, as it were, when it has put or removed so many things."""
    left = iter(range(allowed))

    def act(original: Callable[..., Any]) -> Callable[..., Any]:
        def acting(*arguments: Any) -> Any:
            if next(left, None) is None:
                raise Cut
            return original(*arguments)

        return acting

    for name in ("_open_to", "remove"):
        patch.setattr(RemoteStorage, name, act(getattr(RemoteStorage, name)))


def killed(run: RunFolder, number: int, allowed: int, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the process was killed before it was done with a checkpoint; its scratch folder is lost."""
    with monkeypatch.context() as patch:
        cut_after(allowed, patch)
        try:
            save(run, number, best=True)
        except Cut:
            return True
        finally:
            run.close()
            run.storage.leave()
    return False


def test_wherever_a_kill_cuts_it_short_there_is_a_whole_checkpoint(
    bucket: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with opened(bucket) as run:
        save(run, 1, best=True)
        save(run, 2)
    start = {key: bucket.read(key) for key in bucket.listed()}
    ends = []
    for allowed in count(1):
        for key in bucket.listed():
            bucket.delete(key)
        for key, content in start.items():
            bucket.write(key, content)
        run = opened(bucket, resume=True)
        assert whole(run) == ("iteration_2", b"\x02")
        cut = killed(run, 3, allowed, monkeypatch)
        with opened(bucket, resume=True) as run:
            name, content = whole(run)
            assert content == bytes([int(name.split("_")[1])])
            best = run.pointed_at("best")
            assert best is not None and (run.checkpoints / "best" / "state.bin").read_bytes()[:1] == bytes(
                [int(best[-1])]
            )
        ends.append(name)
        if not cut:
            break
    assert ends[0] == "iteration_2" and ends[-1] == "iteration_3" and sorted(ends) == ends
    assert len(ends) > 6 and best == "iteration_3" and checkpoints(bucket) == ["iteration_2", "iteration_3"]


def test_wherever_a_kill_cuts_the_first_checkpoint_short_the_run_goes_on(
    bucket: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is stored yet: the run begins again, and stores what it would have stored."""
    ends = []
    for allowed in count(1):
        for key in bucket.listed():
            bucket.delete(key)
        cut = killed(opened(bucket), 1, allowed, monkeypatch)
        with opened(bucket, resume=True) as run:
            latest = run.latest_checkpoint()
            ends.append(None if latest is None else latest.name)
            save(run, 1 if latest is None else 2, best=True)
        with opened(bucket, resume=True) as run:
            name = "iteration_1" if latest is None else "iteration_2"
            assert whole(run)[0] == run.pointed_at("best") == name
        if not cut:
            break
    # The configuration, metrics, two files and the manifest; then it is whole.
    assert ends[:4] == [None] * 4 and set(ends[4:]) == {"iteration_1"} and len(ends) > 5


def test_a_killed_first_start_stores_its_configuration_first_and_its_versions_last(
    bucket: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = opened(bucket)
    for name in ("actors.json", "versions.json"):
        (run.path / name).write_text("{}")
    assert killed(run, 1, 1, monkeypatch)
    assert bucket.listed() == [f"{RUN}/.writer", f"{RUN}/config.yaml"]
    run = opened(bucket, resume=True)
    for name in ("actors.json", "versions.json"):
        (run.path / name).write_text("{}")
    assert killed(run, 1, 2, monkeypatch)
    assert f"{RUN}/versions.json" not in bucket.listed() and f"{RUN}/actors.json" in bucket.listed()


def test_a_scratch_folder_that_somebody_cleans_takes_nothing_from_the_run(bucket: Store) -> None:
    with opened(bucket) as run:
        save(run, 1)
        before = bucket.listed()
        shutil.rmtree(run.path)
    assert bucket.listed() == before


# --- storage that is away for a while -------------------------------------------------------------------------


def test_what_could_not_be_stored_comes_with_the_next_checkpoint(
    s3_bucket: Bucket, caplog: pytest.LogCaptureFixture
) -> None:
    with opened(s3_bucket) as run:
        save(run, 1, best=True)
        s3_bucket.server.stop()
        save(run, 2)
        s3_bucket.server.start()
        (record,) = caplog.records
        assert record.levelname == "WARNING" and f"run={s3_bucket.url(RUN)} cannot" in caplog.text
        assert str(run.path) in caplog.text
        save(run, 3, keep=3)
        assert checkpoints(s3_bucket) == ["iteration_1", "iteration_2", "iteration_3"]


@pytest.mark.parametrize("stopped", [None, Interrupted("go on with ...")])
def test_what_cannot_be_stored_at_the_end_stays_and_is_named(
    s3_bucket: Bucket, scratch: Path, stopped: Exception | None
) -> None:
    with (
        pytest.raises(StorageError, match=f"{s3_bucket.url(RUN)} is not up to date") as caught,
        opened(s3_bucket) as run,
    ):
        save(run, 1, best=True)
        s3_bucket.server.stop()
        save(run, 2)
        if stopped:
            raise stopped
    s3_bucket.server.start()
    assert f"--resume {run.path} run={s3_bucket.url(RUN)}" in str(caught.value)
    assert checkpoints(s3_bucket) == ["iteration_1"]
    with opened(s3_bucket, resume=run.path) as again:
        assert again.path == run.path and whole(again) == ("iteration_2", b"\x02")
    assert checkpoints(s3_bucket) == ["iteration_1", "iteration_2"]
    assert pointers(s3_bucket) == {"best": "iteration_1", "last": "iteration_2"}
    assert s3_bucket.read(f"{RUN}/metrics.jsonl") == b"1\n2\n"
    assert list(scratch.iterdir()) == []


def test_another_error_is_not_hidden_by_one_of_the_storage(
    bucket: Store, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> None:
        raise StorageError("away")

    with pytest.raises(ModelError, match="the first"), opened(bucket) as run:
        save(run, 1)
        monkeypatch.setattr(RemoteStorage, "put", away)
        raise ModelError("the first")
    assert str(run.path) in caplog.text and run.latest_checkpoint() is not None


def test_a_run_that_is_stopped_at_once_asks_nothing_of_the_storage(
    s3_bucket: Bucket, scratch: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(KeyboardInterrupt), opened(s3_bucket) as run:
        save(run, 1)
        s3_bucket.server.stop()
        raise KeyboardInterrupt
    s3_bucket.server.start()
    assert not caplog.records and list(scratch.iterdir()) == []


# --- models ---------------------------------------------------------------------------------------------------


def test_models_are_found_as_in_a_folder(bucket: Store, scratch: Path) -> None:
    with opened(bucket) as run:
        for number in (1, 2, 3):
            save(run, number, keep=3, best=number == 2)
    for place, content in (
        ("", "model 2"),
        ("/checkpoints/best", "model 2"),
        ("/checkpoints/last", "model 3"),
        ("/checkpoints/iteration_1", "model 1"),
    ):
        with fetch_model(bucket.url(RUN + place), "model.json") as folder:
            assert (folder / "model.json").read_text() == content, place
    bucket.write("model/model.json", b"alone")
    with fetch_model(bucket.url("model"), "model.json") as folder:
        assert (folder / "model.json").read_text() == "alone"
    assert list(scratch.iterdir()) == []


def test_models_that_are_not_there_or_damaged(bucket: Store) -> None:
    with opened(bucket) as run:
        save(run, 1, best=True)
    nothing = fetch_model(bucket.url("nothing"), "model.json")
    with pytest.raises(ModelError, match=f"{bucket.url('nothing')}: no model here"), nothing:
        pass
    flip(bucket, f"{RUN}/checkpoints/iteration_1")
    damaged = fetch_model(bucket.url(RUN), "model.json")
    with pytest.raises(ModelError, match=f"{RUN}/checkpoints/iteration_1/state.bin has changed since"), damaged:
        pass


def test_a_local_run_with_no_whole_checkpoint(tmp_path: Path) -> None:
    with RunFolder.create(tmp_path / "run", resume=False) as run:
        save(run, 1)
        (run.checkpoints / "iteration_1" / "manifest.json").unlink()
        with pytest.raises(ModelError, match=r"none of the checkpoints in .*run/checkpoints is intact \(iteration_1\)"):
            run.latest_checkpoint()
        shutil.rmtree(run.checkpoints / "iteration_1")
        assert run.latest_checkpoint() is None


def test_what_wandb_keeps_in_the_run_folder_is_not_stored(bucket: Store) -> None:
    with opened(bucket) as run:
        (run.path / "wandb" / "run-1").mkdir(parents=True)
        (run.path / "wandb" / "run-1" / "run.wandb").touch()
        save(run, 1)
    assert not bucket.listed(f"{RUN}/wandb") and checkpoints(bucket) == ["iteration_1"]
