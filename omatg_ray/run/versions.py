"""Versions of the software that a run uses, found without importing any of it.

Other software than the driver's in a process of a run would silently give other numbers.
"""

from __future__ import annotations

import hashlib
import platform
import subprocess
from collections.abc import Iterable, Mapping
from functools import cache
from importlib import metadata
from pathlib import Path

from omatg_ray.errors import SoftwareError

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


def refuse_other(theirs: Mapping[str, str], who: str, node: str, ours: Mapping[str, str] | None = None) -> None:
    """Refuse another version of this package, Ray, Python or PyTorch than that of the leading process.

    Args:
        theirs: Result of `software` in the other process; empty if its package has no such function yet.
        who: Name of the other process, for the message.
        node: Its address.
        ours: The same of the leading process, if that is not this one.

    Raises:
        SoftwareError: The software differs; the message names what, and both versions.
    """
    ours = software() if ours is None else ours
    differ = [
        f"{name} {theirs.get(name, 'unknown')} (the driver: {value})"
        for name, value in ours.items()
        if theirs.get(name) != value
    ]
    if differ:
        raise SoftwareError(
            f"{who} on node {node} runs other software than the driver and would give different results: "
            f"{', '.join(differ)}. Install the same on all nodes, or submit a job, which brings its package along "
            "(ray job submit --working-dir)"
        )


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
