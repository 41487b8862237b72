"""Convex hull of reference entries, and the reward for a small energy above it."""

from __future__ import annotations

import csv
import hashlib
import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from omatg_ray.crystal.batch import CrystalBatch
from omatg_ray.crystal.text import read_text
from omatg_ray.errors import DataError, OmatgRayError, RewardError
from omatg_ray.reward.energy import MatGLEnergy, squeeze, squeeze_slope
from omatg_ray.reward.matching import Composition, compositions
from omatg_ray.reward.protocol import REWARD, Reward, RewardResult, has_gradient, pass_on
from omatg_ray.reward.repulsion import ONSET, STRENGTH
from omatg_ray.run.atomic import write_json

if TYPE_CHECKING:
    from pymatgen.analysis.phase_diagram import PhaseDiagram
    from pymatgen.core import Composition as Formula


Amounts = tuple[tuple[int, float], ...]
"""(atomic number, amount) pairs, sorted."""
Entry = tuple[Amounts, float]
"""Reference entry: its composition, and its energy in eV per atom."""


class Hull:
    """Lower convex hull of the formation energies of entries, by pymatgen's `PhaseDiagram`.

    Each chemical system gets one diagram of all entries within it, built on first use.

    Args:
        entries: References, with energies of one potential.
    """

    def __init__(self, entries: Iterable[Entry]) -> None:
        self._of_system: dict[frozenset[int], list[Entry]] = defaultdict(list)
        for amounts, energy in entries:
            self._of_system[frozenset(z for z, _ in amounts)].append((amounts, energy))
        self._diagram: dict[frozenset[int], PhaseDiagram] = {}
        self._known: dict[Composition, float] = {}

    @property
    def elements(self) -> frozenset[int]:
        """Return the atomic numbers of the elements that have an entry of their own."""
        return frozenset(z for system in self._of_system if len(system) == 1 for z in system)

    def require_elements(self, elements: Iterable[int]) -> None:
        """Refuse elements that have no entry of their own, because nothing bounds the hull there.

        Raises:
            RewardError: Some elements have no entry; names them.
        """
        from pymatgen.core import Element

        if missing := sorted(set(elements) - self.elements):
            symbols = ", ".join(Element.from_Z(z).symbol for z in missing)
            raise RewardError(
                f"reward hull: the references contain no elemental crystal of {symbols}; add one of each to "
                "reward.hull.entries or reward.hull.crystals, with an energy of the same potential"
            )

    def energy_per_atom(self, composition: Composition) -> float:
        """Return the energy of the hull at a reduced composition, in eV/atom.

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
        for amounts, energy in (entry for part in inside for entry in self._of_system.get(part, [])):
            formula = _formula(amounts)
            entries.append(PDEntry(formula, energy * formula.num_atoms))
        return PhaseDiagram(entries)


def _formula(pairs: Iterable[tuple[int, float]]) -> Formula:
    from pymatgen.core import Composition, Element

    return Composition({Element.from_Z(z): amount for z, amount in pairs})


class EnergyAboveHull:
    """Minus the energy above the hull in eV/atom.

    A crystal below all references has a negative energy, which is rewarded. An invalid structure gets
    -`invalid_energy`. The energy of a valid one is squeezed below that, as in the energy reward (`squeeze`).

    Args:
        energy: Provides the values `energy_per_atom` and `valid` of `MatGLEnergy`.
        hull: Hull of energies of the same potential.
        invalid_energy: Energy above the hull of an invalid structure, in eV/atom.
    """

    name = "hull"

    def __init__(self, energy: Reward, hull: Hull, invalid_energy: float = 3.0) -> None:
        self._energy, self.hull, self.invalid_energy = energy, hull, invalid_energy
        self.elements = hull.elements if energy.elements is None else energy.elements & hull.elements

    def __call__(self, crystals: CrystalBatch) -> RewardResult:
        """Return the rewards of B structures, with the value above_hull in eV/atom.

        The value is not squeezed, and NaN where invalid or failed.

        Raises:
            RewardError: An element has no reference.
        """
        return self._score(crystals, self._energy(crystals))

    @property
    def has_gradient(self) -> bool:
        return has_gradient(self._energy)

    def with_gradient(self, crystals: CrystalBatch) -> RewardResult:
        """Return the same with the gradient of the reward: that of the energy, as the hull does not move."""
        energy = self._energy.with_gradient(crystals)  # type: ignore[attr-defined]
        result = self._score(crystals, energy)
        above = result.values["above_hull"]
        slope = squeeze_slope(above, self.invalid_energy).where(above.isfinite(), 0.0)
        return replace(result, gradients={REWARD: energy.gradients["energy_per_atom"].times(-slope, crystals.layout)})

    def _score(self, crystals: CrystalBatch, energy: RewardResult) -> RewardResult:
        hull = [self.hull.energy_per_atom(key) for key in compositions(crystals)]
        above = energy.values["energy_per_atom"] - torch.tensor(hull, dtype=torch.float64)
        valid = energy.values["valid"] == 1.0
        reward = -torch.where(valid, squeeze(above, self.invalid_energy), self.invalid_energy)
        return RewardResult(reward, {"above_hull": above})

    def to(self, device: object) -> EnergyAboveHull:
        """Move its energy to a device."""
        pass_on(self._energy, "to", device)
        return self


def read_entries(path: Path) -> list[Entry]:
    """Read the entries of a file.

    - JSON: a list (or `{"entries": list}`) of entries as pymatgen's `ComputedEntry`, `ComputedStructureEntry` or
      `PDEntry` write them: `composition` (amounts by symbol), `energy` and optionally `correction` in eV of that
      composition, or the `energy_adjustments` that add up to it. No class is built from the file.
    - CSV: the columns `formula` and `energy_per_atom`.

    Raises:
        DataError: The file cannot be read, or an entry is incomplete; names the entry.
    """
    if path.suffix not in (".json", ".csv"):
        raise DataError(f"{path}: entries must be .json (pymatgen's) or .csv (formula, energy_per_atom)")
    text = read_text(path)
    try:
        rows: Any = json.loads(text) if path.suffix == ".json" else list(csv.DictReader(text.splitlines()))
    except ValueError as error:
        raise DataError(f"cannot read the entries {path}: {error}") from error
    if isinstance(rows, dict):
        rows = rows.get("entries")
    if not isinstance(rows, list) or not rows:
        raise DataError(f"{path} contains no list of entries")
    parse = _pymatgen_entry if path.suffix == ".json" else _row_entry
    entries = []
    for number, row in enumerate(rows, start=1):
        try:
            amounts, energy = parse(row)
            if not math.isfinite(energy):
                raise ValueError("its energy must be finite")
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(f"{path}, entry {number}: {type(error).__name__}: {error}") from error
        entries.append((amounts, energy))
    return entries


def _pymatgen_entry(row: Mapping[str, Any]) -> Entry:
    from pymatgen.core import Element

    amounts = {Element(symbol).Z: float(n) for symbol, n in row["composition"].items() if float(n) > 0}
    pairs = _pairs(amounts)
    correction = row.get("correction")
    if correction is None:
        correction = sum(map(_adjustment, row.get("energy_adjustments") or []))
    return pairs, (float(row["energy"]) + float(correction)) / sum(amounts.values())


def _adjustment(adjustment: Mapping[str, Any]) -> float:
    """Return an energy adjustment of pymatgen in eV, given as a total, per atom, or per atom and kelvin.

    Raises:
        ValueError: It is of another kind.
    """
    if "value" in adjustment:
        return float(adjustment["value"])
    if "adj_per_atom" in adjustment:
        return float(adjustment["adj_per_atom"]) * float(adjustment["n_atoms"])
    if "adj_per_deg" in adjustment:
        return float(adjustment["adj_per_deg"]) * float(adjustment["temp"]) * float(adjustment["n_atoms"])
    raise ValueError(f"the energy adjustment {adjustment.get('name')!r} has no known value")


def _row_entry(row: Mapping[str, str]) -> Entry:
    from pymatgen.core import Composition as Formula

    amounts = {element.Z: float(n) for element, n in Formula(row["formula"]).items()}
    return _pairs(amounts), float(row["energy_per_atom"])


def _pairs(amounts: Mapping[int, float]) -> Amounts:
    if not amounts:
        raise ValueError("its composition is empty")
    return tuple(sorted(amounts.items()))


def entries_of(crystals: CrystalBatch, energy: MatGLEnergy, cache: Path | None = None) -> list[Entry]:
    """Return entries with energies of a potential; invalid crystals, and those without an energy, give none.

    Args:
        crystals: References.
        energy: Computes their energies, relaxed if it relaxes.
        cache: Folder of energies computed earlier. Their key is made of the weights of the potential, the crystals and
            the steps of relaxation.
    """
    keys = compositions(crystals)
    energies = _read_or_compute(crystals, energy, cache)
    return [(key, value) for key, value in zip(keys, energies, strict=True) if value is not None]


def _read_or_compute(crystals: CrystalBatch, energy: MatGLEnergy, cache: Path | None) -> list[float | None]:
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
    values = energy(crystals).values["energy_per_atom"].tolist()
    energies = [value if math.isfinite(value) else None for value in values]
    if file is not None:
        # If the file cannot be written, the next run computes the energies again.
        with suppress(OSError, OmatgRayError):
            write_json(file, energies)
    return energies
