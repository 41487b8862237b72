"""Source files of a user's module, found without running any of it."""

from __future__ import annotations

import ast
from pathlib import Path

OWN = "omatg_ray"


def sources(module: str, folder: Path) -> list[Path]:
    """Return the file of a module in a folder, and those of all modules there that it imports, directly or not.

    Import statements count anywhere in a file, with the packages that they name. Modules named at run time
    (`importlib`) and files that are not Python source are not found. This package is left out if the folder is a
    checkout of it.

    Args:
        module: Dotted name.
        folder: Folder that it is imported from.

    Returns:
        Files in order of the modules' names; none if the folder does not hold the module.

    Raises:
        OSError: A file cannot be read.
    """
    files: dict[str, Path] = {}
    waiting, seen = [module] if _file(module, folder) else [], set()
    while waiting:
        name = waiting.pop()
        if name in seen or name.split(".")[0] == OWN:
            continue
        seen.add(name)
        # Importing a module also imports the packages that it is in.
        waiting += [name.rpartition(".")[0]] if "." in name else []
        path = _file(name, folder)
        if path is not None:
            files[name] = path
            waiting += _imported_names(path, name if path.name == "__init__.py" else name.rpartition(".")[0])
    return [files[name] for name in sorted(files)]


def _file(module: str, folder: Path) -> Path | None:
    stem = folder.joinpath(*module.split("."))
    return next((path for path in (stem / "__init__.py", stem.with_name(f"{stem.name}.py")) if path.is_file()), None)


def _imported_names(path: Path, package: str) -> list[str]:
    """Return the names of modules, and of what may be modules, that a file imports."""
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, RecursionError):  # Importing it will report this.
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
