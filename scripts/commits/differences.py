"""Comparison of two folders written by runs, without times: whether they are equal, and the first difference if not.

Tensors are compared by type, shape and bytes, JSON and YAML value by value, other files byte by byte. Nothing here uses
the package, since the package may be at fault.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pyarrow.parquet as parquet
import torch
import yaml
from safetensors import deserialize

LEFT_OUT = (
    "*/.lock",  # names a process
    "*/tensorboard/*",  # the numbers of metrics.jsonl, with times and host names
    "*/actors.json",  # processes and nodes
    "*/timeline.json",  # when actors worked
    "*/tune/*",  # Ray's own state, pickled, with times
    "*/tune.tar",
)
"""Files that are not compared."""
TIMES = re.compile(r"time_.*|idle_.*|startup_.*|.*seconds.*|commit")
"""Keys whose values are times or name the commit."""
MAY_GROW = ("config.yaml", "best.yaml", "sweep.yaml")
"""Files that list all keys of a configuration, which may get new ones."""
MASKED = (
    (re.compile(r"\b\d+(\.\d+)? (s|seconds|minutes)\b"), "SECONDS"),
    (re.compile(r"\b\d+:\d\d\b"), "CLOCK"),
    (
        re.compile(
            r"<h2>(Time of every iteration|Who worked when|When actors worked|Actors)</h2>.*?(?=<h2>|\Z)", re.DOTALL
        ),
        "",
    ),
)
"""Times in texts, and their replacements."""
TEXTS = ("*.html", "*.svg", "*.png", "*.out")
"""Files to read or look at, which a commit that changes words or pictures changes."""
LAST_COLUMN = (
    # Printed: from the heads to the first line that does not end in a number.
    (re.compile(r"(?<= s/1000\n)(.*[\d-]\n)+"), re.compile(r" +\S+\n"), "\n"),
    (
        re.compile(r"(?<=<th>s/1000</th></tr></thead>)<tbody>.*?</tbody>", re.DOTALL),
        re.compile(r"<td>[^<]*</td></tr>"),
        "",
    ),
)
"""Tables whose last column is a time: pattern of the part after the heads, pattern to replace in it, replacement."""


def folder_difference(
    before: Path, after: Path, renamed: Mapping[str, str] | None = None, texts: bool = True
) -> str | None:
    """Return the first difference between two folders in the order of their files; None if there is none.

    Args:
        renamed: New names of configuration keys by their old ones.
        texts: Whether to compare pages, pictures and printed text, too.
    """
    left_out = LEFT_OUT if texts else (*LEFT_OUT, *TEXTS)
    ours, theirs = (_files(folder, left_out) for folder in (before, after))
    for name in sorted(ours.keys() | theirs.keys()):
        if name not in theirs:
            return f"{name}: not there after"
        if name not in ours:
            return f"{name}: not there before"
        found = file_difference(ours[name], theirs[name], renamed or {})
        if found is not None:
            return f"{name}: {found}"
    return None


def _files(folder: Path, left_out: Sequence[str]) -> dict[str, Path]:
    """List all files and links below a folder, by name relative to it."""
    found = {}
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if (path.is_symlink() or path.is_file()) and not any(fnmatch(f"/{name}", pattern) for pattern in left_out):
            found[name] = path
    return found


def file_difference(before: Path, after: Path, renamed: Mapping[str, str]) -> str | None:
    """Return the first difference between two files or links; None if there is none."""
    if before.is_symlink() or after.is_symlink():
        ours, theirs = (str(path.readlink()) if path.is_symlink() else "a file" for path in (before, after))
        return value_difference(ours, theirs)
    read = READERS.get(before.name) or READERS.get(before.suffix)
    if read is None:
        return None if before.read_bytes() == after.read_bytes() else _line_difference(before, after)
    if before.name not in MAY_GROW:
        return value_difference(read(before), read(after))
    return value_difference(with_new_names(read(before), renamed), read(after), may_grow=True)


def with_new_names(tree: Any, renamed: Mapping[str, str]) -> Any:
    """Move the values of a configuration whose dotted keys have new names; changes and returns it."""
    for old, new in renamed.items():
        (*path, name), (*new_path, new_name) = old.split("."), new.split(".")
        inner = _section(tree, path)
        if name in inner:
            _section(tree, new_path)[new_name] = inner.pop(name)
    return tree


def _section(tree: Any, path: Sequence[str]) -> dict[str, Any]:
    for name in path:
        tree = tree.get(name) if isinstance(tree, dict) else None
    return tree if isinstance(tree, dict) else {}


def _line_difference(before: Path, after: Path) -> str:
    """Return the first line that differs between two texts."""
    try:
        ours, theirs = (path.read_text(encoding="utf-8").splitlines() for path in (before, after))
    except UnicodeDecodeError:
        return "other bytes"
    return value_difference(ours, theirs) or "other line breaks"


def value_difference(before: Any, after: Any, key: str = "", may_grow: bool = False) -> str | None:
    """Return the first difference between two values: tensors, numbers, texts, and lists and dictionaries of them.

    Args:
        key: Key of the values, for the message.
        may_grow: Whether a dictionary may have more keys after.
    """
    if isinstance(before, dict) and isinstance(after, dict):
        return _first(_of_dictionaries(before, after, key, may_grow))
    if isinstance(before, list | tuple) and isinstance(after, list | tuple):
        return _first(_of_lists(before, after, key, may_grow))
    if isinstance(before, torch.Tensor) and isinstance(after, torch.Tensor):
        before, after = _packed(before), _packed(after)
    if isinstance(before, Packed) and isinstance(after, Packed):
        return before.difference(after, key)
    # As text, NaN equals itself, 0.0 differs from −0.0, and 1 from 1.0 and true.
    if type(before) is type(after) and repr(before) == repr(after):
        return None
    return f"{key}{': ' if key else ''}{_short(before)}, after {_short(after)}"


def _first(found: Iterator[str | None]) -> str | None:
    return next((one for one in found if one is not None), None)


def _of_dictionaries(before: Any, after: Any, key: str, may_grow: bool) -> Iterator[str | None]:
    for name in (*before, *(name for name in after if name not in before)):
        inner = f"{key}.{name}" if key else str(name)
        if isinstance(name, str) and TIMES.fullmatch(name) and (name in before) == (name in after):
            continue
        if name not in after:
            yield f"{inner}: not there after"
        elif name in before:
            yield value_difference(before[name], after[name], inner, may_grow)
        elif not may_grow:
            yield f"{inner}: not there before"


def _of_lists(before: Any, after: Any, key: str, may_grow: bool) -> Iterator[str | None]:
    for index, (one, other) in enumerate(zip(before, after, strict=False)):
        yield value_difference(one, other, f"{key}[{index}]", may_grow)
    if len(before) != len(after):
        yield f"{key}{': ' if key else ''}{len(before)} entries, after {len(after)}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:117]}..."


class Packed:
    """A tensor as type, shape and bytes."""

    def __init__(self, dtype: str, shape: tuple[int, ...], data: bytes) -> None:
        self.dtype, self.shape, self.data = dtype, shape, data

    def difference(self, other: Packed, key: str) -> str | None:
        """Return the first difference: type, shape, or an element, by its index in memory."""
        for what in ("dtype", "shape"):
            ours, theirs = getattr(self, what), getattr(other, what)
            if ours != theirs:
                return f"{key}: {what} {ours}, after {theirs}"
        if self.data == other.data:
            return None
        size = len(self.data) // max(1, self._elements)
        element = next(i for i, (a, b) in enumerate(zip(self.data, other.data, strict=True)) if a != b) // size
        differing = sum(
            self.data[i * size : (i + 1) * size] != other.data[i * size : (i + 1) * size] for i in range(self._elements)
        )
        return (
            f"{key}: {differing} of {self._elements} elements, first {element}: {self[element]}, after {other[element]}"
        )

    @property
    def _elements(self) -> int:
        found = 1
        for length in self.shape:
            found *= length
        return found

    def __getitem__(self, element: int) -> Any:
        size = len(self.data) // self._elements
        raw = self.data[element * size : (element + 1) * size]
        dtype = NUMBERS.get(self.dtype)
        return raw.hex() if dtype is None else torch.frombuffer(bytearray(raw), dtype=dtype).item()


NUMBERS = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
"""Data types by their names in safetensors files."""


def _packed(tensor: torch.Tensor) -> Packed:
    names = {dtype: name for name, dtype in NUMBERS.items()}
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return Packed(
        names.get(tensor.dtype, str(tensor.dtype)), tuple(tensor.shape), flat.view(torch.uint8).numpy().tobytes()
    )


def _read_safetensors(path: Path) -> dict[str, Any]:
    raw = path.read_bytes()
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    tensors = {
        name: Packed(entry["dtype"], tuple(entry["shape"]), bytes(entry["data"])) for name, entry in deserialize(raw)
    }
    return {"metadata": header.get("__metadata__"), **dict(sorted(tensors.items()))}


def _read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _read_manifest(path: Path) -> list[str]:
    """Return the files that a manifest names, without hashes: the files themselves are compared, apart from times."""
    return sorted(json.loads(path.read_text(encoding="utf-8"))["files"])


def _read_lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _read_yaml(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def _read_torch(path: Path) -> Any:
    return torch.load(path, map_location="cpu", weights_only=True)


def _read_parquet(path: Path) -> Any:
    return parquet.read_table(path).to_pydict()


def _read_masked(path: Path) -> list[str]:
    return masked(path.read_text(encoding="utf-8")).splitlines()


def masked(text: str) -> str:
    """Replace the times in a text."""
    for pattern, word in MASKED:
        text = pattern.sub(word, text)
    for table, cell, left in LAST_COLUMN:
        text = _inside(text, table, cell, left)
    return text


def _inside(text: str, around: re.Pattern[str], pattern: re.Pattern[str], word: str) -> str:
    """Replace a pattern within the matches of another one."""
    return around.sub(lambda found: pattern.sub(word, found[0]), text)


READERS: dict[str, Callable[[Path], Any]] = {
    "manifest.json": _read_manifest,
    ".safetensors": _read_safetensors,
    ".json": _read_json,
    ".jsonl": _read_lines,
    ".yaml": _read_yaml,
    ".ckpt": _read_torch,
    ".pt": _read_torch,
    ".parquet": _read_parquet,
    ".html": _read_masked,
    ".out": _read_masked,
}
"""Readers by file name or suffix; all other files are compared as bytes."""
