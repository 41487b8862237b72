"""Versions of the software that a run uses, found without importing any of it."""

from __future__ import annotations

import hashlib
import platform
import subprocess
from collections.abc import Iterable
from functools import cache
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
    """Return the versions of Python, the operating system and the installed packages that affect a run's numbers.

    Packages that are not installed are left out. `commit` is present if the project runs from a git checkout, with
    " (modified)" if tracked files differ from it.
    """
    result = {"python": platform.python_version(), "platform": platform.platform()} | installed(DISTRIBUTIONS)
    commit = git_commit(Path(__file__).resolve().parents[2])
    if commit is not None:
        result["commit"] = commit
    return result


@cache
def software() -> dict[str, str]:
    """Return what all processes of a run must have in common, as of the first call.

    Returns:
        Hash of the source of this package, and versions: of Ray, of PyTorch without its build (which differs between
        nodes with and without a GPU), of Python without its patch level.
    """
    package = Path(__file__).resolve().parents[1]
    source = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        source.update(f"{path.relative_to(package)}\0".encode() + path.read_bytes())
    result = installed(("ray", "torch")) | {"python": ".".join(platform.python_version_tuple()[:2])}
    return {"omatg_ray": source.hexdigest()[:12]} | {name: value.split("+")[0] for name, value in result.items()}


def installed(names: Iterable[str]) -> dict[str, str]:
    """Return the versions of packages; those that are not installed are left out."""
    result = {}
    for name in names:
        try:
            result[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return result


def git_commit(root: Path) -> str | None:
    """Return the commit checked out in `root`, or None if it is not a git checkout with a commit or git is missing."""
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
