"""What software a run used, without importing any of it."""

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
    """Versions of Python, the operating system and the installed packages that shape a run's numbers.

    Packages that are not installed are left out. `commit` is there when the project runs from a git checkout, with
    " (modified)" when tracked files differ from it.
    """
    found = {"python": platform.python_version(), "platform": platform.platform()} | installed(DISTRIBUTIONS)
    commit = git_commit(Path(__file__).resolve().parents[2])
    if commit is not None:
        found["commit"] = commit
    return found


@cache
def software() -> dict[str, str]:
    """What all processes of a run have to have in common, as it is when this is first asked.

    Returns:
        Hash of the source of this package, and versions: of Ray, of PyTorch without its build (a node with a GPU has
        another one than a node without), of Python without its patch level.
    """
    package = Path(__file__).resolve().parents[1]
    source = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        source.update(f"{path.relative_to(package)}\0".encode() + path.read_bytes())
    found = installed(("ray", "torch")) | {"python": ".".join(platform.python_version_tuple()[:2])}
    return {"omatg_ray": source.hexdigest()[:12]} | {name: value.split("+")[0] for name, value in found.items()}


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
