"""Storage of a run: a folder, or a URL that pyarrow or fsspec reach, such as s3://bucket/runs/better.

A run at a URL is worked on in a scratch folder of this machine, which is copied to the URL from time to time. Runs,
models and crystals are also read from URLs. S3 and GCS write objects whole or not at all, and files that others depend
on are put first. Nothing is locked: no two processes may write one run.

S3 and GCS are reached through pyarrow, with the credentials that their own tools find (environment, profile, role).
Other schemes are reached through pyarrow or fsspec, whichever knows them.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import cached_property
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory, mkdtemp
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from omatg_ray.errors import OmatgRayError, StorageError
from omatg_ray.run.atomic import disk_errors
from omatg_ray.run.location import Location, is_remote

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
"""Environment variables that name an S3 service other than Amazon's; pyarrow itself reads neither."""

# Storage that does not answer must be reported within half a minute.
ATTEMPTS, CONNECT_SECONDS, ANSWER_SECONDS = 3, 3.0, 8.0
CHUNK = 8 * 2**20
PREFIX = "omatg_ray-"
"""Prefix of temporary folders."""

NETWORK = "check the network, and AWS_ENDPOINT_URL_S3 if it is not Amazon's S3; failed requests are retried three times"
CREDENTIALS = (
    "check the credentials and their permissions (S3: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile or a "
    "role; GCS: GOOGLE_APPLICATION_CREDENTIALS)"
)
ADVICE = (
    ("NO_SUCH_BUCKET|bucket does not exist", "create the bucket, or fix its name"),
    ("NETWORK_CONNECTION|curl|resolve host|connection", NETWORK),
    ("ACCESS_DENIED|ACCESS_KEY|SIGNATURE|TOKEN|credential|forbidden|unauthorized|HTTP status 40[13]", CREDENTIALS),
)
"""Advice by the wording of an error; the first match counts."""


class Storage:
    """A folder that this process can access: files written there are already stored.

    Args:
        folder: The folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def called(self, name: str = "") -> Location:
        """Return the name of the storage, or of a file or folder in it, for users."""
        return self.folder / name

    def names(self, hidden: bool = False) -> list[str]:
        """Return the files stored elsewhere than in the folder, as paths below it.

        Args:
            hidden: Include files that are hidden, or whose name leads elsewhere.
        """
        return []

    def owned(self) -> set[str]:
        """Return the files stored elsewhere that may be removed: only those that were put, got or adopted."""
        return set()

    def adopt(self, names: Iterable[str]) -> None:
        """Mark files that are already stored as this storage's own."""

    def read(self, name: str) -> bytes | None:
        """Return the content of a file stored elsewhere than in the folder, or None."""
        return None

    def get(self, names: Iterable[str]) -> None:
        """Copy stored files into the folder.

        Raises:
            StorageError: The storage cannot be reached, or refuses; the methods below raise it, too.
        """

    def put(self, names: Iterable[str]) -> None:
        """Store files of the folder, in this order; skip those that are stored unchanged or gone."""

    def write(self, name: str, data: bytes) -> None:
        """Store data that is not a file of the folder."""

    def remove(self, name: str) -> None:
        """Remove a file or folder that is stored elsewhere than in the folder."""

    def leave(self) -> None:
        """Delete the folder if it is only a copy."""


class RemoteStorage(Storage):
    """A URL, and the scratch folder for its files. Can be sent to another process.

    Args:
        url: The URL.
        key: The key that names it, for messages.
        folder: The scratch folder; None makes one among the temporary files.
    """

    def __init__(self, url: str, key: str | None = None, folder: Path | None = None) -> None:
        self.url, self._key = url.rstrip("/"), key
        # Inside a temporary folder, so that it can have the name of the run.
        super().__init__(Path(mkdtemp(prefix=PREFIX)) / PurePosixPath(url).name if folder is None else folder)
        # Size and time of each stored file, by name; None if another process stored it.
        self._stored: dict[str, tuple[int, int] | None] = {}

    @cached_property
    def _connection(self) -> tuple[FileSystem, str]:
        """File system, and the path of the URL in it."""
        return _connect(self.url)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_connection"}

    def called(self, name: str = "") -> Location:
        return f"{self.url}/{name}" if name else self.url

    def names(self, hidden: bool = False) -> list[str]:
        from pyarrow.fs import FileSelector, FileType

        with self._explain_errors("be listed"):
            filesystem, root = self._connection
            try:
                infos = filesystem.get_file_info(FileSelector(root, recursive=True, allow_not_found=True))
            except NotADirectoryError:
                return []
            if not infos and self._has_buckets():
                bucket = root.split("/")[0]
                if filesystem.get_file_info(bucket).type == FileType.NotFound:
                    raise FileNotFoundError(f"the bucket does not exist: {bucket}")
        files = (file.path for file in infos if file.type == FileType.File)
        # File systems of fsspec disagree about a leading slash.
        names = (path.lstrip("/").removeprefix(root.lstrip("/")).lstrip("/") for path in files)
        # Names that are empty or lead out of the folder are not ours.
        return sorted(
            name for name in names if name and (hidden or not any(part[:1] in (".", "") for part in name.split("/")))
        )

    def owned(self) -> set[str]:
        return set(self._stored)

    def adopt(self, names: Iterable[str]) -> None:
        for name in names:
            self._stored.setdefault(name, None)

    def read(self, name: str) -> bytes | None:
        with self._explain_errors(f"be read ({name})"):
            filesystem, root = self._connection
            try:
                with filesystem.open_input_stream(f"{root}/{name}") as stream:
                    return bytes(stream.read())
            except FileNotFoundError:
                return None

    def get(self, names: Iterable[str]) -> None:
        for name in names:
            path = self.folder / name
            with self._explain_errors(f"be read ({name})"):
                filesystem, root = self._connection
                # A full disk is not the fault of the storage, which refuses when a file is opened.
                with filesystem.open_input_stream(f"{root}/{name}") as stream, disk_errors(path):
                    path.parent.mkdir(parents=True, exist_ok=True)
                    with open(path, "wb") as to:
                        shutil.copyfileobj(stream, to, CHUNK)
            self._stored[name] = _stamp(path)

    def put(self, names: Iterable[str]) -> None:
        for name in names:
            path = self.folder / name
            try:
                stamp = _stamp(path)
                if self._stored.get(name) == stamp:
                    continue
                file = open(path, "rb")  # noqa: SIM115 - the rest must be outside the try
            except FileNotFoundError:
                continue
            with file, self._explain_errors(f"be written ({name})"), self._open_to(name) as stream:
                shutil.copyfileobj(file, stream, CHUNK)
            self._stored[name] = stamp

    def write(self, name: str, data: bytes) -> None:
        with self._explain_errors(f"be written ({name})"), self._open_to(name) as stream:
            stream.write(data)

    def remove(self, name: str) -> None:
        from pyarrow.fs import FileType

        with self._explain_errors(f"be cleaned ({name})"):
            filesystem, root = self._connection
            kind = filesystem.get_file_info(f"{root}/{name}").type
            if kind == FileType.Directory:
                filesystem.delete_dir(f"{root}/{name}")
            elif kind == FileType.File:
                filesystem.delete_file(f"{root}/{name}")
        self._stored = {key: stamp for key, stamp in self._stored.items() if not f"{key}/".startswith(f"{name}/")}

    def leave(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        if self.folder.parent.name.startswith(PREFIX):
            with suppress(OSError):
                self.folder.parent.rmdir()

    def _open_to(self, name: str) -> Any:
        filesystem, root = self._connection
        if not self._has_buckets():
            # Parent folders must exist in a file system; in a bucket they would be empty objects.
            filesystem.create_dir(f"{root}/{name}".rpartition("/")[0], recursive=True)
        return filesystem.open_output_stream(f"{root}/{name}")

    def _has_buckets(self) -> bool:
        return self._connection[0].type_name in ("s3", "gcs")

    @contextmanager
    def _explain_errors(self, action: str) -> Iterator[None]:
        """Turn errors of a storage client into a StorageError that says what to do."""
        called = f"{self._key}={self.url}" if self._key else self.url
        try:
            yield
        except OmatgRayError:
            raise
        except Exception as error:  # fsspec clients raise many unrelated kinds
            reason = re.sub(r"\s+", " ", str(error)) or type(error).__name__
            advice = next((text for pattern, text in ADVICE if re.search(pattern, reason, re.IGNORECASE)), None)
            raise StorageError(f"{called} cannot {action}: {reason}{'; ' if advice else ''}{advice or ''}") from error


def storage_of(place: Location, key: str | None = None, folder: Path | None = None) -> Storage:
    """Return the storage of a folder or a URL, without accessing it.

    Args:
        place: Path or URL.
        key: The key that names it, for messages.
        folder: Scratch folder for a URL; None makes one among the temporary files.
    """
    return RemoteStorage(place, key, folder) if is_remote(place) else Storage(Path(place))


def files_at(place: Location) -> list[str]:
    """Return the files at a URL, as paths below it. A URL of a file has none, and neither has a path.

    Raises:
        StorageError: The URL cannot be reached.
    """
    return RemoteStorage(place, folder=Path()).names() if is_remote(place) else []


@contextmanager
def local_copy(place: Location) -> Iterator[Path]:
    """Yield a path unchanged, or a copy of the file or folder at a URL for the duration of the block.

    Raises:
        StorageError: The URL cannot be reached, or nothing is there.
    """
    if not is_remote(place):
        yield Path(place)
        return
    with TemporaryDirectory(prefix=PREFIX) as folder:
        # Keep the suffix: readers of crystals identify formats by it.
        copy = Path(folder) / PurePosixPath(place).name
        below = RemoteStorage(place, folder=copy)
        if names := below.names():
            below.get(names)
        else:
            parent, _, name = place.rpartition("/")
            RemoteStorage(parent, folder=Path(folder)).get([name])
        yield copy


def _connect(url: str) -> tuple[FileSystem, str]:
    from pyarrow import ArrowInvalid
    from pyarrow.fs import FileSystem, FSSpecHandler, GcsFileSystem, PyFileSystem

    scheme, _, path = url.partition("://")
    if scheme.lower() == "s3":
        return _s3(path.split("/")[0]), path
    if scheme.lower() in ("gs", "gcs"):
        return GcsFileSystem(retry_time_limit=timedelta(seconds=ATTEMPTS * ANSWER_SECONDS)), path
    try:
        return FileSystem.from_uri(url)
    except ArrowInvalid:
        import fsspec

        filesystem, path = fsspec.core.url_to_fs(url)
        return PyFileSystem(FSSpecHandler(filesystem)), path


def _s3(bucket: str) -> FileSystem:
    from pyarrow.fs import AwsStandardS3RetryStrategy, S3FileSystem, resolve_s3_region

    endpoint = next((os.environ[name] for name in ENDPOINTS if os.environ.get(name)), None)
    if endpoint is None:
        where = {"region": resolve_s3_region(bucket)}
    else:
        parts = urlsplit(endpoint if "://" in endpoint else f"https://{endpoint}")
        where = {"scheme": parts.scheme, "endpoint_override": parts.netloc + parts.path.rstrip("/")}
    return S3FileSystem(
        allow_delayed_open=True,  # one request for a small file, not three
        connect_timeout=CONNECT_SECONDS,
        request_timeout=ANSWER_SECONDS,
        retry_strategy=AwsStandardS3RetryStrategy(max_attempts=ATTEMPTS),
        **where,
    )


def _stamp(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns
