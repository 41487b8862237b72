"""Comparisons for tests of workers. Imports nothing heavy, because workers import it."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

HANGS, DIES, RAISES = 2, 10, 18
"""Atomic numbers of the crystals with which the comparison below misbehaves."""


def misbehave(first: Any, second: Any, ltol: float, stol: float, angle_tol: float) -> float | None:
    """Number of atoms of the first crystal as RMSE, unless its first element says otherwise."""
    match int(first.species[0]):
        case element if element == HANGS:
            time.sleep(3600)
        case element if element == DIES:
            os._exit(7)
        case element if element == RAISES:
            raise ArithmeticError("no such lattice")
    return float(len(first.species))


def die_once(marker: str) -> str:
    """Ends its process when called for the first time, answers the second time."""
    if not Path(marker).exists():
        Path(marker).touch()
        os._exit(9)
    return "answer"
