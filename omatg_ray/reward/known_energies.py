"""Checks that a potential gives its known energies, made before it rewards anything."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.errors import DataError, PotentialError

if TYPE_CHECKING:
    from omatg_ray.reward.potential import Potential


KNOWN_ENERGIES = "known_energies.json"
# Cells in units of the cubic lattice constant, and fractional positions.
CUBIC_CELLS = {
    "rocksalt": ([[0.0, 0.5, 0.5], [0.5, 0.0, 0.5], [0.5, 0.5, 0.0]], [[0.0, 0.0, 0.0], [0.5, 0.5, 0.5]]),
    "diamond": ([[0.0, 0.5, 0.5], [0.5, 0.0, 0.5], [0.5, 0.5, 0.0]], [[0.0, 0.0, 0.0], [0.25, 0.25, 0.25]]),
    "fcc": ([[0.0, 0.5, 0.5], [0.5, 0.0, 0.5], [0.5, 0.5, 0.0]], [[0.0, 0.0, 0.0]]),
    "bcc": ([[-0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0.5, 0.5, -0.5]], [[0.0, 0.0, 0.0]]),
}
# Stable crystals with their measured lattice constants in Å; a potential is checked on the first one it knows.
TEST_CRYSTALS = (
    (("Na", "Cl"), "rocksalt", 5.64),
    (("Mg", "O"), "rocksalt", 4.21),
    (("Li", "F"), "rocksalt", 4.03),
    (("Ti", "N"), "rocksalt", 4.24),
    (("C", "C"), "diamond", 3.57),
    (("Si", "Si"), "diamond", 5.43),
    (("Ge", "Ge"), "diamond", 5.66),
    (("Al",), "fcc", 4.05),
    (("Cu",), "fcc", 3.61),
    (("Ni",), "fcc", 3.52),
    (("Pt",), "fcc", 3.92),
    (("Fe",), "bcc", 2.87),
    (("Mo",), "bcc", 3.15),
    (("W",), "bcc", 3.16),
    (("Na",), "bcc", 4.29),
    (("Li",), "bcc", 3.51),
)


def check_known_energies(potential: Potential, file: Path) -> None:
    """Compare energies with those in a file.

    Raises:
        PotentialError: An energy differs by more than its tolerance or cannot be computed, or the file cannot be read.
    """
    try:
        entries = json.loads(file.read_text(encoding="utf-8"))
        cases = [
            (
                _crystal(entry["structure"]["species"], entry["structure"]["pos"], entry["structure"]["cell"]),
                float(entry["energy_per_atom"]),
                float(entry["tolerance"]),
            )
            for entry in entries
        ]
    except (OSError, ValueError, KeyError, TypeError, DataError) as error:
        raise PotentialError(f"{file} cannot be read: {type(error).__name__}: {error}") from error
    for index, (crystal, expected, tolerance) in enumerate(cases):
        got = float(_energies_per_atom(potential, crystal)[0])
        # Written so that NaN fails.
        if not abs(got - expected) <= tolerance:
            raise PotentialError(
                f"potential {potential.name} fails known energy {index} ({crystal.formulas()[0]}) of {file}: "
                f"expected {expected:.4f} ± {tolerance:g} eV/atom, got {got:.4f}. Its weights are damaged, or do not "
                f"fit the installed MatGL"
            )


def check_energy_volume_curve(potential: Potential) -> None:
    """Check that the energy of a well-known crystal has its minimum near the known lattice constant.

    Warn if it has not, or if the potential knows none of these crystals.

    Raises:
        PotentialError: The energies cannot be computed.
    """
    from pymatgen.core import Element

    known = (test for test in TEST_CRYSTALS if all(Element(symbol).Z in potential.elements for symbol in test[0]))
    test = next(known, None)
    if test is None:
        warnings.warn(
            f"potential {potential.name} knows none of the crystals that it could be checked on; put a "
            f"{KNOWN_ENERGIES} next to its weights",
            stacklevel=3,
        )
        return
    symbols, kind, constant = test
    cell, pos = CUBIC_CELLS[kind]
    constants = constant * torch.linspace(0.85, 1.25, 9, dtype=torch.float64)
    crystals = CrystalBatch.cat(_crystal(symbols, pos, a * torch.tensor(cell, dtype=torch.float64)) for a in constants)
    energies = _energies_per_atom(potential, crystals)
    lowest = int(energies.argmin())
    if not energies.isfinite().all() or lowest in (0, len(constants) - 1):
        curve = ", ".join(f"{a:.2f} Å {energy:.3f}" for a, energy in zip(constants, energies, strict=True))
        warnings.warn(
            f"potential {potential.name} gives {kind} {''.join(dict.fromkeys(symbols))} no energy minimum near its "
            f"lattice constant of {constant} Å (eV/atom: {curve}); its weights may not fit the installed MatGL",
            stacklevel=3,
        )


def _crystal(species: Iterable[str], pos: Any, cell: Any) -> CrystalBatch:
    from pymatgen.core import Element

    numbers = torch.tensor([Element(symbol).Z for symbol in species])
    pos, cell = (torch.as_tensor(values, dtype=torch.float64) for values in (pos, cell))
    return CrystalBatch(numbers, pos, cell[None], torch.tensor([len(numbers)]))


def _energies_per_atom(potential: Potential, crystals: CrystalBatch) -> Tensor:
    try:
        # Known energies are those of MatGL, without the repulsion.
        return potential.energies(crystals, repulsion=False) / crystals.n_atoms
    except PotentialError:
        raise
    except Exception as error:  # an architecture may need inputs that plain energies do not have
        reason = f"{type(error).__name__}: {error}"
        raise PotentialError(f"potential {potential.name} cannot evaluate a simple crystal ({reason})") from error
