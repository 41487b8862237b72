"""Standard streams that a program can count on, whoever started it and whoever reads what it says."""

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
    """Opens standard streams that are closed, as cron and daemons leave them: they read nothing, and keep nothing.

    Otherwise the next file that is opened would take the place of one, and what is printed would go into it.
    """
    for number, (name, mode) in enumerate(STANDARD):
        try:
            os.fstat(number)
        except OSError:
            # It gets the lowest number that is free, which is this one; processes that are started need it too.
            os.set_inheritable(os.open(os.devnull, os.O_RDONLY if mode == "r" else os.O_WRONLY), True)
        # Python has none where they were closed when it started.
        if getattr(sys, name) is None:
            stream = open(number, mode, encoding="utf-8", closefd=False)  # noqa: SIM115 - for as long as the process
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)


class Lost:
    """What could not be printed on standard output.

    Attributes:
        reason: The error number; None where nothing was lost.
    """

    reason: int | None = None


@contextmanager
def outliving_readers() -> Iterator[Lost]:
    """Lets work go on where its output cannot be written: a reader or the terminal has gone, a disk is full.

    Only what is printed is lost. Streams that have been put in the place of the standard ones stay as they are.

    Yields:
        What was lost, as it is known afterwards.
    """
    lost = Lost()
    own = {name: getattr(sys, name) for name in ("stdout", "stderr")}
    for name, stream in own.items():
        if stream is getattr(sys, f"__{name}__"):
            _flush(stream)
            setattr(sys, name, _outliving(stream, lost if name == "stdout" else Lost()))
    ours = {name: getattr(sys, name) for name in own}
    try:
        yield lost
    finally:
        for name, stream in own.items():
            _flush(ours[name])
            setattr(sys, name, stream)


def _flush(stream: Any) -> None:
    # Python closes its streams at the end, and would complain of what they still hold.
    with suppress(OSError, ValueError):
        stream.flush()


def _outliving(stream: Any, lost: Lost) -> io.TextIOWrapper:
    return io.TextIOWrapper(
        io.BufferedWriter(_Outliving(stream.fileno(), lost)),
        encoding=stream.encoding,
        # Names of files may hold what is no text.
        errors="backslashreplace",
        # Where nothing is buffered (PYTHONUNBUFFERED), lines at least have to be seen at once.
        line_buffering=stream.line_buffering or stream.write_through or stream.isatty(),
        write_through=stream.write_through,
    )


class _Outliving(io.FileIO):
    """Drops what cannot be written."""

    def __init__(self, number: int, lost: Lost) -> None:
        super().__init__(number, "w", closefd=False)
        self._lost = lost

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError as error:
            self._lost.reason = error.errno
            if error.errno == errno.EPIPE:
                # Libraries that write past Python would fail, too.
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, self.fileno())
                os.close(nowhere)
            return len(memoryview(data).cast("B"))
