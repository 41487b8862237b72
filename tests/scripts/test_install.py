"""`scripts/install` with a pip that downloads nothing."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.processes

ROOT = Path(__file__).resolve().parents[2]
PYTHON = f"""#!/bin/sh
case "$*" in
    "-m pip --version") ;;
    "-m pip"*) echo "$*" >> calls; cat verdict >&2; exit "$(cat code)" ;;
    *) exec {sys.executable} "$@" ;;
esac
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout whose `.venv` has the pip above; it succeeds."""
    for name in ("scripts/install", "pyproject.toml", "constraints.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(PYTHON)
    python.chmod(0o755)
    (tmp_path / "code").write_text("0")
    (tmp_path / "verdict").write_text("")
    return tmp_path


def install(checkout: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([checkout / "scripts" / "install", *words], capture_output=True, text=True)


def test_one_line_says_what_goes_on_and_none_where_nothing_is_to_do(checkout: Path) -> None:
    done = install(checkout)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == 1 and "minutes" in done.stdout and ".venv/pip.log" in done.stdout
    (call,) = (checkout / "calls").read_text().splitlines()
    general, _, of_install = call.partition(" install ")
    # pip knows --quiet before and after the command's name, --progress-bar only after it.
    assert "--quiet" in general and "--progress-bar" not in general
    assert of_install == "--progress-bar off -c constraints.txt -e ."
    assert install(checkout).stdout == ""
    install(checkout, "test")
    assert (checkout / "calls").read_text().splitlines()[1:] == [f"{call}[test]"]


def test_errors_of_pip_are_shown_and_installing_begins_anew(checkout: Path) -> None:
    (checkout / "code").write_text("1")
    (checkout / "verdict").write_text("ERROR: no such version\nERROR: really\n")
    for _ in range(2):
        done = install(checkout)
        assert done.returncode == 1
        assert done.stderr.startswith("ERROR: no such version\nERROR: really\n") and ".venv/pip.log" in done.stderr
    assert not list((checkout / ".venv").glob("installed*"))
