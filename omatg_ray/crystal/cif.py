"""Crystals from CIF: gemmi reads the syntax, this module what it means, and refuses what it would have to guess.

Sources: the IUCr core dictionary (names, defaults of '.', meaning of each item), and files as programs and databases
write them. A crystal is made only if its sites, its symmetry and what the file says of its composition agree.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass
from itertools import count
from typing import Any, NamedTuple

import gemmi
import numpy as np
import torch
from numpy.typing import NDArray

from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.crystal.dataset import Scalar, scalar_properties
from omatg_ray.crystal.row import Row
from omatg_ray.crystal.symmetry import (
    IDENTITY,
    SAME_ATOM,
    SAME_IMAGE,
    Operations,
    distances,
    group_number,
    named_groups,
    parse_operations,
    point_group_order,
)
from omatg_ray.crystal.validity import MIN_DISTANCE, shortest_distances
from omatg_ray.errors import DataError

FloatArray = NDArray[np.float64]

PROPERTY_PREFIX = "_omatg_ray_"
FULL_OCCUPANCY = 0.005
"""How far an occupancy may be from 1 and the site still be full."""
FORMULA_TOLERANCE = 0.02
"""Relative rounding of the amounts in formulas."""

HYDROGEN = 1
SYMBOLS = ("_space_group_name_h-m_alt", "_symmetry_space_group_name_h-m", "_space_group_name_h-m_full",
           "_symmetry_space_group_name_h-m_full", "_space_group_name_h-m_ref", "_space_group_name_h-m",
           "_symmetry_space_group_name_h-m_alt")  # fmt: skip
HALLS = ("_space_group_name_hall", "_symmetry_space_group_name_hall")
NUMBERS = ("_space_group_it_number", "_symmetry_int_tables_number", "_space_group_it_num")
OPERATIONS = ("_space_group_symop_operation_xyz", "_symmetry_equiv_pos_as_xyz", "_space_group_symop_operation.xyz")
MAGNETIC_OPERATIONS = ("_space_group_symop_magn_operation_xyz", "_space_group_symop.magn_operation_xyz")
MAGNETIC_CENTRINGS = ("_space_group_symop_magn_centering_xyz", "_space_group_symop.magn_centering_xyz")
MULTIPLICITIES = ("_atom_site_symmetry_multiplicity", "_atom_site_site_symmetry_multiplicity",
                  "_atom_site_site_symmetry_order")  # fmt: skip

# 'Na', 'Na1+', 'O-2', 'Fe3', 'Zn(2+)', 'Sival': an element, then a charge, a number or 'val' of scattering tables.
TYPE_SYMBOL = re.compile(r"([A-Za-z]{1,2}?)(?:val)?[^A-Za-z]*")


class Site(NamedTuple):
    """An atom of the asymmetric unit: its label, atomic number, fractional position (3,), and multiplicity if given."""

    label: str
    z: int
    frac: FloatArray
    multiplicity: int | None


@dataclass(frozen=True)
class Block:
    """A data block.

    Attributes:
        name: Its name.
        columns: Texts by name; names are in lower case, with underscores for the dots of newer dictionaries.
        properties: What `write_structures` left there.
    """

    name: str
    columns: dict[str, list[str]]
    properties: dict[str, Scalar]

    def column(self, *names: str) -> list[str]:
        """The first of these columns that is there and says anything, else an empty list."""
        for name in names:
            values = self.columns.get(name.replace(".", "_"), [])
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
    with_atoms = [block for block in blocks if any(name.startswith("_atom_site_") for name in block.columns)]
    return with_atoms or [block for block in blocks if "_cell_length_a" in block.columns]


def row_of_block(block: Block, ident: str) -> Row:
    """The crystal of a data block, in standard orientation, with the properties that `write_structures` left there.

    Where a file names a space group but lists no operations, every setting that the name may mean is tried, and what
    the file says of the composition decides.

    Raises:
        DataError: Something is missing, disordered or not understood, or parts of the file contradict each other.
    """
    cell = _cell(block)
    formula = parse_formula_sum(block.text("_chemical_formula_sum", "_chemical_formula_iupac"))
    sites = _sites(block, formula)
    z = block.number("_cell_formula_units_z")
    candidates, reasons = [], []
    for group in _groups(block, sites, cell):
        try:
            orbits = _orbits(sites, group, cell)
            doubt = _compare(sites, orbits, group, formula, z)
            numbers = [site.z for site, orbit in zip(sites, orbits, strict=True) for _ in orbit]
            candidates.append((numbers, np.concatenate(orbits), doubt, group))
        except DataError as error:
            reasons.append(str(error))
    candidates = [found for found in candidates if found[2] is None] or candidates
    if len(candidates) > 1:
        apart = [found for found in candidates if _shortest(found[0], found[1], cell) >= MIN_DISTANCE]
        candidates = apart or candidates
    if not candidates:
        raise DataError("; or ".join(dict.fromkeys(reasons)))
    if len(candidates) > 1:
        names = ", ".join(group.name or "the identity alone" for *_, group in candidates)
        raise DataError(
            f"its space group leaves open how many atoms it has and where ({names}): list the symmetry operations"
        )
    numbers, frac, doubt, _ = candidates[0]
    return Row(ident, numbers, cell, frac, block.properties, doubt)


# --- syntax ---------------------------------------------------------------------------------------------------------


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
    for item in block:
        if item.pair is not None:
            tag, value = item.pair
            columns.setdefault(_plain(tag), [value])
            if tag.lower().startswith(PROPERTY_PREFIX) and (text := known(value)) is not None:
                properties[tag[len(PROPERTY_PREFIX) :]] = as_scalar(text)
        elif item.loop is not None:
            width = item.loop.width()
            for index, tag in enumerate(item.loop.tags):
                columns.setdefault(_plain(tag), item.loop.values[index::width])
    return Block(block.name or "unnamed", columns, scalar_properties(properties))


def _plain(tag: str) -> str:
    return tag.lower().replace(".", "_")


def _cell(block: Block) -> FloatArray:
    values = []
    for name in ("_cell_length_a", "_cell_length_b", "_cell_length_c",
                 "_cell_angle_alpha", "_cell_angle_beta", "_cell_angle_gamma"):  # fmt: skip
        value = block.number(name)
        if value is None:
            raise DataError(f"its {name} is unknown or missing")
        values.append(value)
    lengths, cosines = values[:3], np.cos(np.radians(values[3:]))
    if min(lengths) <= 0 or 1 + 2 * cosines.prod() - (cosines**2).sum() <= 0:
        raise DataError(f"its cell of lengths {lengths} and angles {values[3:]} spans no volume")
    # gemmi has a along x and b in the xy plane too
    return np.array(gemmi.UnitCell(*values).orth.mat.tolist()).T


# --- sites ----------------------------------------------------------------------------------------------------------


def _sites(block: Block, formula: dict[int, float]) -> list[Site]:
    axes = [block.columns.get(f"_atom_site_fract_{axis}") for axis in "xyz"]
    labels = block.columns.get("_atom_site_label")
    types = block.columns.get("_atom_site_type_symbol")
    names = labels or types
    if not names or not all(axes):
        if block.columns.get("_atom_site_cartn_x"):
            raise DataError("its sites have Cartesian coordinates; only fractional ones (_atom_site_fract_x) are read")
        raise DataError("it has no atoms: _atom_site_label or _atom_site_fract_x is unknown or missing")
    occupancies = block.columns.get("_atom_site_occupancy")
    hydrogens = block.columns.get("_atom_site_attached_hydrogens")
    groups = {value for value in block.columns.get("_atom_site_disorder_group", []) if known(value) not in (None, "0")}
    # those of magnetic structures count in another cell
    multiplicities = None if block.column(*MAGNETIC_OPERATIONS) else block.column(*MULTIPLICITIES)
    sites = []
    for index, name in enumerate(names):
        label = known(name) or "unnamed"
        where = f"site {index + 1} ({label})"
        type_symbol = None if types is None else known(types[index])
        element = _element(type_symbol, None if labels is None else known(name), formula)
        if element is None:
            what = f"type symbol {type_symbol!r}" if type_symbol else f"label {label!r}"
            raise DataError(f"{where} gives no atom: its {what} names no chemical element")
        frac = np.zeros(3)
        for axis, column in enumerate(axes):
            text = known(column[index]) if column else None
            if text is None:
                raise DataError(f"{where} has no coordinate {'xyz'[axis]}")
            frac[axis] = number(text, f"the coordinate {'xyz'[axis]} of {where}")
        text = known(occupancies[index]) if occupancies else None
        occupancy = 1.0 if text is None else number(text, f"the occupancy of {where}")
        if abs(occupancy - 1) > FULL_OCCUPANCY:
            raise DataError(f"{where} is disordered (occupancy {occupancy:g}); only fully occupied sites can be used")
        text = known(hydrogens[index]) if hydrogens else None
        if text is not None and number(text, f"the attached hydrogens of {where}") != 0:
            raise DataError(f"{where} has {text} attached hydrogens without positions: the crystal is not complete")
        text = known(multiplicities[index]) if multiplicities else None
        multiplicity = int(text) if text is not None and text.isdecimal() else None
        sites.append(Site(label, element, frac, multiplicity))
    if len(groups) > 1 or any(value.startswith("-") for value in groups):
        raise DataError(
            f"it has alternatives of disorder (_atom_site_disorder_group {', '.join(sorted(groups))}) that all count "
            "as fully occupied; keep one of them"
        )
    return sites


def _element(type_symbol: str | None, label: str | None, formula: dict[int, float]) -> int | None:
    """Atomic number of a site; None where nothing says it for certain. D and T are hydrogen.

    A label without a type symbol may start with an element ('Na1', 'O12A'), stand for a group ('OH', 'Wat'), for a
    kind of site ('T1', 'M2') or for an element and its place ('CO1' is a carbon on oxygen, or cobalt). The formula
    decides; without one, only a label that is an element apart from what follows its letters is taken.
    """
    if type_symbol is not None:
        match = TYPE_SYMBOL.fullmatch(type_symbol)
        found = _atomic_number(match[1], formula) if match else None
        # 'CO' may be cobalt, or carbon and oxygen, 'Co' is cobalt
        ambiguous = match is not None and match[1] != match[1].capitalize() and bool(formula) and found not in formula
        return None if ambiguous else found
    letters = re.match(r"[A-Za-z]*", label or "")
    assert letters is not None
    text = letters[0]
    pair, single = _atomic_number(text[:2], formula) if len(text) > 1 else None, _atomic_number(text[:1], formula)
    if not formula:
        exact = {text[:2].capitalize(): pair, text[:1].upper(): single}
        return exact.get(text)
    pair, single = (z if z in formula else None for z in (pair, single))
    if pair is not None and single is not None and text[:2] != text[:2].capitalize():
        return None
    return pair if pair is not None else single


def _atomic_number(symbol: str, formula: dict[int, float]) -> int | None:
    symbol = symbol.capitalize()
    if symbol == "D" or (symbol == "T" and HYDROGEN in formula):
        return HYDROGEN
    return gemmi.Element(symbol).atomic_number or None


# --- symmetry -------------------------------------------------------------------------------------------------------


def _groups(block: Block, sites: list[Site], cell: FloatArray) -> list[Operations]:
    """The groups of operations that the sites may be repeated by; more than one where the file leaves that open."""
    magnetic = block.column(*MAGNETIC_OPERATIONS)
    if magnetic:
        return [_fitting(_magnetic(magnetic, block.column(*MAGNETIC_CENTRINGS)), cell)]
    texts = [text for text in map(known, block.column(*OPERATIONS)) if text is not None]
    listed = parse_operations(tuple(texts)) if texts else None
    symbols = [text for name in SYMBOLS if (text := block.text(name)) is not None]
    number_text = block.text(*NUMBERS)
    group = int(number(number_text, "its space group number")) if number_text is not None else None
    if listed is not None and len(listed) > 1:
        _fitting(listed, cell)
        declared = group_number(symbols, group)
        order = len({tuple(rotation.ravel()) for rotation in listed.rotations})
        if declared is not None and order != point_group_order(declared):
            raise DataError(
                f"it lists {order} symmetry operations apart from translations, and its space group "
                f"({(symbols or [f'number {group}'])[0]}) has {point_group_order(declared)}"
            )
        return [listed]
    if group_number(symbols, group) == 1:
        return [IDENTITY]
    named = named_groups(symbols, block.text(*HALLS), group, cell)
    named = [IDENTITY if _closed(sites, setting, cell) else setting for setting in named]
    if not named or (listed is not None and IDENTITY not in named):
        named.append(IDENTITY)
    return [setting for setting, first in zip(named, map(named.index, named), strict=True) if named[first] is setting]


def _fitting(group: Operations, cell: FloatArray) -> Operations:
    if not group.fit(cell):
        raise DataError("its symmetry operations do not fit its cell: they would change lengths or angles")
    return group


def _magnetic(operations: list[str], centrings: list[str]) -> Operations:
    """The operations of a magnetic group on positions: time reversal, the fourth entry, does not move atoms."""

    def spatial(texts: list[str]) -> list[gemmi.Op]:
        return [gemmi.Op(",".join((known(text) or "").split(",")[:3])) for text in texts]

    try:
        products = [shift * op for shift in spatial(centrings or ["x,y,z"]) for op in spatial(operations)]
    except (RuntimeError, ValueError) as error:
        raise DataError(f"its magnetic symmetry operations cannot be read: {error}") from error
    return parse_operations(tuple(op.triplet() for op in products))


def _closed(sites: list[Site], group: Operations, cell: FloatArray) -> bool:
    """Whether a group only exchanges the sites: the whole cell is listed, not its asymmetric unit."""
    frac = np.stack([site.frac for site in sites])
    elements = np.array([site.z for site in sites])
    for site in sites:
        images = group.rotations @ site.frac + group.translations
        if (distances(images[:, None], frac[elements == site.z], cell).min(1) > SAME_ATOM).any():
            return False
    return True


def _orbits(sites: list[Site], group: Operations, cell: FloatArray) -> list[FloatArray]:
    """The atoms (n, 3) of every site; none of one that symmetry makes of an earlier site of its element already."""
    if group is IDENTITY:
        return [site.frac[None] for site in sites]
    orbits: list[FloatArray] = []
    for index, site in zip(count(1), sites):
        try:
            orbit = group.orbit(site.frac, cell)
        except DataError as error:
            raise DataError(f"site {index} ({site.label}): {error}") from error
        before = [frac for earlier, frac in zip(sites, orbits, strict=False) if earlier.z == site.z]
        again = any((distances(frac, orbit[0], cell) < SAME_IMAGE).any() for frac in before)
        orbits.append(orbit[:0] if again else orbit)
    return orbits


def _shortest(numbers: list[int], frac: FloatArray, cell: FloatArray) -> float:
    crystal = CrystalBatch(
        torch.tensor(numbers), torch.from_numpy(frac), torch.from_numpy(cell)[None], torch.tensor([len(numbers)])
    )
    return float(shortest_distances(crystal))


# --- composition ----------------------------------------------------------------------------------------------------


def parse_formula_sum(text: str | None) -> dict[int, float]:
    """Amounts by atomic number from 'C2 H6 O', 'SI1 O2' or 'TiO2'; D and T count as hydrogen.

    Empty if it cannot be read.
    """
    words = (text or "").split()
    spellings = [words]  # an element each, as the dictionary wants it, perhaps in upper case; or all in one
    if len(words) > 1:
        spellings.append([word.capitalize() for word in words])
    spellings.append([symbol + amount for symbol, amount in re.findall(r"([A-Z][a-z]?)([\d.]*)", text or "")])
    for spelling in spellings:
        terms = [re.fullmatch(r"([A-Z][a-z]?)(\d*\.?\d*)", word) for word in spelling]
        amounts: dict[int, float] = {}
        for term in filter(None, terms):
            z = HYDROGEN if term[1] in ("D", "T") else gemmi.Element(term[1]).atomic_number
            amounts[z] = amounts.get(z, 0.0) + (float(term[2]) if term[2] not in ("", ".") else 1.0)
        if terms and all(terms) and 0 not in amounts and "".join(spelling).lower() == "".join(words).lower():
            return {z: amount for z, amount in amounts.items() if amount > 0}
    return {}


def _compare(
    sites: list[Site], orbits: list[FloatArray], group: Operations, formula: dict[int, float], z: float | None
) -> str | None:
    """What the file says of its composition, beside its atoms.

    Returns:
        Why the crystal may not be what the formula says, where that may be right: parts of it (solvents) are left out.

    Raises:
        DataError: They contradict each other.
    """
    _compare_multiplicities(sites, orbits, group)
    counts: Counter[int] = Counter()
    for site, orbit in zip(sites, orbits, strict=True):
        counts[site.z] += len(orbit)
    if not formula:
        return None
    atoms, whole = _spell(counts), _spell(formula)
    if HYDROGEN in formula and HYDROGEN not in counts:
        raise DataError(f"the formula {whole} has hydrogen, and no site holds it: the crystal is not complete")
    if not counts.keys() <= formula.keys():
        return f"{atoms} in the cell is not its formula {whole}"
    units = {element: counts[element] / amount for element, amount in formula.items()}
    low, high = min(units.values()), max(units.values())
    times = f" times {z:g} (formula units in the cell)" if z is not None else ""
    if high <= low * (1 + FORMULA_TOLERANCE):
        # pymatgen writes the formula of the whole cell, and beside it how many units that is
        whole_cell = z is None or all(abs(n / z - round(n / z)) <= FORMULA_TOLERANCE for n in formula.values())
        expected = [1.0] * whole_cell + [float(round(low)) if z is None else z]
        if not any(abs(low - number) <= FORMULA_TOLERANCE * number for number in expected):
            if z is not None and abs(low - z * group.centrings) <= FORMULA_TOLERANCE * low:
                return (
                    f"its number of formula units ({z:g}) is that of a primitive cell, and it has {atoms} in this one"
                )
            raise DataError(f"it has {atoms} in the cell, and its formula {whole}{times} says otherwise")
        return None
    if z is not None and high > max(z, 1.0) * (1 + FORMULA_TOLERANCE):
        raise DataError(f"it has {atoms} in the cell, more than its formula {whole}{times}")
    return f"{atoms} in the cell is not its formula {whole}{times}"


def _compare_multiplicities(sites: list[Site], orbits: list[FloatArray], group: Operations) -> None:
    """Multiplicities count the atoms of a site in the cell, or (SHELX) the operations that keep the site in place."""
    given = [
        (index, site, len(orbit))
        for index, site, orbit in zip(count(1), sites, orbits)
        if site.multiplicity is not None and len(orbit)
    ]
    if all(site.multiplicity == atoms for _, site, atoms in given):
        return
    if all(site.multiplicity == len(group) // atoms for _, site, atoms in given):
        return
    index, site, atoms = next(found for found in given if found[1].multiplicity != found[2])
    raise DataError(f"site {index} ({site.label}) gives {atoms} atoms, and its multiplicity is {site.multiplicity}")


def _spell(amounts: dict[int, float] | Counter[int]) -> str:
    return " ".join(f"{_symbol(z)}{amount:g}" for z, amount in sorted(amounts.items()) if amount)


def _symbol(z: int) -> str:
    return str(gemmi.Element(z).name)
