"""The convex hull of reference entries, and the reward of a small energy above it."""

from __future__ import annotations

import csv
import hashlib
import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.crystal.text import read_text
from omatg_ray.errors import DataError, OmatgRayError, RewardError
from omatg_ray.reward.energy import MatGLEnergy, squeezed
from omatg_ray.reward.matching import Composition, compositions
from omatg_ray.reward.protocol import Reward, RewardResult, pass_on
from omatg_ray.reward.repulsion import ONSET, STRENGTH
from omatg_ray.run.atomic import write_json

if TYPE_CHECKING:
    from pymatgen.analysis.phase_diagram import PhaseDiagram
    from pymatgen.core import Composition as Formula


@dataclass(frozen=True)
class Entry:
    """A reference.

    Attributes:
        composition: (atomic number, amount) pairs, sorted.
        energy_per_atom: In eV.
    """

    composition: tuple[tuple[int, float], ...]
    energy_per_atom: float


class Hull:
    """The lower convex hull of the energies of formation of entries, by pymatgen's `PhaseDiagram`.

    One diagram is made per chemical system, when it is first asked for, of all entries within it.

    Args:
        entries: References, whose energies are of one potential.
    """

    def __init__(self, entries: Iterable[Entry]) -> None:
        self._of_system: dict[frozenset[int], list[Entry]] = defaultdict(list)
        for entry in entries:
            self._of_system[frozenset(z for z, _ in entry.composition)].append(entry)
        self._diagram: dict[frozenset[int], PhaseDiagram] = {}
        self._known: dict[Composition, float] = {}

    @property
    def elements(self) -> frozenset[int]:
        """Atomic numbers of the elements that have an entry of their own."""
        return frozenset(z for system in self._of_system if len(system) == 1 for z in system)

    def require_elements(self, elements: Iterable[int]) -> None:
        """Refuse elements that have no entry of their own: without, nothing bounds the hull there.

        Raises:
            RewardError: Names them.
        """
        from pymatgen.core import Element

        if missing := sorted(set(elements) - self.elements):
            symbols = ", ".join(Element.from_Z(z).symbol for z in missing)
            raise RewardError(
                f"reward hull: the references hold no elemental crystal of {symbols}; add one of each to "
                "reward.hull.entries or reward.hull.crystals, with an energy of the same potential"
            )

    def energy_per_atom(self, composition: Composition) -> float:
        """Energy of the hull at a reduced composition, in eV/atom.

        Raises:
            RewardError: As `require_elements`.
        """
        if composition not in self._known:
            system = frozenset(z for z, _ in composition)
            if system not in self._diagram:
                self._diagram[system] = self._made(system)
            self._known[composition] = float(self._diagram[system].get_hull_energy_per_atom(_formula(composition)))
        return self._known[composition]

    def _made(self, system: frozenset[int]) -> PhaseDiagram:
        from pymatgen.analysis.phase_diagram import PDEntry, PhaseDiagram

        self.require_elements(system)
        inside = [frozenset(part) for n in range(1, len(system) + 1) for part in combinations(sorted(system), n)]
        entries = []
        for entry in (entry for part in inside for entry in self._of_system.get(part, [])):
            formula = _formula(entry.composition)
            entries.append(PDEntry(formula, entry.energy_per_atom * formula.num_atoms))
        return PhaseDiagram(entries)


def _formula(pairs: Iterable[tuple[int, float]]) -> Formula:
    from pymatgen.core import Composition, Element

    return Composition({Element.from_Z(z): amount for z, amount in pairs})


class EnergyAboveHull:
    """Minus the energy above the hull in eV/atom.

    It is negative for a crystal below all references, which is rewarded. An invalid structure gets -`invalid_energy`,
    a valid one is squeezed below it as the energy reward is (`squeezed`).

    Args:
        energy: Gives the values `energy_per_atom` and `valid` of `MatGLEnergy`.
        hull: Of energies of the same potential.
        invalid_energy: eV/atom above the hull that an invalid structure counts.
    """

    name = "hull"

    def __init__(self, energy: Reward, hull: Hull, invalid_energy: float = 3.0) -> None:
        self._energy, self.hull, self.invalid_energy = energy, hull, invalid_energy

    @property
    def elements(self) -> frozenset[int] | None:
        """Those of the energy that have a reference."""
        known = self._energy.elements
        return self.hull.elements if known is None else known & self.hull.elements

    def __call__(self, crystals: CrystalBatch) -> RewardResult:
        """Rewards of B structures, with the value above_hull in eV/atom: not squeezed, NaN where invalid or failed.

        Raises:
            RewardError: An element has no reference.
        """
        found = self._energy(crystals).values
        hull = [self.hull.energy_per_atom(key) for key in compositions(crystals)]
        above = found["energy_per_atom"] - torch.tensor(hull, dtype=torch.float64)
        reward = -torch.where(found["valid"] == 1.0, squeezed(above, self.invalid_energy), self.invalid_energy)
        return RewardResult(reward, {"above_hull": above})

    def to(self, device: object) -> EnergyAboveHull:
        """Its energy moved to a device."""
        pass_on(self._energy, "to", device)
        return self


def read_entries(path: Path) -> list[Entry]:
    """Entries of a file.

    - JSON: a list (or `{"entries": list}`) of what pymatgen's `ComputedEntry`, `ComputedStructureEntry` or `PDEntry`
      write: `composition` (amounts by symbol), `energy` and perhaps `correction` in eV of that composition, or the
      `energy_adjustments` that add up to it. No class is built from the file.
    - CSV: the columns `formula` and `energy_per_atom`.

    Raises:
        DataError: The file cannot be read or lacks something; names the entry.
    """
    if path.suffix not in (".json", ".csv"):
        raise DataError(f"{path}: entries come as .json (pymatgen's) or .csv (formula, energy_per_atom)")
    text = read_text(path)
    try:
        rows: Any = json.loads(text) if path.suffix == ".json" else list(csv.DictReader(text.splitlines()))
    except ValueError as error:
        raise DataError(f"cannot read the entries {path}: {error}") from error
    if isinstance(rows, dict):
        rows = rows.get("entries")
    if not isinstance(rows, list) or not rows:
        raise DataError(f"{path} holds no list of entries")
    parse = _pymatgen_entry if path.suffix == ".json" else _row_entry
    entries = []
    for number, row in enumerate(rows, start=1):
        try:
            entry = parse(row)
            if not math.isfinite(entry.energy_per_atom):
                raise ValueError("it needs a finite energy")
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(f"{path}, entry {number}: {type(error).__name__}: {error}") from error
        entries.append(entry)
    return entries


def _pymatgen_entry(row: Mapping[str, Any]) -> Entry:
    from pymatgen.core import Element

    amounts = {Element(symbol).Z: float(n) for symbol, n in row["composition"].items() if float(n) > 0}
    pairs = _pairs(amounts)
    correction = row.get("correction")
    if correction is None:
        correction = sum(map(_adjustment, row.get("energy_adjustments") or []))
    return Entry(pairs, (float(row["energy"]) + float(correction)) / sum(amounts.values()))


def _adjustment(adjustment: Mapping[str, Any]) -> float:
    """An energy adjustment of pymatgen in eV: as it is, by atom, or by atom and kelvin.

    Raises:
        ValueError: It is of another kind.
    """
    if "value" in adjustment:
        return float(adjustment["value"])
    if "adj_per_atom" in adjustment:
        return float(adjustment["adj_per_atom"]) * float(adjustment["n_atoms"])
    if "adj_per_deg" in adjustment:
        return float(adjustment["adj_per_deg"]) * float(adjustment["temp"]) * float(adjustment["n_atoms"])
    raise ValueError(f"the energy adjustment {adjustment.get('name')!r} has no value that is known")


def _row_entry(row: Mapping[str, str]) -> Entry:
    from pymatgen.core import Composition as Formula

    amounts = {element.Z: float(n) for element, n in Formula(row["formula"]).items()}
    return Entry(_pairs(amounts), float(row["energy_per_atom"]))


def _pairs(amounts: Mapping[int, float]) -> tuple[tuple[int, float], ...]:
    if not amounts:
        raise ValueError("its composition is empty")
    return tuple(sorted(amounts.items()))


def entries_of(crystals: CrystalBatch, energy: MatGLEnergy, cache: Path | None = None) -> list[Entry]:
    """Entries with energies of a potential; invalid crystals, and those without an energy, give none.

    Args:
        crystals: References.
        energy: Their energies, relaxed if it relaxes.
        cache: Folder of energies computed earlier; they are found by the weights of the potential, the crystals
            and the steps of relaxation.
    """
    keys = compositions(crystals)
    energies = _cached(crystals, energy, cache)
    return [Entry(key, value) for key, value in zip(keys, energies, strict=True) if value is not None]


def _cached(crystals: CrystalBatch, energy: MatGLEnergy, cache: Path | None) -> list[float | None]:
    digest = hashlib.sha256(f"{energy.potential.fingerprint} {energy.repulsion} {ONSET} {STRENGTH}".encode())
    if energy.relax_steps:
        digest.update(f"relaxed {energy.relax_steps}".encode())
    for tensor in (crystals.n_atoms, crystals.species, crystals.pos.double(), crystals.cell.double()):
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    file = None if cache is None else cache / f"energies_{digest.hexdigest()[:24]}.json"
    if file is not None:
        try:
            known = json.loads(file.read_text())
        except (OSError, ValueError):
            known = None
        if isinstance(known, list) and len(known) == len(crystals):
            return known
    found = energy(crystals).values["energy_per_atom"].tolist()
    energies = [value if math.isfinite(value) else None for value in found]
    if file is not None:
        # Where it cannot be written, the next run computes them again.
        with suppress(OSError, OmatgRayError):
            write_json(file, energies)
    return energies
