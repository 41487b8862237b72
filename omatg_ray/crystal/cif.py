"""Crystals from CIF: gemmi reads the syntax, this module what it means, and refuses what it would have to guess.

Sources: the IUCr core dictionary (names, defaults of '.', meaning of each item), and files as programs and databases
write them. A crystal is made only if its sites, its symmetry and what the file says of its composition agree.
"""

from __future__ import annotations

import re
from itertools import count

import gemmi
import numpy as np
import torch
from numpy.typing import NDArray

from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.crystal.cif_block import Block, known, number
from omatg_ray.crystal.composition import HYDROGEN, Site, compare_composition, parse_formula_sum
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

FULL_OCCUPANCY = 0.005
"""How far an occupancy may be from 1 and the site still be full."""

SYMBOLS = ("_space_group_name_h-m_alt", "_symmetry_space_group_name_h-m", "_space_group_name_h-m_full",
           "_symmetry_space_group_name_h-m_full", "_space_group_name_h-m_ref", "_space_group_name_h-m",
           "_symmetry_space_group_name_h-m_alt")  # fmt: skip
HALLS = ("_space_group_name_hall", "_symmetry_space_group_name_hall")
NUMBERS = ("_space_group_it_number", "_symmetry_int_tables_number", "_space_group_it_num")
OPERATIONS = ("_space_group_symop_operation_xyz", "_symmetry_equiv_pos_as_xyz")
MAGNETIC_OPERATIONS = "_space_group_symop_magn_operation_xyz"
MAGNETIC_CENTRINGS = "_space_group_symop_magn_centering_xyz"
MULTIPLICITIES = ("_atom_site_symmetry_multiplicity", "_atom_site_site_symmetry_multiplicity",
                  "_atom_site_site_symmetry_order")  # fmt: skip

# 'Na', 'Na1+', 'O-2', 'Fe3', 'Zn(2+)', 'Sival': an element, then a charge, a number or 'val' of scattering tables.
TYPE_SYMBOL = re.compile(r"([A-Za-z]{1,2}?)(?:val)?[^A-Za-z]*")


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
            doubt = compare_composition(sites, orbits, group, formula, z)
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
    multiplicities = None if block.column(MAGNETIC_OPERATIONS) else block.column(*MULTIPLICITIES)
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
    magnetic = block.column(MAGNETIC_OPERATIONS)
    if magnetic:
        return [_fitting(_magnetic(magnetic, block.column(MAGNETIC_CENTRINGS)), cell)]
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
