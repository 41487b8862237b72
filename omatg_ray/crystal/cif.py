"""Crystals from CIF: gemmi parses the syntax; this module interprets it, and refuses what it would have to guess.

Sources: the IUCr core dictionary (names, defaults of '.', meaning of each item), and files as programs and databases
write them. A crystal is accepted only if its sites, its symmetry and its stated composition agree.
"""

from __future__ import annotations

import re
from itertools import count

import gemmi
import numpy as np
import torch
from numpy.typing import NDArray

from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.crystal.cif_block import Block, number, value_or_none
from omatg_ray.crystal.cif_symmetry import MAGNETIC_OPERATIONS, groups_of
from omatg_ray.crystal.composition import HYDROGEN, Site, compare_composition, parse_formula_sum
from omatg_ray.crystal.formula import require_fitting_cell
from omatg_ray.crystal.row import Row
from omatg_ray.crystal.symmetry import IDENTITY, SAME_IMAGE, Operations, distances
from omatg_ray.crystal.validity import MIN_DISTANCE, shortest_distances
from omatg_ray.errors import DataError

FloatArray = NDArray[np.float64]

FULL_OCCUPANCY = 0.005
"""Largest deviation from 1 of the occupancy of a full site."""

FORMULAS = ("_chemical_formula_sum", "_chemical_formula_iupac", "_chemical_formula_structural",
            "_chemical_formula_moiety")  # fmt: skip
MULTIPLICITIES = ("_atom_site_symmetry_multiplicity", "_atom_site_site_symmetry_multiplicity",
                  "_atom_site_site_symmetry_order")  # fmt: skip

# 'Na', 'Na1+', 'O-2', 'Fe3', 'Zn(2+)', 'Sival': an element, then a charge, a number or 'val' of scattering tables.
TYPE_SYMBOL = re.compile(r"([A-Za-z]{1,2}?)(?:val)?[^A-Za-z]*")


def row_of_block(block: Block, ident: str) -> Row:
    """Return the crystal of a data block, in standard orientation, with the properties that `write_structures` stored.

    If a file names a space group but lists no operations, every setting that the name may mean is tried, and the stated
    composition decides.

    Raises:
        DataError: Something is missing, disordered or not understood, or parts of the file contradict each other.
    """
    if block.twice:
        raise DataError(f"{block.twice[0]} appears twice, with different values")
    cell = _cell(block)
    formula, unread = _formula(block)
    sites = _sites(block, formula)
    require_fitting_cell(len(sites))
    z = block.number("_cell_formula_units_z") or None
    groups = groups_of(block, sites, cell)
    if len(groups) > 1 and IDENTITY in groups and not (formula and z):
        raise _ambiguous(groups)  # the whole cell or its asymmetric unit? no stated composition decides
    candidates, reasons = [], []
    for group in groups:
        try:
            orbits = _orbits(sites, group, cell)
            doubt = compare_composition(sites, orbits, group, formula, z)
            numbers = [site.z for site, orbit in zip(sites, orbits, strict=True) for _ in orbit]
            candidates.append((numbers, np.concatenate(orbits), doubt, group))
        except DataError as error:
            reasons.append(str(error))
    candidates = [candidate for candidate in candidates if candidate[2] is None] or candidates
    if len(candidates) > 1:
        apart = [candidate for candidate in candidates if _shortest(candidate[0], candidate[1], cell) >= MIN_DISTANCE]
        candidates = apart or candidates
    if not candidates:
        raise DataError("; or ".join(dict.fromkeys(reasons)))
    if len(candidates) > 1:
        raise _ambiguous([group for *_, group in candidates])
    numbers, frac, doubt, _ = candidates[0]
    return Row(ident, numbers, cell, frac, block.properties, doubt or unread)


def _ambiguous(groups: list[Operations]) -> DataError:
    names = ", ".join(group.name or "the identity alone" for group in groups)
    return DataError(
        f"its space group leaves the number and positions of its atoms open ({names}): list the symmetry operations"
    )


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
    # gemmi, too, puts a along x and b in the xy plane.
    return np.array(gemmi.UnitCell(*values).orth.mat.tolist()).T


def _formula(block: Block) -> tuple[dict[int, float], str | None]:
    """Return the stated composition, and a note if it cannot be read."""
    texts = [text for name in FORMULAS if (text := block.text(name)) is not None]
    formula = next(filter(None, map(parse_formula_sum, texts)), {})
    return formula, f"its formula {texts[0]!r} cannot be read" if texts and not formula else None


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
    groups = {
        value for value in block.columns.get("_atom_site_disorder_group", []) if value_or_none(value) not in (None, "0")
    }
    # Multiplicities of magnetic structures refer to another cell.
    multiplicities = None if block.column(MAGNETIC_OPERATIONS) else block.column(*MULTIPLICITIES)
    dummies = block.columns.get("_atom_site_calc_flag", [])
    columns = [*axes, labels, types, occupancies, hydrogens, multiplicities, dummies]
    if any(column and len(column) != len(names) for column in columns):
        raise DataError("its sites are inconsistent: their columns (_atom_site_...) are in loops of different length")
    sites = []
    for index, name in enumerate(names):
        label = value_or_none(name) or "unnamed"
        where = f"site {index + 1} ({label})"
        type_symbol = None if types is None else value_or_none(types[index])
        element = _element(type_symbol, None if labels is None else value_or_none(name), formula)
        if element is None:
            what = f"type symbol {type_symbol!r}" if type_symbol else f"label {label!r}"
            raise DataError(f"{where} is not an atom: its {what} names no chemical element")
        if dummies and value_or_none(dummies[index]) == "dum":
            raise DataError(f"{where} is a dummy, not an atom (_atom_site_calc_flag dum): leave it out")
        frac = np.zeros(3)
        for axis, column in enumerate(axes):
            text = value_or_none(column[index]) if column else None
            if text is None:
                raise DataError(f"{where} has no coordinate {'xyz'[axis]}")
            frac[axis] = number(text, f"the coordinate {'xyz'[axis]} of {where}")
        text = value_or_none(occupancies[index]) if occupancies else None
        occupancy = 1.0 if text is None else number(text, f"the occupancy of {where}")
        if abs(occupancy - 1) > FULL_OCCUPANCY:
            raise DataError(f"{where} is disordered (occupancy {occupancy:g}); only fully occupied sites can be used")
        text = value_or_none(hydrogens[index]) if hydrogens else None
        if text is not None and number(text, f"the attached hydrogens of {where}") != 0:
            raise DataError(f"{where} has {text} attached hydrogens without positions: the crystal is incomplete")
        text = value_or_none(multiplicities[index]) if multiplicities else None
        multiplicity = int(text) if text is not None and text.isdecimal() else None
        sites.append(Site(label, element, frac, multiplicity))
    if len(groups) > 1 or any(value.startswith("-") for value in groups):
        raise DataError(
            f"it has alternatives of disorder (_atom_site_disorder_group {', '.join(sorted(groups))}), all fully "
            "occupied; keep one of them"
        )
    return sites


def _element(type_symbol: str | None, label: str | None, formula: dict[int, float]) -> int | None:
    """Return the atomic number of a site, or None if it is uncertain. D is hydrogen.

    A label without a type symbol may start with an element ('Na1', 'O12A'), or stand for a group ('OH', 'Wat'), a kind
    of site ('T1', 'M2') or an element and its position ('CO1' is a carbon on oxygen, or cobalt). The formula decides.
    Without one, only a label whose letters are exactly an element is accepted.
    """
    if type_symbol is not None:
        match = TYPE_SYMBOL.fullmatch(type_symbol)
        z = _atomic_number(match[1]) if match else None
        # 'CO' may be cobalt, or carbon and oxygen; 'Co' is cobalt.
        ambiguous = match is not None and match[1] != match[1].capitalize() and bool(formula) and z not in formula
        return None if ambiguous else z
    letters = re.match(r"[A-Za-z]*", label or "")
    assert letters is not None
    text = letters[0]
    pair, single = _atomic_number(text[:2]) if len(text) > 1 else None, _atomic_number(text[:1])
    if not formula:
        exact = {text[:2].capitalize(): pair, text[:1].upper(): single}
        return exact.get(text)
    pair, single = (z if z in formula else None for z in (pair, single))
    if pair is not None and single is not None and text[:2] != text[:2].capitalize():
        return None
    return pair if pair is not None else single


def _atomic_number(symbol: str) -> int | None:
    symbol = symbol.capitalize()
    return HYDROGEN if symbol == "D" else gemmi.Element(symbol).atomic_number or None


# --- atoms ----------------------------------------------------------------------------------------------------------


def _orbits(sites: list[Site], group: Operations, cell: FloatArray) -> list[FloatArray]:
    """Return the atoms (n, 3) of every site; none for a site that symmetry makes of an earlier site of its element.

    Raises:
        DataError: There are more than `MAX_ATOMS_PER_CELL`, or images of a site are neither apart nor together.
    """
    if group is IDENTITY:
        return [site.frac[None] for site in sites]
    orbits: list[FloatArray] = []
    before: dict[int, list[FloatArray]] = {}
    for index, site in zip(count(1), sites):
        try:
            orbit = group.orbit(site.frac, cell)
        except DataError as error:
            raise DataError(f"site {index} ({site.label}): {error}") from error
        earlier = before.setdefault(site.z, [])
        again = bool(earlier) and bool((distances(np.concatenate(earlier), orbit[0], cell) < SAME_IMAGE).any())
        orbits.append(orbit[:0] if again else orbit)
        earlier.append(orbits[-1])
        require_fitting_cell(sum(map(len, orbits)))
    return orbits


def _shortest(numbers: list[int], frac: FloatArray, cell: FloatArray) -> float:
    crystal = CrystalBatch(
        torch.tensor(numbers), torch.from_numpy(frac), torch.from_numpy(cell)[None], torch.tensor([len(numbers)])
    )
    return float(shortest_distances(crystal))
