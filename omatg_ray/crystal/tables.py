"""Tables and JSON: rows with a CIF or a pymatgen structure among other columns, in the shapes that they come in."""

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
"""Where a row has its crystal, whichever case is used: the first of these that is there."""
LISTS = ("data", "structures", "entries", "results")
"""Where an object has its rows."""
DELIMITERS = ",\t;"


def csv_entries(where: str, text: str) -> Iterator[Entry]:
    """The rows of a table whose header has one of `COLUMNS`, separated by commas, semicolons or tabulators.

    Raises:
        DataError: There is no such column, or quotes do not match.
    """
    csv.field_size_limit(2**31 - 1)  # a cell of 500 atoms is longer than what the module allows
    header = text.partition("\n")[0]
    # the separator is the one that finds the column, since a CIF may hold any of them
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
            yield Entry(f"{where}, row {number}", partial(_read_record, record, column, str(number)))
    except csv.Error as error:
        raise DataError(f"line {records.line_num}: {error}") from error


def _reading(text: str, delimiter: str) -> csv.DictReader[str] | None:
    """The table with fields separated like this; None if it then has no column of crystals."""
    records = csv.DictReader(StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        return None if _column(records.fieldnames or []) is None else records
    except csv.Error:
        return None


def json_entries(where: str, text: str) -> Iterator[Entry]:
    """The structures of a JSON file: one or a list, bare or in objects with other columns, or as pandas writes them.

    Raises:
        DataError: It is no JSON, or holds no structures in a place that is known.
    """
    try:
        data = json.loads(text, object_pairs_hook=_distinct)
    except (ValueError, RecursionError) as error:
        raise DataError(f"it is no JSON that can be read: {error}") from error
    for name, row in _json_rows(data):
        yield Entry(f"{where}, row {name}", partial(_read_object, row, name))


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose names are all different.

    Raises:
        ValueError: A name stands there twice.
    """
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} stands there twice")
    return found


def json_lines_entries(where: str, text: str) -> Iterator[Entry]:
    """The structures of a file with a JSON object on each line."""
    lines = [line for line in text.splitlines() if line.strip()]
    for number, line in enumerate(lines, start=1):
        yield Entry(f"{where}, row {number}", partial(_read_line, line, str(number)))


def _json_rows(data: Any) -> Iterator[tuple[str, Any]]:
    """Name and content of every row, whichever way a file is laid out."""
    if isinstance(data, dict) and not _is_structure(data):
        if isinstance(data.get("columns"), list) and isinstance(data.get("data"), list):  # pandas, orient="split"
            data = [dict(zip(data["columns"], row, strict=False)) for row in data["data"]]
        elif (column := _column(data)) is not None and not _is_crystal(data[column]):  # pandas, orient="columns"
            data = _transposed(data, column)
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


def _transposed(data: dict[str, Any], column: str) -> Any:
    """Rows of an object of columns, each a list or an object by row."""
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


def _column(names: Any) -> str | None:
    by_lower_case = {str(name).strip().lower(): name for name in reversed(list(names))}
    return next((by_lower_case[name] for name in COLUMNS if name in by_lower_case), None)


# --- one row --------------------------------------------------------------------------------------------------------


def _read_record(record: dict[Any, Any], column: str, default: str) -> Row:
    """A row of a table, all of whose fields are texts."""
    if None in record or None in record.values():
        raise DataError("the number of its fields differs from the header's")
    others = {name.strip(): text for name, text in record.items() if name != column and name.strip()}
    properties = scalar_properties({name: as_scalar(text) for name, text in others.items()})
    # an id is a text, even where it reads as a number
    row = _read_crystal(record[column], identity(others, default))
    return replace(row, properties=properties)


def _read_line(line: str, default: str) -> Row:
    return _read_object(json.loads(line), default)


def _read_object(row: Any, default: str) -> Row:
    """A row of a JSON file: a structure, or an object that holds one."""
    if _is_structure(row):
        return _read_crystal(row, default)
    column = _column(row) if isinstance(row, dict) else None
    if column is None:
        raise DataError(
            "it is no pymatgen structure, and no object with a key 'structure' (or a like one) that holds one"
        )
    others = {name: value for name, value in row.items() if name != column}
    return replace(_read_crystal(row[column], identity(others, default)), properties=scalar_properties(others))


def _read_crystal(value: Any, ident: str) -> Row:
    """A crystal from a CIF or from what pymatgen writes, as a text or as an object."""
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
    """A pymatgen structure in a text: JSON, or Python's spelling of it, which pandas leaves in tables."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return ast.literal_eval(text)
