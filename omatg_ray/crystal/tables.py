"""Tables and JSON files whose rows hold a CIF or a pymatgen structure among other columns."""

from __future__ import annotations

import ast
import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from io import StringIO
from typing import Any

from omatg_ray.crystal.cif import row_of_block
from omatg_ray.crystal.cif_block import as_scalar, read_blocks
from omatg_ray.crystal.dataset import scalar_properties
from omatg_ray.crystal.row import Entry, Row, identity, row_of_structure
from omatg_ray.errors import DataError

COLUMNS = ("cif", "structure", "cif.conv", "cif_conv", "initial_structure", "final_structure")
"""Columns that hold the crystal of a row, in any case; the first one present counts."""
LISTS = ("data", "structures", "entries", "results")
"""Keys under which an object holds its rows."""
DELIMITERS = ",\t;"


def csv_entries(where: str, text: str) -> Iterator[Entry]:
    """Yield the rows of a table whose header has one of `COLUMNS`, separated by commas, semicolons or tabs.

    Raises:
        DataError: There is no such column or several, or quotes do not match.
    """
    csv.field_size_limit(2**31 - 1)  # a cell of 500 atoms exceeds the default of the module
    header = text.partition("\n")[0]
    # The separator is the one that yields the column: a CIF may contain any of them.
    readings = (_reading(text, delimiter) for delimiter in DELIMITERS)
    records = next(filter(None, readings), None)
    if records is None:
        names = ", ".join(repr(name) for name in next(csv.reader([header]), [])) or "missing"
        raise DataError(f"it has no column 'cif' (or {', '.join(COLUMNS[1:])}); its columns are {names}")
    column = _column(records.fieldnames or [])
    assert column is not None
    if list(records.fieldnames or []).count(column) > 1:
        raise DataError(f"it has several columns {column!r}; leave one")
    try:
        for number, record in enumerate(records, start=1):
            yield Entry(f"{where}, row {number}", partial(_read_record, record, column), str(number))
    except csv.Error as error:
        raise DataError(f"line {records.line_num}: {error}") from error


def _reading(text: str, delimiter: str) -> csv.DictReader[str] | None:
    """Return the table with fields separated by `delimiter`, or None if it then has no column of crystals."""
    records = csv.DictReader(StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        return None if _column(records.fieldnames or []) is None else records
    except csv.Error:
        return None


def holds_crystals_in_column(text: str) -> bool:
    """Return whether a table has a column of crystals."""
    return any(_reading(text, delimiter) is not None for delimiter in DELIMITERS)


def holds_crystals_in_json(text: str) -> bool:
    """Return whether a JSON file has anything that looks like a crystal; also if it is damaged."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        return True
    try:
        return any(map(_names_crystal, (row for _, row in _json_rows(data))))
    except (DataError, TypeError):
        return False


def holds_crystals_in_lines(text: str) -> bool:
    """Return whether the first line of a file of JSON objects looks like a crystal; also if it is damaged."""
    line = next(filter(str.strip, text.splitlines()), "")
    try:
        return _names_crystal(json.loads(line))
    except ValueError:
        return True


def json_entries(where: str, text: str) -> Iterator[Entry]:
    """Yield the structures of a JSON file: one or a list, bare or in objects with other columns, or in pandas' layouts.

    Raises:
        DataError: The text is not JSON, or holds no structures under a known key.
    """
    try:
        data = json.loads(text, object_pairs_hook=_require_distinct)
    except (ValueError, RecursionError) as error:
        raise DataError(f"it is not readable JSON: {error}") from error
    for name, row in _json_rows(data):
        yield Entry(f"{where}, row {name}", partial(_read_object, row), name)


def _require_distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object whose names are all different.

    Raises:
        ValueError: A name appears twice.
    """
    by_name = dict(pairs)
    if len(by_name) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} appears twice")
    return by_name


def json_lines_entries(where: str, text: str) -> Iterator[Entry]:
    """Yield the structures of a file with one JSON object per line."""
    lines = [line for line in text.splitlines() if line.strip()]
    for number, line in enumerate(lines, start=1):
        yield Entry(f"{where}, row {number}", partial(_read_line, line), str(number))


def _json_rows(data: Any) -> Iterator[tuple[str, Any]]:
    """Yield name and content of every row, in any known layout."""
    if isinstance(data, dict) and not _is_structure(data):
        if isinstance(data.get("columns"), list) and isinstance(data.get("data"), list):  # pandas, orient="split"
            data = [dict(zip(data["columns"], row, strict=False)) for row in data["data"]]
        elif (column := _column(data)) is not None and not _is_crystal(data[column]):  # pandas, orient="columns"
            data = _transpose(data, column)
        elif column is None and (keys := [key for key in LISTS if isinstance(data.get(key), list)]):
            if len(keys) > 1:
                raise DataError(f"it has lists under {' and '.join(keys)}; keep the one that holds the crystals")
            data = data[keys[0]]
    if isinstance(data, list):
        yield from ((str(number), row) for number, row in enumerate(data, start=1))
    elif isinstance(data, dict) and (_is_structure(data) or _column(data) is not None):
        yield "1", data
    elif isinstance(data, dict) and data and all(isinstance(row, dict) for row in data.values()):  # by name
        yield from data.items()
    else:
        raise DataError(
            f"it must hold a list of objects with a key 'structure' ({', '.join(COLUMNS)}), pymatgen structures, or "
            "objects by name"
        )


def _transpose(data: dict[str, Any], column: str) -> Any:
    """Return the rows of an object of columns, each a list or an object by row."""
    cells = data[column]
    if isinstance(cells, list):
        return [
            {name: values[i] for name, values in data.items() if isinstance(values, list) and i < len(values)}
            for i in range(len(cells))
        ]
    if isinstance(cells, dict):
        return {
            row: {name: values[row] for name, values in data.items() if isinstance(values, dict) and row in values}
            for row in cells
        }
    raise DataError(f"its {column!r} holds no structures")


def _is_structure(value: Any) -> bool:
    return isinstance(value, dict) and "lattice" in value and "sites" in value


def _is_crystal(value: Any) -> bool:
    return isinstance(value, str) or _is_structure(value)


def _names_crystal(row: Any) -> bool:
    """Return whether a row is a structure, or an object that holds one."""
    if not isinstance(row, dict) or _is_structure(row):
        return isinstance(row, dict)
    column = _column(row)
    return column is not None and _is_crystal(row[column])


def _column(names: Any) -> str | None:
    by_lower_case = {str(name).strip().lower(): name for name in reversed(list(names))}
    return next((by_lower_case[name] for name in COLUMNS if name in by_lower_case), None)


# --- one row --------------------------------------------------------------------------------------------------------


def _read_record(record: dict[Any, Any], column: str, default: str) -> Row:
    """Read a row of a table, all of whose fields are texts."""
    if None in record or None in record.values():
        raise DataError("the number of its fields differs from the header's")
    others = {name.strip(): text for name, text in record.items() if name != column and name.strip()}
    properties = scalar_properties({name: as_scalar(text) for name, text in others.items()})
    # An id is text, even if it reads as a number.
    row = _read_crystal(record[column], identity(others, default))
    return replace(row, properties=properties)


def _read_line(line: str, default: str) -> Row:
    return _read_object(json.loads(line), default)


def _read_object(row: Any, default: str) -> Row:
    """Read a row of a JSON file: a structure, or an object that holds one."""
    if _is_structure(row):
        return _read_crystal(row, default)
    column = _column(row) if isinstance(row, dict) else None
    if column is None:
        raise DataError(
            "it is neither a pymatgen structure nor an object with a key 'structure' (or similar) that holds one"
        )
    others = {name: value for name, value in row.items() if name != column}
    return replace(_read_crystal(row[column], identity(others, default)), properties=scalar_properties(others))


def _read_crystal(value: Any, ident: str) -> Row:
    """Read a crystal from a CIF or a pymatgen structure, as text or as an object."""
    from pymatgen.core import Structure

    if isinstance(value, str) and value.lstrip()[:1] == "{":
        value = _parse_object(value)
    if isinstance(value, str):
        blocks = read_blocks(value.replace("\\n", "\n") if "\n" not in value.strip() else value)
        if len(blocks) != 1:
            raise DataError(f"its cif holds {len(blocks)} crystals instead of one")
        return row_of_block(blocks[0], ident)
    if not isinstance(value, Mapping):
        raise DataError("its structure is neither a CIF nor a pymatgen structure")
    return row_of_structure(Structure.from_dict(dict(value)), ident, {})


def _parse_object(text: str) -> Any:
    """Parse a pymatgen structure in a text: JSON, or its Python form, which pandas leaves in tables."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return ast.literal_eval(text)
