"""The data blocks of a CIF as columns of texts; gemmi reads the syntax.

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
# What makes a crystal; other items may stand in a block more than once.
ESSENTIAL = re.compile(r"_(cell_(length|angle)|atom_site_(label|type|fract|occup)|symmetry_|space_group)")


@dataclass(frozen=True)
class Block:
    """A data block.

    Attributes:
        name: Its name.
        columns: Texts by name; names are in lower case, with underscores for the dots of newer dictionaries.
        properties: What `write_structures` left there.
        twice: Names of what makes a crystal that stand there again with other values.
    """

    name: str
    columns: dict[str, list[str]]
    properties: dict[str, Scalar]
    twice: list[str]

    def column(self, *names: str) -> list[str]:
        """The first of these columns that is there and says anything, else an empty list."""
        for name in names:
            values = self.columns.get(name, [])
            if any(known(value) is not None for value in values):
                return values
        return []

    def text(self, *names: str) -> str | None:
        """The first of these items that is known."""
        values = (known(self.columns[name][0]) for name in names if self.columns.get(name))
        return next((value for value in values if value is not None), None)

    def number(self, name: str) -> float | None:
        """An item as a number; None where it is unknown.

        Raises:
            DataError: It is something else.
        """
        text = self.text(name)
        return None if text is None else number(text, name)


def read_blocks(text: str) -> list[Block]:
    """The data blocks of a CIF that describe a crystal.

    Raises:
        DataError: The text is no CIF; gemmi's message names the line.
    """
    try:
        document = gemmi.cif.read_string(text.replace("\r\n", "\n").replace("\r", "\n"), 0)
    except (RuntimeError, ValueError) as error:
        raise DataError(f"it is no valid CIF: {re.sub(r'^string:', 'line ', str(error))}") from error
    blocks = [_block(block) for block in document]
    with_atoms = [block for block in blocks if not SITES.isdisjoint(block.columns)]
    return with_atoms or [block for block in blocks if "_cell_length_a" in block.columns]


def known(value: str) -> str | None:
    """A value without quotes; None for '?', '.' and empty texts."""
    return None if gemmi.cif.is_null(value) else gemmi.cif.as_string(value).strip() or None


def number(text: str, what: str) -> float:
    """A finite number, perhaps with an uncertainty ('0.2203(6)') or as a fraction ('1/3').

    Raises:
        DataError: It is something else; says what it should have been.
    """
    fraction = re.fullmatch(r"([+-]?\d+)\s*/\s*([1-9]\d*)", text)
    value = int(fraction[1]) / int(fraction[2]) if fraction else gemmi.cif.as_number(text)
    if not math.isfinite(value):
        raise DataError(f"{what} is no number: {text!r}")
    return value


def as_scalar(text: str) -> Scalar:
    """A text as integer or float where it is written as one."""
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
            if tag.lower().startswith(PROPERTY_PREFIX) and (text := known(value)) is not None:
                properties[tag[len(PROPERTY_PREFIX) :]] = as_scalar(text)
        elif item.loop is not None:
            width = item.loop.width()
            for index, tag in enumerate(item.loop.tags):
                add(tag, item.loop.values[index::width])
    return Block(block.name or "unnamed", columns, scalar_properties(properties), twice)
