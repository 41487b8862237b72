"""Symmetry that a CIF block declares: its operations, or the groups that its names may mean."""

from __future__ import annotations

import re

import gemmi
import numpy as np
from numpy.typing import NDArray

from omatg_ray.crystal import symmetry
from omatg_ray.crystal.cif_block import Block, number, value_or_none
from omatg_ray.crystal.composition import Site
from omatg_ray.crystal.symmetry import IDENTITY, SAME_ATOM, Operations, distances, parse_operations
from omatg_ray.errors import DataError

FloatArray = NDArray[np.float64]

SYMBOLS = ("_space_group_name_h-m_alt", "_symmetry_space_group_name_h-m", "_space_group_name_h-m_full",
           "_symmetry_space_group_name_h-m_full", "_space_group_name_h-m_ref", "_space_group_name_h-m",
           "_symmetry_space_group_name_h-m_alt")  # fmt: skip
HALLS = ("_space_group_name_hall", "_symmetry_space_group_name_hall")
NUMBERS = ("_space_group_it_number", "_symmetry_int_tables_number", "_space_group_it_num")
OPERATIONS = ("_space_group_symop_operation_xyz", "_symmetry_equiv_pos_as_xyz")
MAGNETIC_OPERATIONS = "_space_group_symop_magn_operation_xyz"
MAGNETIC_CENTRINGS = "_space_group_symop_magn_centering_xyz"
# Items that may declare a symmetry, and values that declare none.
SYMMETRY = re.compile(r"_(symmetry|space_group)(?!.*(_id|_description|transform\w*|_multiplicity|_sg_symbol)$)")
NO_SYMMETRY = re.compile(r"(?i)p1(11)?|c1(\^1)?|1|triclinic|anorthic|x,y,z(,\+1)?")
GROUPS = 230


def groups_of(block: Block, sites: list[Site], cell: FloatArray) -> list[Operations]:
    """Return the groups of operations that may repeat the sites; more than one if the file leaves that open.

    Args:
        block: The block that declares them.
        sites: The listed atoms.
        cell: Lattice (3, 3) in Å.

    Raises:
        DataError: Operations and names contradict each other or the cell, or none of them is understood.
    """
    if block.text("_space_group_ssg_name", "_space_group_ssg_name_wjj", "_space_group_ssg_it_number"):
        raise DataError("it is incommensurate (it names a superspace group), not a crystal of one cell")
    magnetic = block.column(MAGNETIC_OPERATIONS)
    if magnetic:
        return [_require_fit(_magnetic(magnetic, block.column(MAGNETIC_CENTRINGS)), cell)]
    texts = [text for text in map(value_or_none, block.column(*OPERATIONS)) if text is not None]
    listed = parse_operations(tuple(texts)) if texts else None
    symbols = [text for name in SYMBOLS if (text := block.text(name)) is not None]
    hall, number_text = block.text(*HALLS), block.text(*NUMBERS)
    declared = _one_number(symbols, hall, number_text)
    if listed is not None and len(listed) > 1:
        _require_fit(listed, cell)
        if declared is not None:
            _compare_with_declared(listed, declared, symbols, sites, cell)
        return [listed]
    if declared == 1:
        return [IDENTITY]
    if not (symbols or hall or number_text):
        _refuse_unknown(block)
    try:
        named = symmetry.named_groups(symbols, hall, declared, cell)
    except DataError:
        # A whole primitive cell may be listed under the name of a centred group; the formula decides.
        if listed is None or block.text("_cell_formula_units_z") is None:
            raise
        named = []
    named = [IDENTITY if _closed(sites, setting, cell) else setting for setting in named]
    if not named or (listed is not None and IDENTITY not in named):
        named.append(IDENTITY)
    return list(dict.fromkeys(named))


def _one_number(symbols: list[str], hall: str | None, number_text: str | None) -> int | None:
    """Return the International Tables number that symbols, Hall symbol and number agree on; None if none is known."""
    numbers = {symbol: symmetry.symbol_number(symbol) for symbol in symbols}
    if hall is not None:
        numbers[hall] = symmetry.hall_number(hall)
    if number_text is not None:
        numbers[f"number {number_text}"] = int(number(number_text, "its space group number"))
    sure = {name: n for name, n in numbers.items() if n is not None and 1 <= n <= GROUPS}
    if len(set(sure.values())) > 1:
        names = (name if name.startswith("number") else f"{name} (number {n})" for name, n in sure.items())
        raise DataError(f"it names more than one space group: {', '.join(names)}")
    return next(iter(sure.values()), None)


def _compare_with_declared(
    listed: Operations, declared: int, symbols: list[str], sites: list[Site], cell: FloatArray
) -> None:
    """Check that as many operations are listed as the named space group has.

    Raises:
        DataError: There are more or fewer rotations, or fewer lattice points; the latter is allowed if the sites are
            those of the whole cell.
    """
    name = symbols[0] if symbols else f"number {declared}"
    settings = symmetry.settings_of(symbols, declared)
    ours, theirs = len(listed) // listed.centrings, len(settings[0]) // settings[0].centrings
    if ours != theirs:
        raise DataError(
            f"it lists {ours} symmetry operations apart from translations, but its space group ({name}) has {theirs}"
        )
    same_axes = [setting for setting in settings if setting.rotation_set == listed.rotation_set]
    lacking = same_axes and all(listed.centrings < setting.centrings for setting in same_axes)
    if lacking and not any(_closed_under_centrings(sites, setting, cell) for setting in same_axes):
        raise DataError(
            f"its symmetry operations lack the centring translations of its space group ({name}): it lists "
            f"{len(listed)} of {len(same_axes[0])}"
        )


def _refuse_unknown(block: Block) -> None:
    """Refuse items that declare a symmetry in a way that is not understood.

    Raises:
        DataError: There is one; the message names it.
    """
    for name, values in block.columns.items():
        value = next((text for text in map(value_or_none, values) if text is not None), None)
        understood = name in OPERATIONS or value is None or NO_SYMMETRY.fullmatch(value.replace(" ", ""))
        if SYMMETRY.match(name) and not understood:
            raise DataError(
                f"its {name} is {value!r}, not a known space group or operation: name the group in "
                "_space_group_name_H-M_alt, or P 1 if all atoms are listed"
            )


def _require_fit(group: Operations, cell: FloatArray) -> Operations:
    if not group.fit(cell):
        raise DataError("its symmetry operations do not fit its cell: they would change lengths or angles")
    return group


def _magnetic(operations: list[str], centrings: list[str]) -> Operations:
    """Return the action of a magnetic group on positions. Time reversal, the fourth entry, does not move atoms."""

    def spatial(texts: list[str]) -> list[gemmi.Op]:
        return [gemmi.Op(",".join((value_or_none(text) or "").split(",")[:3])) for text in texts]

    try:
        products = [shift * op for shift in spatial(centrings or ["x,y,z"]) for op in spatial(operations)]
    except (RuntimeError, ValueError) as error:
        raise DataError(f"its magnetic symmetry operations cannot be read: {error}") from error
    return parse_operations(tuple(op.triplet() for op in products))


def _closed_under_centrings(sites: list[Site], group: Operations, cell: FloatArray) -> bool:
    """Return whether the lattice translations of a centred cell only permute the sites."""
    shifts = (group.rotations == np.eye(3)).all((1, 2))
    return _closed(sites, Operations(group.rotations[shifts], group.translations[shifts]), cell)


def _closed(sites: list[Site], group: Operations, cell: FloatArray) -> bool:
    """Return whether a group only permutes the sites, so that they are the whole cell, not its asymmetric unit."""
    frac = np.stack([site.frac for site in sites])
    elements = np.array([site.z for site in sites])
    for site in sites:
        images = group.rotations @ site.frac + group.translations
        if (distances(images[:, None], frac[elements == site.z], cell).min(1) > SAME_ATOM).any():
            return False
    return True
