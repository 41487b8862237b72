"""What software a run used, without importing any of it."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

DISTRIBUTIONS = (
    "omatg-ray",
    "torch",
    "torch-geometric",
    "matgl",
    "pymatgen",
    "ase",
    "spglib",
    "numpy",
    "scipy",
    "safetensors",
    "ray",
)


def versions() -> dict[str, str]:
    """Versions of Python, the operating system and the installed packages that shape a run's numbers.

    Packages that are not installed are left out. `commit` is there when the project runs from a git checkout, with
    " (modified)" when tracked files differ from it.
    """
    found = {"python": platform.python_version(), "platform": platform.platform()} | installed(DISTRIBUTIONS)
    commit = git_commit(Path(__file__).resolve().parents[2])
    if commit is not None:
        found["commit"] = commit
    return found


def installed(names: Iterable[str]) -> dict[str, str]:
    """Versions of packages; those that are not installed are left out."""
    found = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def git_commit(root: Path) -> str | None:
    """Commit checked out in `root`, or None where that is no git checkout with a commit, or git is not installed."""
    if not (root / ".git").exists():
        return None
    commit = _git(root, "rev-parse", "HEAD")
    if commit is None:
        return None
    return f"{commit} (modified)" if _git(root, "status", "--porcelain", "--untracked-files=no") else commit


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
