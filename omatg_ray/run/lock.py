"""Lock of a folder that only one process may write to at a time."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import socket
from pathlib import Path
from typing import IO

from omatg_ray.errors import ConfigError, InUseError
from omatg_ray.run.atomic import disk_errors

logger = logging.getLogger(__name__)


def lock(folder: Path) -> IO[str]:
    """Make a folder if it does not exist, and keep other processes out until the returned file is closed.

    On file systems without locks, warns and keeps no process out. The lock does not keep out its own process, so lock a
    folder only once.

    Raises:
        ConfigError: The folder cannot be made: something above it is a file.
        InUseError: Another process has locked it; the message names process and host.
        DiskError: The disk is full or the folder is not writable.
    """
    with disk_errors(folder):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError, FileNotFoundError) as error:
            raise ConfigError(f"{folder} cannot be made ({error.strerror}): choose another name") from error
        # lockf, not flock: a process forked from the writer must not keep the lock after the writer is gone
        file = open(folder / ".lock", "a+", encoding="utf-8")  # noqa: SIM115 - open as long as the lock is held
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                file.seek(0)
                owner = file.read().strip() or "another process"
                file.close()
                raise InUseError(f"{folder} is being written by {owner}; wait for it or choose another name") from None
            logger.warning(
                "%s cannot be locked (%s): make sure that no other process writes to it", folder, error.strerror
            )
            return file
        file.truncate(0)
        file.write(writer())
        file.flush()
        return file


def writer() -> str:
    """Return the name of this process for messages of others: its number and its host."""
    return f"process {os.getpid()} on {socket.gethostname()}"
