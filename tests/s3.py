"""An S3 on loopback: moto's server, with what tests do to it behind the back of the code under test."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any

KEYS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}


class Server:
    """Serves until `stop`, and again on the same port after `start`; buckets outlast that."""

    def __init__(self) -> None:
        import boto3
        from botocore.config import Config

        # It writes a line for every request.
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self.port = 0
        self._server: Any = None
        self.start()
        self.client = boto3.client(
            "s3",
            endpoint_url=self.url,
            aws_access_key_id=KEYS["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=KEYS["AWS_SECRET_ACCESS_KEY"],
            region_name=KEYS["AWS_DEFAULT_REGION"],
            config=Config(s3={"addressing_style": "path"}),
        )

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        from moto.moto_server.threaded_moto_server import ThreadedMotoServer

        if self._server is not None:
            return
        self._server = ThreadedMotoServer("127.0.0.1", self.port, verbose=False)
        self._server.start()
        _, self.port = self._server.get_host_and_port()

    def stop(self) -> None:
        self._server.stop()
        self._server = None


@dataclass(frozen=True)
class Bucket:
    """A bucket.

    Attributes:
        name: Its name.
        server: Where it is.
    """

    name: str
    server: Server = field(repr=False)

    @property
    def client(self) -> Any:
        return self.server.client

    def url(self, path: str) -> str:
        return f"s3://{self.name}/{path}"

    def listed(self, prefix: str = "") -> list[str]:
        """All keys below a prefix, without markers of folders."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=prefix)
        keys = [entry["Key"] for page in pages for entry in page.get("Contents", [])]
        return [key for key in keys if not key.endswith("/")]

    def read(self, key: str) -> bytes:
        content: bytes = self.client.get_object(Bucket=self.name, Key=key)["Body"].read()
        return content

    def write(self, key: str, data: bytes) -> None:
        self.client.put_object(Bucket=self.name, Key=key, Body=data)

    def delete(self, key: str) -> None:
        self.client.delete_object(Bucket=self.name, Key=key)


@dataclass(frozen=True)
class Memory:
    """What a bucket is to tests, in the memory of this process: a hundred times as fast.

    Attributes:
        name: Its name.
    """

    name: str

    @property
    def files(self) -> Any:
        import fsspec

        return fsspec.filesystem("memory")

    def url(self, path: str) -> str:
        return f"memory://{self.name}/{path}"

    def listed(self, prefix: str = "") -> list[str]:
        """All keys that begin like this."""
        root = f"/{self.name}/"
        keys = (path.removeprefix(root) for path in self.files.find(root))
        return sorted(key for key in keys if key.startswith(prefix))

    def read(self, key: str) -> bytes:
        content: bytes = self.files.cat_file(f"/{self.name}/{key}")
        return content

    def write(self, key: str, data: bytes) -> None:
        self.files.pipe_file(f"/{self.name}/{key}", data)

    def delete(self, key: str) -> None:
        self.files.rm_file(f"/{self.name}/{key}")
