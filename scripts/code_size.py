"""Size of the code: lines of code and classes per folder, the longest files and functions.

    python scripts/code_size.py
    python scripts/code_size.py OTHER_CHECKOUT/omatg_ray

Lines with only comments or docstrings do not count as code.
"""

from __future__ import annotations

import argparse
import ast
import io
import tokenize
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

LAYOUT = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
LONGEST = 8


def code_lines(source: str) -> set[int]:
    """Return the numbers of the lines that hold code."""
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in LAYOUT:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        # A docstring, or a string below the name it describes.
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            lines -= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return lines


def functions(source: str) -> Iterator[tuple[str, int]]:
    """Yield every function with its number of lines, comments and docstring included."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name, (node.end_lineno or node.lineno) - node.lineno + 1


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package", nargs="?", type=Path, default=Path(__file__).parents[1] / "omatg_ray")
    package = parser.parse_args().package
    lines, files, classes = Counter[str](), Counter[str](), Counter[str]()
    of_file, of_function = Counter[str](), Counter[str]()
    for path in sorted(package.rglob("*.py")):
        source, place = path.read_text(encoding="utf-8"), path.relative_to(package)
        folder = place.parts[0] if len(place.parts) > 1 else "."
        lines[folder] += len(code_lines(source))
        files[folder] += 1
        classes[folder] += sum(isinstance(node, ast.ClassDef) for node in ast.walk(ast.parse(source)))
        of_file[place.as_posix()] = len(source.splitlines())
        for name, length in functions(source):
            of_function[f"{place.as_posix()}:{name}"] = length
    for folder in sorted(lines):
        print(f"{folder:<12} {lines[folder]:>6} lines of code {files[folder]:>4} files {classes[folder]:>4} classes")
    print(f"{'in all':<12} {lines.total():>6} lines of code {files.total():>4} files {classes.total():>4} classes")
    print(
        "longest files, all lines:",
        *(f"  {length:>4} {name}" for name, length in of_file.most_common(LONGEST)),
        sep="\n",
    )
    print(
        "longest functions:", *(f"  {length:>4} {name}" for name, length in of_function.most_common(LONGEST)), sep="\n"
    )


if __name__ == "__main__":
    main()
