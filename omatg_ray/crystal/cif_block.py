"""Data blocks of a CIF as columns of text; gemmi parses the syntax.

Source: the CIF 1.1 syntax and the names of the IUCr dictionaries.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

import gemmi

from omatg_ray.crystal.dataset import Scalar, scalar_properties
from omatg_ray.errors import DataError

PROPERTY_PREFIX = "_omatg_ray_"
SITES = {"_atom_site_label", "_atom_site_type_symbol", "_atom_site_fract_x", "_atom_site_cartn_x"}
# Items that define a crystal; only others may appear in a block more than once.
ESSENTIAL = re.compile(r"_(cell_(length|angle)|atom_site_(label|type|fract|occup)|symmetry_|space_group)")


@dataclass(frozen=True)
class Block:
    """A data block.

    Attributes:
        name: Its name.
        columns: Texts by name. Names are in lower case, with underscores for the dots of newer dictionaries.
        properties: Properties that `write_structures` stored.
        twice: Names of items that define a crystal and appear again with other values.
    """

    name: str
    columns: dict[str, list[str]]
    properties: dict[str, Scalar]
    twice: list[str]

    def column(self, *names: str) -> list[str]:
        """Return the first of these columns with a known value, else an empty list."""
        for name in names:
            values = self.columns.get(name, [])
            if any(value_or_none(value) is not None for value in values):
                return values
        return []

    def text(self, *names: str) -> str | None:
        """Return the first of these items that is known, else None."""
        values = (value_or_none(self.columns[name][0]) for name in names if self.columns.get(name))
        return next((value for value in values if value is not None), None)

    def number(self, name: str) -> float | None:
        """Return an item as a number, or None if it is unknown.

        Raises:
            DataError: It is not a number.
        """
        text = self.text(name)
        return None if text is None else number(text, name)


def read_blocks(text: str) -> list[Block]:
    """Return the data blocks of a CIF that describe a crystal.

    Raises:
        DataError: The text is not a CIF; gemmi's message names the line.
    """
    try:
        document = gemmi.cif.read_string(text.replace("\r\n", "\n").replace("\r", "\n"), 0)
    except (RuntimeError, ValueError) as error:
        raise DataError(f"it is not a valid CIF: {re.sub(r'^string:', 'line ', str(error))}") from error
    blocks = [_block(block) for block in document]
    with_atoms = [block for block in blocks if not SITES.isdisjoint(block.columns)]
    return with_atoms or [block for block in blocks if "_cell_length_a" in block.columns]


def value_or_none(value: str) -> str | None:
    """Return a value without quotes, or None for '?', '.' and empty text."""
    return None if gemmi.cif.is_null(value) else gemmi.cif.as_string(value).strip() or None


def number(text: str, what: str) -> float:
    """Parse a finite number, perhaps with an uncertainty ('0.2203(6)') or as a fraction ('1/3').

    Raises:
        DataError: The text is not a number; the message says what it should have been.
    """
    fraction = re.fullmatch(r"([+-]?\d+)\s*/\s*([1-9]\d*)", text)
    value = int(fraction[1]) / int(fraction[2]) if fraction else gemmi.cif.as_number(text)
    if not math.isfinite(value):
        raise DataError(f"{what} is not a number: {text!r}")
    return value


def as_scalar(text: str) -> Scalar:
    """Convert a text to an integer or float if it is written as one."""
    if re.fullmatch(r"\s*[+-]?\d+\s*", text, flags=re.ASCII):
        return int(text)
    try:
        return float(text) if "_" not in text else text
    except ValueError:
        return text


def _block(block: Any) -> Block:
    columns: dict[str, list[str]] = {}
    properties: dict[str, Any] = {}
    twice: list[str] = []

    def add(tag: str, values: list[str]) -> None:
        name = tag.lower().replace(".", "_")
        if columns.setdefault(name, values) != values and ESSENTIAL.match(name):
            twice.append(tag)

    for item in block:
        if item.pair is not None:
            tag, value = item.pair
            add(tag, [value])
            if tag.lower().startswith(PROPERTY_PREFIX) and (text := value_or_none(value)) is not None:
                properties[tag[len(PROPERTY_PREFIX) :]] = as_scalar(text)
        elif item.loop is not None:
            width = item.loop.width()
            for index, tag in enumerate(item.loop.tags):
                add(tag, item.loop.values[index::width])
    return Block(block.name or "unnamed", columns, scalar_properties(properties), twice)
