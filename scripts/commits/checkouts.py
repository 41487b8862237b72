"""Checkouts of commits in their own folders, and commands that run with them."""

from __future__ import annotations

import io
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT = 600.0
"""Seconds after which a command counts as hung."""

DRIVER = "import omatg_ray; print(omatg_ray.__file__)"
ACTOR = """
import ray

def found():
    import omatg_ray
    return omatg_ray.__file__

ray.init("local", num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
print(ray.get(ray.remote(found).remote()))
"""


class CheckoutError(Exception):
    """A revision is not a commit, or the package that runs is not that of the commit."""


def git(*words: str) -> bytes:
    """Run git in the checkout of this script and return its output.

    Raises:
        CheckoutError: git failed; with its message.
    """
    done = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True)
    if done.returncode:
        raise CheckoutError(done.stderr.decode().strip())
    return done.stdout


def commit_of(revision: str) -> str:
    """Return the commit of a name, tag or branch.

    Raises:
        CheckoutError: There is no such commit.
    """
    try:
        return git("rev-parse", "--verify", f"{revision}^{{commit}}").decode().strip()
    except CheckoutError as error:
        raise CheckoutError(f"{revision}: {error}") from error


def check_out(commit: str | None, folder: Path) -> None:
    """Write the files of a commit into a new folder; for None, the files here that git tracks or does not ignore."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    if commit is not None:
        with tarfile.open(fileobj=io.BytesIO(git("archive", commit))) as archive:
            archive.extractall(folder, filter="data")
        return
    for name in git("ls-files", "-z", "--cached", "--others", "--exclude-standard").decode().split("\0"):
        if name and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)


@dataclass(frozen=True)
class Outcome:
    """Exit status and streams of a command, and its duration."""

    status: int
    out: str
    err: str
    seconds: float


@dataclass(frozen=True)
class Code:
    """A checkout whose package commands import.

    Attributes:
        folder: The checkout.
        cache: Cache folder of its commands, not shared with another checkout.
    """

    folder: Path
    cache: Path

    def run(self, words: list[str], cwd: Path, interrupt_at: str | None = None) -> Outcome:
        """Run Python with arguments, in a folder.

        Args:
            words: Arguments of `python`.
            cwd: Working directory.
            interrupt_at: Text after whose output the command is sent Ctrl-C.
        """
        out, err = cwd / ".out", cwd / ".err"
        began = time.monotonic()
        with open(out, "w") as to_out, open(err, "w") as to_err:
            # A process group of its own, so that none of its processes outlives it.
            process = subprocess.Popen(
                [sys.executable, *words],
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=to_out,
                stderr=to_err,
                env=self._environment(),
                start_new_session=True,
            )
            try:
                self._wait(process, interrupt_at, out, err)
            finally:
                _end(process)
        seconds = time.monotonic() - began
        return Outcome(process.returncode, _taken(out), _taken(err), seconds)

    def _environment(self) -> dict[str, str]:
        # A running Ray cluster would import the package installed there. `interrupt_at` is looked for in standard error
        # too, whose lines arrive at once only with Python's default buffering.
        kept = {name: os.environ[name] for name in os.environ if not name.startswith(("RAY_", "PYTHONUNBUFFERED"))}
        return kept | {
            "PYTHONPATH": str(self.folder),
            "OMP_NUM_THREADS": "1",
            "XDG_CACHE_HOME": str(self.cache),
        }

    @staticmethod
    def _wait(process: subprocess.Popen[bytes], interrupt_at: str | None, *streams: Path) -> None:
        end = time.monotonic() + TIMEOUT
        while process.poll() is None and time.monotonic() < end:
            if interrupt_at is not None and any(interrupt_at in path.read_text(errors="replace") for path in streams):
                process.send_signal(signal.SIGINT)
                interrupt_at = None
            time.sleep(0.1)

    def refuse_other(self, cwd: Path, actors: bool) -> None:
        """Check which package is imported by commands and, if `actors`, by the Ray actors that they start.

        Raises:
            CheckoutError: It is not the package of the checkout.
        """
        for who, program in (("a command", DRIVER), ("an actor", ACTOR))[: 1 + actors]:
            found = self.run(["-c", program], cwd)
            where = found.out.strip()
            if found.status or not Path(where).is_relative_to(self.folder):
                raise CheckoutError(
                    f"{who} should import omatg_ray from {self.folder}, not {where or 'nothing'}: {found.err[-500:]}"
                )


def _taken(path: Path) -> str:
    """Read a file and delete it."""
    text = path.read_text(encoding="utf-8", errors="replace")
    path.unlink()
    return text


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and the processes that it started, if they still run."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
