"""The lock of a folder that one process writes at a time."""

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
    """Makes a folder, if it is not there, and keeps other processes out until the returned file is closed.

    Where a file system has no locks there is a warning, and nobody is kept out. A process locks a folder once: it would
    not be kept out of it by itself.

    Raises:
        ConfigError: There can be no such folder: something above it is a file.
        InUseError: Another process has locked it; names process and host.
        DiskError: The disk is full or the folder may not be written to.
    """
    with disk_errors(folder):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError, FileNotFoundError) as error:
            raise ConfigError(f"{folder} cannot be made ({error.strerror}): choose another name") from error
        # lockf and not flock: a process forked from the writer must not keep the lock when the writer is gone
        file = open(folder / ".lock", "a+", encoding="utf-8")  # noqa: SIM115 - open as long as the lock is held
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                file.seek(0)
                owner = file.read().strip() or "another process"
                file.close()
                raise InUseError(f"{folder} is being written by {owner}; wait for it or choose another name") from None
            logger.warning("%s cannot be locked (%s): let no second process write it", folder, error.strerror)
            return file
        file.truncate(0)
        file.write(writer())
        file.flush()
        return file


def writer() -> str:
    """What others are told of this process: its number and its host."""
    return f"process {os.getpid()} on {socket.gethostname()}"
