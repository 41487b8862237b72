"""The cells that a run samples, where they are not those of its training crystals."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterable

from omatg_ray.crystal.formula import MAX_ATOMS_PER_CELL, cell_species, parse_formula, read_formulas
from omatg_ray.crystal.random_formulas import random_formulas
from omatg_ray.crystal.settings import CompositionSettings, RandomFormulas
from omatg_ray.errors import ConfigError, FormulaError


def asked_cells(asked: CompositionSettings, seed: int) -> list[list[int]]:
    """Return the atomic numbers of every cell: each formula with each number of formula units, none twice.

    Args:
        asked: Formulas, a file of them, or how to draw some.
        seed: Seed of the run, for what is drawn.

    Raises:
        ConfigError: No formula can be drawn, or a formula cannot be parsed or makes too large a cell.
        DataError: The file cannot be read.
    """
    formulas = list(asked.formulas)
    try:
        if asked.formulas_from is not None:
            formulas += read_formulas(asked.formulas_from)
        cells = [cell_species(formula, z) for formula in formulas for z in asked.z]
    except FormulaError as error:
        raise ConfigError(f"compositions: {error}") from error
    if asked.random is not None:
        cells += _drawn(asked.random, asked.z, seed)
    return _distinct(cells)


def digest(cells: list[list[int]]) -> str:
    """Return a short hash of cells, by which a resumed run knows them again."""
    return hashlib.sha256(json.dumps(cells).encode()).hexdigest()[:16]


def _drawn(settings: RandomFormulas, units: list[int], seed: int) -> list[list[int]]:
    """Return cells of random formulas, which no number of formula units makes larger than asked for."""
    for element in settings.elements:
        try:
            known = parse_formula(element) == {element: 1}
        except FormulaError:
            known = False
        if not known:
            raise ConfigError(
                f"compositions.random.elements: {element!r} is not the symbol of an element; write [Li, Fe, O]"
            )
    most = min(settings.atoms, MAX_ATOMS_PER_CELL)
    formulas = random_formulas(settings.elements, settings.kinds, most // max(units), settings.count, seed)
    if not formulas:
        raise ConfigError(
            f"compositions.random: no neutral or metallic formula of {', '.join(settings.elements)} has at most "
            f"{most // max(units)} atoms; name more elements, or raise compositions.random.atoms"
        )
    if len(formulas) < settings.count:
        warnings.warn(
            f"compositions.random: {len(formulas)} of {settings.count} formulas found; name more elements, or raise "
            "compositions.random.atoms",
            stacklevel=3,
        )
    texts = ["".join(f"{symbol}{n}" for symbol, n in formula.items()) for formula in formulas]
    return [cell_species(text, z) for text in texts for z in units]


def _distinct(cells: Iterable[list[int]]) -> list[list[int]]:
    """Return the cells without those that have the atoms of an earlier one."""
    found: dict[tuple[int, ...], list[int]] = {}
    for cell in cells:
        found.setdefault(tuple(sorted(cell)), cell)
    return list(found.values())
