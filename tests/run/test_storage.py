from __future__ import annotations

import errno
import pickle
import socket
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import fsspec
import pytest

from omatg_ray.errors import OmatgRayError, StorageError
from omatg_ray.run.location import as_location, join_location
from omatg_ray.run.storage import RemoteStorage, Storage, files_at, local_copy, storage_of
from tests.s3 import Bucket


@pytest.fixture
def remote(bucket: Bucket) -> Storage:
    return storage_of(bucket.url("runs/a"), "run")


def put(storage: Storage, **contents: str) -> None:
    for name, content in contents.items():
        path = storage.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    storage.put(contents)


@pytest.mark.parametrize(
    ("given", "place"),
    [
        ("runs/a", Path("runs/a")),
        (Path("/runs/a"), Path("/runs/a")),
        ("file:///runs/a", Path("/runs/a")),
        ("s3://bucket/runs/a/", "s3://bucket/runs/a"),
        ("gs://bucket", "gs://bucket"),
    ],
)
def test_a_place_is_a_path_or_a_url(given: object, place: Path | str) -> None:
    assert as_location(given) == place
    assert isinstance(storage_of(place), RemoteStorage) is isinstance(place, str)


@pytest.mark.parametrize("given", ["s3://", "s3:///runs", 3, None])
def test_what_is_neither(given: object) -> None:
    with pytest.raises(ValueError, match=r"s3://bucket/path|a path or a URL"):
        as_location(given)


def test_below_a_place() -> None:
    assert join_location("s3://bucket/a", "b/c") == "s3://bucket/a/b/c"
    assert join_location(Path("a"), "b/c") == Path("a/b/c")


def test_a_folder_is_its_own_storage(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a")
    storage = storage_of(tmp_path)
    assert storage.folder == storage.called() == tmp_path and storage.names() == []
    storage.put(["a"])
    storage.remove("a")
    storage.leave()
    assert (tmp_path / "a").read_text() == "a"


def test_what_is_put_is_got_by_another(remote: Storage, bucket: Bucket) -> None:
    put(remote, **{"a.txt": "one", "deep/er/b.txt": "two"})
    assert bucket.listed() == ["runs/a/a.txt", "runs/a/deep/er/b.txt"]
    assert bucket.read("runs/a/deep/er/b.txt") == b"two"
    other = storage_of(bucket.url("runs/a"))
    assert other.names() == ["a.txt", "deep/er/b.txt"] and other.folder.name == "a"
    other.get(other.names())
    assert (other.folder / "deep/er/b.txt").read_text() == "two" and other.read("a.txt") == b"one"
    assert other.read("c.txt") is None


def test_only_what_changed_is_put_again(remote: Storage, bucket: Bucket) -> None:
    put(remote, **{"a.txt": "one", "b.txt": "two"})
    for key in bucket.listed():
        bucket.write(key, b"theirs")
    put(remote, **{"a.txt": "three"})
    remote.put(["a.txt", "b.txt"])
    assert [bucket.read(key) for key in bucket.listed()] == [b"three", b"theirs"]
    other = pickle.loads(pickle.dumps(remote))
    other.put(["a.txt", "b.txt"])
    assert bucket.read("runs/a/b.txt") == b"theirs"


def test_files_and_folders_are_removed(remote: Storage, bucket: Bucket) -> None:
    put(remote, **{"a.txt": "a", "b/c.txt": "c", "b/d/e.txt": "e", "bc.txt": "bc"})
    remote.remove("b")
    remote.remove("a.txt")
    remote.remove("nothing")
    assert bucket.listed() == ["runs/a/bc.txt"]
    # What was removed is no longer taken for stored.
    remote.put(["b/c.txt"])
    assert remote.names() == ["b/c.txt", "bc.txt"]


def test_large_files(remote: Storage, bucket: Bucket) -> None:
    """Of more than one part."""
    content = bytes(range(256)) * 80_000
    remote.folder.mkdir()
    (remote.folder / "large").write_bytes(content)
    remote.put(["large"])
    assert bucket.read("runs/a/large") == content
    other = storage_of(bucket.url("runs/a"))
    other.get(["large"])
    assert (other.folder / "large").read_bytes() == content


def test_hidden_names_and_those_that_lead_elsewhere_are_none(remote: Storage, bucket: Bucket) -> None:
    for name in (".writer", "a/.b/c", "a//b", "a/../../b", "x"):
        bucket.write(f"runs/a/{name}", b"")
    assert remote.names() == ["x"]


def test_a_scratch_folder_goes_with_what_was_made_for_it(remote: Storage, scratch: Path) -> None:
    put(remote, a="a")
    assert list(scratch.rglob("a"))
    remote.leave()
    assert list(scratch.iterdir()) == []


def test_copies_of_files_and_folders_last_as_long_as_they_are_needed(bucket: Bucket, scratch: Path) -> None:
    bucket.write("data/crystals.csv", b"cif\n")
    bucket.write("data/cifs/a.cif", b"a")
    with local_copy(bucket.url("data/crystals.csv")) as path:
        assert path.name == "crystals.csv" and path.read_bytes() == b"cif\n"
    with local_copy(bucket.url("data/cifs")) as path:
        assert [file.name for file in path.iterdir()] == ["a.cif"]
    assert list(scratch.iterdir()) == []
    assert files_at(bucket.url("data")) == ["cifs/a.cif", "crystals.csv"]
    nothing = local_copy(bucket.url("data/nothing.csv"))
    with pytest.raises(StorageError, match=rf"{bucket.url('data')} cannot be read \(nothing.csv\)"), nothing:
        pass
    with local_copy(scratch) as path:
        assert path == scratch


@pytest.fixture
def memory() -> Iterator[str]:
    """A URL of a storage that only fsspec knows."""
    yield "memory://runs/a"
    fsspec.filesystem("memory").rm("/", recursive=True)


def test_schemes_that_fsspec_knows(memory: str, scratch: Path) -> None:
    storage = storage_of(memory)
    assert storage.names() == [] and storage.read("a.txt") is None
    put(storage, **{"a.txt": "one", "deep/er/b.txt": "two"})
    other = storage_of(memory)
    assert other.names() == ["a.txt", "deep/er/b.txt"]
    other.get(other.names())
    assert (other.folder / "a.txt").read_text() == "one"
    other.remove("deep")
    assert storage.names() == ["a.txt"]
    with local_copy(f"{memory}/a.txt") as path:
        assert path.read_text() == "one"


def test_files_that_are_gone_are_not_put(remote: Storage, bucket: Bucket) -> None:
    put(remote, a="a", b="b")
    (remote.folder / "a").unlink()
    (remote.folder / "b").write_text("bb")
    remote.put(["a", "b", "c"])
    assert bucket.read("runs/a/b") == b"bb" and bucket.listed() == ["runs/a/a", "runs/a/b"]


# --- what goes wrong ------------------------------------------------------------------------------------------


def refused(storage: Storage, *parts: str) -> None:
    """All that it does says what is wrong, names the key, and says what to do."""
    storage.folder.mkdir(parents=True, exist_ok=True)
    (storage.folder / "a").touch()
    for act in (storage.names, lambda: storage.put(["a"]), lambda: storage.write("a", b"")):
        with pytest.raises(StorageError) as caught:
            act()
        assert all(part in str(caught.value) for part in (f"run={storage.called()} cannot ", *parts)), caught.value


def test_a_bucket_that_is_not_there(bucket: Bucket) -> None:
    refused(storage_of("s3://nowhere/run", "run"), "bucket does not exist", "create the bucket")


def test_a_full_disk_is_not_blamed_on_the_storage(
    remote: Storage, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    bucket.write("runs/a/x", b"x")
    monkeypatch.setattr("omatg_ray.run.storage.shutil.copyfileobj", full)
    with pytest.raises(OmatgRayError, match=r"cannot write .*x: the disk or quota is full") as caught:
        remote.get(["x"])
    assert not isinstance(caught.value, StorageError)


def test_an_endpoint_where_nothing_listens(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{free.getsockname()[1]}")
        refused(storage_of(bucket.url("run"), "run"), "Could not connect", "check the network")


def test_keys_that_are_not_accepted(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moto.settings.INITIAL_NO_AUTH_ACTION_COUNT", 0)
    refused(storage_of(bucket.url("run"), "run"), "check the credentials")


class Strict(BaseHTTPRequestHandler):
    """Answers unsigned requests as Amazon does; moto cannot."""

    def answer(self) -> None:
        code = "Signed" if "Authorization" in self.headers else "AccessDenied"
        body = f"<Error><Code>{code}</Code><Message>Access Denied</Message></Error>"
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(403)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode() if self.command != "HEAD" else b"")

    do_GET = do_PUT = do_POST = do_HEAD = answer  # noqa: N815 - the names that the server calls

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def strict() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Strict)
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_no_keys_at_all(bucket: Bucket, strict: str, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", strict)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    # Neither a profile nor the role of a machine in Amazon's cloud.
    monkeypatch.setenv("HOME", str(scratch))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    refused(storage_of(bucket.url("run"), "run"), "ACCESS_DENIED", "check the credentials")


def test_a_scheme_that_nobody_knows(scratch: Path) -> None:
    refused(storage_of("nonsense://bucket/run", "run"), "nonsense")
