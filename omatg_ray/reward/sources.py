"""The source files that a user's module consists of, found without running any of it."""

from __future__ import annotations

import ast
from pathlib import Path

OWN = "omatg_ray"


def sources(module: str, folder: Path) -> list[Path]:
    """The file of a module in a folder, and those of all modules there that it imports, directly or not.

    Import statements count wherever they stand, with the packages that they name; modules that are put together at run
    time (`importlib`) are not found, nor files that are no Python source. This package is left out, where the folder is
    a checkout of it.

    Args:
        module: Dotted name.
        folder: Folder that it is imported from.

    Returns:
        Files in order of the modules' names; none where the folder does not hold the module.

    Raises:
        OSError: A file cannot be read.
    """
    found: dict[str, Path] = {}
    waiting, seen = [module] if _file(module, folder) else [], set()
    while waiting:
        name = waiting.pop()
        if name in seen or name.split(".")[0] == OWN:
            continue
        seen.add(name)
        # A module comes after the packages that it is in.
        waiting += [name.rpartition(".")[0]] if "." in name else []
        path = _file(name, folder)
        if path is not None:
            found[name] = path
            waiting += _imported(path, name if path.name == "__init__.py" else name.rpartition(".")[0])
    return [found[name] for name in sorted(found)]


def _file(module: str, folder: Path) -> Path | None:
    stem = folder.joinpath(*module.split("."))
    return next((path for path in (stem / "__init__.py", stem.with_name(f"{stem.name}.py")) if path.is_file()), None)


def _imported(path: Path, package: str) -> list[str]:
    """Names of modules, and of what might be one, that a file imports."""
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, RecursionError):  # It says so itself when it is imported.
        return []
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            within = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*within, *([node.module] if node.module else [])])
            names += [base, *(f"{base}.{alias.name}" for alias in node.names)]
    return [name for name in names if name and not name.startswith(".")]
