"""Standard streams that a program can rely on, however it was started and even if its reader is gone."""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

STANDARD = (("stdin", "r"), ("stdout", "w"), ("stderr", "w"))


def open_closed() -> None:
    """Open standard streams that are closed, as cron and daemons leave them: they read nothing and discard output.

    Otherwise the next opened file would take the number of one, and printed text would go into that file.
    """
    for number, (name, mode) in enumerate(STANDARD):
        try:
            os.fstat(number)
        except OSError:
            # os.open takes the lowest free number, which is this one. Child processes need it, too.
            os.set_inheritable(os.open(os.devnull, os.O_RDONLY if mode == "r" else os.O_WRONLY), True)
        # Python has no object for a stream that was closed at startup.
        if getattr(sys, name) is None:
            stream = open(number, mode, encoding="utf-8", closefd=False)  # noqa: SIM115 - for as long as the process
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)


@contextmanager
def tolerate_lost_readers() -> Iterator[list[int]]:
    """Let work continue if its output cannot be written: the reader or terminal is gone, or a disk is full.

    Only printed text is lost. Streams that have replaced the standard ones stay unchanged.

    Yields:
        The error numbers of writes to standard output that failed, complete after the block.
    """
    lost: list[int] = []
    own = {name: getattr(sys, name) for name in ("stdout", "stderr")}
    for name, stream in own.items():
        if stream is getattr(sys, f"__{name}__"):
            _flush(stream)
            setattr(sys, name, _tolerant_stream(stream, lost if name == "stdout" else []))
    ours = {name: getattr(sys, name) for name in own}
    try:
        yield lost
    finally:
        for name, stream in own.items():
            _flush(ours[name])
            setattr(sys, name, stream)


def _flush(stream: Any) -> None:
    # Python closes its streams at exit, and would complain about text they still hold.
    with suppress(OSError, ValueError):
        stream.flush()


def _tolerant_stream(stream: Any, lost: list[int]) -> io.TextIOWrapper:
    return io.TextIOWrapper(
        io.BufferedWriter(_TolerantFile(stream.fileno(), lost)),
        encoding=stream.encoding,
        # File names may contain bytes that are not text.
        errors="backslashreplace",
        # With PYTHONUNBUFFERED, at least whole lines must appear at once.
        line_buffering=stream.line_buffering or stream.write_through or stream.isatty(),
        write_through=stream.write_through,
    )


class _TolerantFile(io.FileIO):
    """A file that drops data it cannot write."""

    def __init__(self, number: int, lost: list[int]) -> None:
        super().__init__(number, "w", closefd=False)
        self._lost = lost

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError as error:
            self._lost.append(error.errno or 0)
            if error.errno == errno.EPIPE:
                # Libraries that write to the descriptor directly would fail, too.
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, self.fileno())
                os.close(nowhere)
            return len(memoryview(data).cast("B"))
